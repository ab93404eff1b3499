//! What is to be sent, and when to come back.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::connection::{Ack, Broken, Connection, Reset, State, Timer};
use super::segment::{Blocks, Outgoing, Payload, SynOptions, Timestamps};
use super::seq::Seq;
use super::time::Time;

/// What a lone segment may have to wait for at the peer before it is acknowledged (TLP.max_ack_delay, RFC 8985 7.2).
const MAX_ACK_DELAY: Duration = Duration::from_millis(200);

/// The least that a tail loss probe waits, for timers are no finer (`TCP_TIMEOUT_MIN` of Linux).
const MIN_PROBE: Duration = Duration::from_millis(2);

/// Zero-window probes are no further apart than this.
const MAX_WINDOW_PROBE: Duration = Duration::from_secs(60);

impl<B: AsRef<[u8]>> Connection<B> {
    /// Gives `emit` all segments that are to be sent now, in their order.
    ///
    /// A segment that gets lost behind `emit` is sent again in time.
    pub fn transmit(&mut self, now: Time, mut emit: impl FnMut(&Outgoing<'_>)) {
        if let Some(reset) = self.reset.take() {
            self.send_reset(now, reset, &mut emit);
        }
        match self.state {
            State::Closed => return,
            State::SynSent | State::SynReceived => self.send_syn(now, &mut emit),
            // Closed before the handshake was over: the SYN-ACK is still the first to be acknowledged.
            State::FinWait1 if !self.syn_acknowledged => self.send_syn(now, &mut emit),
            State::TimeWait => {}
            _ => {
                self.send_lost(now, &mut emit);
                self.send_due(now, &mut emit);
                self.send_new(now, &mut emit);
            }
        }
        if self.keep_alive_due {
            self.keep_alive_due = false;
            // RFC 9293 3.8.4: SEG.SEQ = SND.NXT - 1, no data.
            let probe = self.header(now, self.nxt - 1, Flags::ACK);
            emit(&probe);
        }
        let ack_due = match self.ack {
            Ack::Now => true,
            Ack::Delayed(at) => at <= now,
            Ack::None => false,
        };
        if ack_due && self.is_synchronized() {
            let ack = self.header(now, self.nxt, Flags::ACK);
            emit(&ack);
        }
        self.set_timer(now);
    }

    /// When [`Connection::timeout`] is to be called, if nothing happens before.
    pub fn next_timeout(&self) -> Option<Time> {
        if self.state == State::Closed {
            return None;
        }
        if self.state == State::TimeWait {
            return Some(self.time_wait_until);
        }
        let ack = match self.ack {
            Ack::Delayed(at) => Some(at),
            _ => None,
        };
        let timer = self.timer.map(|(at, _)| at);
        [ack, timer, self.keep_alive_at()].into_iter().flatten().min()
    }

    /// Does what is due at `now`; [`Connection::transmit`] is to be called next. Harmless when nothing is due.
    pub fn timeout(&mut self, now: Time) {
        if self.state == State::TimeWait && self.time_wait_until <= now {
            return self.end(None);
        }
        if let Ack::Delayed(at) = self.ack
            && at <= now
        {
            self.ack = Ack::Now;
        }
        if let Some((at, timer)) = self.timer
            && at <= now
        {
            self.timer = None;
            self.timer_expired(now, timer);
        }
        if let Some(at) = self.keep_alive_at()
            && at <= now
        {
            self.keep_alive(now);
        }
    }

    fn timer_expired(&mut self, now: Time, timer: Timer) {
        match timer {
            Timer::Reordering => {
                let recovering = self.recovery.is_some();
                let (smoothed, min) = (self.smoothed_rtt(), self.rtt.min().unwrap_or_default());
                let again = self.board.detect_losses(now, self.mss.into(), recovering, smoothed, min);
                self.timer = again.map(|at| (at, Timer::Reordering));
                if self.board.lost() > 0 && !recovering {
                    self.recovery = Some(self.nxt);
                    self.reno.enter_recovery(self.nxt - self.una, self.mss.into());
                }
            }
            Timer::TailLossProbe => self.due = Some(Timer::TailLossProbe),
            Timer::Retransmission | Timer::ZeroWindowProbe => {
                let since = *self.stalled.get_or_insert(now);
                let patience = match self.state {
                    State::SynSent => self.config.give_up_syn,
                    _ => self.config.give_up,
                };
                if now.since(since) >= patience {
                    if self.is_synchronized() {
                        self.reset = Some(Reset { seq: self.nxt, ack: Some(self.rcv.nxt) });
                    }
                    return self.end(Some(Broken::TimedOut));
                }
                if timer == Timer::ZeroWindowProbe {
                    self.due = Some(timer);
                } else {
                    self.retransmission_timeout();
                }
                self.rtt.back_off();
            }
        }
    }

    /// RFC 6298 5 (5.4) to (5.7), RFC 5681 3.1.
    fn retransmission_timeout(&mut self) {
        let mss = u32::from(self.mss);
        let first = !self.timed_out;
        // The window was shut on data already sent: nothing was lost to congestion.
        if self.is_synchronized() && self.wnd > 0 {
            self.reno.on_timeout(self.nxt - self.una, mss, first);
        }
        // RFC 2018 8: after a time-out the peer may have dropped what it had said to have. The second one in a row is
        // reason to think so.
        self.board.all_is_lost(!first);
        self.recovery = Some(self.nxt);
        self.timed_out = true;
        self.probe = None;
        self.inflated = 0;
    }

    fn send_reset(&mut self, now: Time, reset: Reset, emit: &mut impl FnMut(&Outgoing<'_>)) {
        let flags = if reset.ack.is_some() { Flags::RST | Flags::ACK } else { Flags::RST };
        let segment =
            Outgoing { window: 0, ack: reset.ack.unwrap_or_default(), ..self.header(now, reset.seq, flags) };
        emit(&segment);
    }

    fn send_syn(&mut self, now: Time, emit: &mut impl FnMut(&Outgoing<'_>)) {
        let again = self.board.next_lost(1).is_some();
        if self.nxt != self.iss && !again {
            return;
        }
        let passive = self.state != State::SynSent;
        let flags = if passive { Flags::SYN | Flags::ACK } else { Flags::SYN };
        let mut segment = self.header(now, self.iss, flags);
        let scales = !passive || self.recv_shift > 0 || self.send_shift > 0;
        segment.syn = SynOptions {
            mss: Some(self.config.announced_mss(self.v6)),
            window_scale: scales.then_some(self.recv_shift),
            sack_permitted: self.sack_permitted,
        };
        segment.sack = Blocks::default();
        // RFC 7323 2.2: not scaled.
        segment.window = if passive {
            self.rcv.window().min(u16::MAX.into()) as u16
        } else {
            segment.ack = Seq(0);
            self.config.receive_limit.min(u16::MAX.into()) as u16
        };
        emit(&segment);
        if again {
            self.board.sent_again(now, self.iss, self.iss + 1);
        } else {
            self.nxt = self.iss + 1;
            self.board.sent(now, self.iss, self.nxt);
        }
        self.last_sent = now;
    }

    /// What was found lost, as far as the congestion window goes (RFC 6675 5 (C)).
    fn send_lost(&mut self, now: Time, emit: &mut impl FnMut(&Outgoing<'_>)) {
        while self.board.lost() > 0 {
            let room = self.reno.window().saturating_sub(self.board.in_flight());
            let mss = u32::from(self.mss);
            // One segment always leaves when nothing is in flight; what is more waits until a segment fits.
            if room < mss && self.board.in_flight() > 0 {
                return;
            }
            let max = (room / mss).max(1) * mss;
            let Some((start, end)) = self.board.next_lost(max.min(self.superpacket())) else { return };
            if !self.resend(now, start, end, emit) {
                return;
            }
        }
    }

    /// Sends `start..end`, or a beginning of it, again.
    fn resend(&mut self, now: Time, start: Seq, end: Seq, emit: &mut impl FnMut(&Outgoing<'_>)) -> bool {
        let mut segment = self.header(now, start, Flags::ACK);
        segment.payload = self.queue.payload(start, end.min(start + segment.room(self.v6)));
        let mut sent = start + segment.payload.len() as u32;
        if end.gt(self.queue.end()) && sent == self.queue.end() {
            segment.flags = segment.flags | Flags::FIN;
            sent += 1;
        }
        if sent == start {
            return false;
        }
        if sent == self.nxt {
            segment.flags = segment.flags | Flags::PSH;
        }
        emit(&segment);
        self.board.sent_again(now, start, sent);
        self.last_sent = now;
        true
    }

    /// What the timer asks for.
    fn send_due(&mut self, now: Time, emit: &mut impl FnMut(&Outgoing<'_>)) {
        match self.due.take() {
            Some(Timer::TailLossProbe) => {
                // RFC 8985 7.3: new data if there are any and the peer has room, the last segment if not.
                let usable = (self.una + self.wnd).since(self.nxt);
                let len = self.unsent().min(self.mss.into()).min(usable);
                if len > 0 {
                    self.send_piece(now, len, emit);
                    self.probe = Some((self.nxt, false));
                } else if let Some((start, end)) = self.board.last(self.mss.into()) {
                    self.resend(now, start, end, emit);
                    self.probe = Some((self.nxt, true));
                }
            }
            Some(Timer::ZeroWindowProbe) => {
                // RFC 9293 3.8.6.1: "at least one octet of new data". A small window that is not worth a segment is
                // used up, which is the override of 3.8.6.2.1.
                let usable = (self.una + self.wnd).since(self.nxt).max(1);
                let len = self.unsent().min(self.mss.into()).min(usable);
                if len > 0 && self.board.is_empty() {
                    self.window_probe = true;
                    self.send_piece(now, len, emit);
                } else {
                    self.board.first_is_lost();
                    self.send_lost(now, emit);
                }
            }
            _ => {}
        }
    }

    /// New data, as far as both windows go, and the FIN.
    fn send_new(&mut self, now: Time, emit: &mut impl FnMut(&Outgoing<'_>)) {
        let mss = u32::from(self.mss);
        if self.board.is_empty() && self.unsent() > 0 && now.since(self.last_sent) > self.rtt.timeout() {
            self.reno.restart_after_idle(mss);
        }
        loop {
            let unsent = self.unsent();
            if unsent == 0 {
                break;
            }
            let usable = (self.una + self.wnd).since(self.nxt);
            let congestion = (self.reno.window() + self.inflated)
                .saturating_sub(self.board.in_flight() + self.board.lost());
            let room = usable.min(congestion);
            let max = self.superpacket();
            let len = if unsent <= room {
                unsent.min(max)
            } else {
                // Whole segments; RFC 9293 3.8.6.2.1 for a window that never has room for one.
                let whole = (room / mss).min(max / mss) * mss;
                if whole > 0 {
                    whole
                } else if room >= usable && room >= (self.max_wnd / 2).max(1) {
                    room
                } else if self.board.is_empty() && congestion < mss && usable >= mss {
                    mss
                } else {
                    0
                }
            };
            if len == 0 {
                return;
            }
            self.send_piece(now, len, emit);
        }
        if self.closing && self.nxt == self.queue.end() {
            let mut segment = self.header(now, self.nxt, Flags::ACK | Flags::FIN);
            segment.payload = Payload::default();
            emit(&segment);
            self.board.sent(now, self.nxt, self.nxt + 1);
            self.nxt += 1;
            self.last_sent = now;
        }
    }

    /// Sends the next `len` bytes, or fewer when they lie in too many pieces, with the FIN where they are the last.
    fn send_piece(&mut self, now: Time, len: u32, emit: &mut impl FnMut(&Outgoing<'_>)) {
        let start = self.nxt;
        let mut segment = self.header(now, start, Flags::ACK);
        segment.payload = self.queue.payload(start, start + len.min(segment.room(self.v6)));
        let mut end = start + segment.payload.len() as u32;
        if end == self.queue.end() {
            segment.flags = segment.flags | Flags::PSH;
            if self.closing {
                segment.flags = segment.flags | Flags::FIN;
                end += 1;
            }
        }
        emit(&segment);
        self.board.sent(now, start, end);
        self.nxt = end;
        self.last_sent = now;
    }

    /// A segment with everything that the receiving half has to say. It counts as an acknowledgment sent.
    fn header(&mut self, now: Time, seq: Seq, flags: Flags) -> Outgoing<'static> {
        let window = if self.is_receiving() || self.state == State::SynReceived {
            let mss = self.receive_mss();
            self.rcv.advertise(mss)
        } else {
            self.rcv.window()
        };
        let timestamps = self.timestamps.map(|state| Timestamps {
            value: now.as_millis().wrapping_add(state.offset),
            echo: if flags.contains(Flags::ACK) { state.recent } else { 0 },
        });
        let sack = if self.sack_permitted && self.rcv.has_sack() {
            self.rcv.sack_blocks()
        } else {
            Blocks::default()
        };
        let sack_len = match sack.as_slice().len() {
            0 => 0,
            blocks => 4 + 8 * blocks.min(if timestamps.is_some() { 3 } else { 4 }) as u16,
        };
        if flags.contains(Flags::ACK) {
            self.ack = Ack::None;
            self.unacknowledged = 0;
            self.last_ack_sent = self.rcv.nxt;
        }
        Outgoing {
            seq,
            ack: self.rcv.nxt,
            flags,
            window: (window >> self.recv_shift).min(u16::MAX.into()) as u16,
            timestamps,
            sack,
            syn: SynOptions::default(),
            payload: Payload::default(),
            segment_size: self.mss.saturating_sub(sack_len).max(1),
        }
    }

    /// Sets the timer for what is outstanding, or cannot be sent (RFC 6298 5, RFC 8985 7.2, RFC 9293 3.8.6.1).
    fn set_timer(&mut self, now: Time) {
        if self.state == State::Closed {
            self.timer = None;
            return;
        }
        if self.board.is_empty() {
            // Data that no acknowledgment will release: the window is shut, or too small to be worth a segment.
            let waits = self.unsent() > 0 && self.is_synchronized();
            match self.timer {
                Some((_, Timer::ZeroWindowProbe)) if waits => {}
                _ if waits => {
                    let wait = self.rtt.timeout().min(MAX_WINDOW_PROBE);
                    self.timer = Some((now + wait, Timer::ZeroWindowProbe));
                }
                _ => self.timer = None,
            }
            return;
        }
        if self.window_probe && self.wnd == 0 {
            if self.timer.is_none() {
                self.timer = Some((now + self.rtt.timeout().min(MAX_WINDOW_PROBE), Timer::ZeroWindowProbe));
            }
            return;
        }
        match self.timer {
            Some((_, Timer::Reordering | Timer::Retransmission)) => {}
            // A probe goes off some time after the last transmission, not after the first.
            _ => {
                let timeout = now + self.rtt.timeout();
                self.timer = match self.tail_probe_at() {
                    Some(at) if at < timeout => Some((at.max(now), Timer::TailLossProbe)),
                    _ => Some((timeout, Timer::Retransmission)),
                };
            }
        }
    }

    /// RFC 8985 7.2: when to probe for a loss that nothing after it shows.
    fn tail_probe_at(&self) -> Option<Time> {
        let usual = self.sack_permitted && self.recovery.is_none() && self.probe.is_none();
        if !usual || !self.is_synchronized() || self.board.sacked() > 0 {
            return None;
        }
        let mut wait = 2 * self.rtt.smoothed()? + MIN_PROBE;
        if self.nxt - self.una <= self.mss.into() {
            wait += MAX_ACK_DELAY;
        }
        Some(self.last_sent + wait)
    }

    fn keep_alive_at(&self) -> Option<Time> {
        let keep = self.config.keep_alive?;
        let idle = matches!(self.state, State::Established | State::CloseWait | State::FinWait2);
        if !idle || !self.board.is_empty() {
            return None;
        }
        Some(self.last_heard + keep.idle + keep.interval * u32::from(self.keep_alive_probes))
    }

    fn keep_alive(&mut self, _now: Time) {
        let Some(keep) = self.config.keep_alive else { return };
        if self.keep_alive_probes >= keep.probes {
            self.reset = Some(Reset { seq: self.nxt, ack: Some(self.rcv.nxt) });
            return self.end(Some(Broken::TimedOut));
        }
        self.keep_alive_probes += 1;
        self.keep_alive_due = true;
    }
}
