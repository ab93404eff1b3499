//! What is to be sent.

use oneway_wire::tcp::Flags;

use super::connection::{Ack, Connection, Reset, State, Timer};
use super::segment::{Blocks, Outgoing, Payload, SynOptions, Timestamps};
use super::seq::Seq;
use super::time::Time;

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
        let acknowledges =
            self.is_synchronized() || (self.state == State::SynReceived && self.nxt != self.iss);
        if ack_due && acknowledges {
            let ack = self.header(now, self.acceptable_seq(), Flags::ACK);
            emit(&ack);
        }
        self.set_timer(now);
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
            mss: Some(self.receive_mss),
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
        // What began a recovery goes out at once (RFC 5681 3.2 (3), RFC 6675 5 (4.3)).
        let mut at_once = self.due.take_if(|due| *due == Timer::Reordering).is_some();
        while self.board.lost() > 0 {
            let mut room = self.reno.window().saturating_sub(self.board.in_flight());
            let mss = u32::from(self.mss);
            if self.wnd == 0 {
                // RFC 7323 2.4 (5): what is beyond the window probes it, and is not sent again by the dozen.
                room = 0;
            }
            // One segment always leaves when nothing is in flight; what is more waits until a segment fits.
            if room < mss && self.board.in_flight() > 0 && !at_once {
                return;
            }
            at_once = false;
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
        segment.payload = self.queue.payload(start, end.min(start + self.longest(&segment)));
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
        segment.payload = self.queue.payload(start, start + len.min(self.longest(&segment)));
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

    /// Data that fit behind a segment's options.
    fn longest(&self, segment: &Outgoing<'_>) -> u32 {
        if self.config.superpackets { segment.room(self.v6) } else { segment.segment_size.into() }
    }

    /// A segment with everything that the receiving half has to say. It counts as an acknowledgment sent.
    fn header(&mut self, now: Time, seq: Seq, flags: Flags) -> Outgoing<'static> {
        let window = if self.is_receiving() {
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
            hop_limit: self.config.hop_limit,
            traffic_class: self.config.traffic_class,
        }
    }
}
