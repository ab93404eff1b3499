//! The timers: retransmission (RFC 6298), tail loss probe and reordering (RFC 8985), zero-window probe, keep-alive.

use std::time::Duration;

use super::connection::{Ack, Broken, Connection, State, Timer};
use super::time::Time;

/// What a lone segment may have to wait for at the peer before it is acknowledged (TLP.max_ack_delay, RFC 8985 7.2).
const MAX_ACK_DELAY: Duration = Duration::from_millis(200);

/// The least that a tail loss probe waits, for timers are no finer (`TCP_TIMEOUT_MIN` of Linux).
const MIN_PROBE: Duration = Duration::from_millis(2);

/// Zero-window probes are no further apart than this.
const MAX_WINDOW_PROBE: Duration = Duration::from_secs(60);

impl<B: AsRef<[u8]>> Connection<B> {
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
                self.detect_losses(now, self.nxt - self.una);
                // It may find nothing, where an acknowledgment was faster; what is outstanding has a timer all the same
                // (RFC 6298, 5.1), also if `transmit` is spared for having nothing to say.
                if self.timer.is_none() && self.board.lost() == 0 {
                    self.set_timer(now);
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
                        self.reset = Some(self.own_reset());
                    }
                    return self.end(Some(Broken::TimedOut));
                }
                if timer == Timer::ZeroWindowProbe {
                    self.due = Some(timer);
                } else {
                    self.retransmission_timeout(now);
                }
                self.rtt.back_off();
            }
        }
    }

    /// RFC 6298 5 (5.4) to (5.7), RFC 5681 3.1.
    fn retransmission_timeout(&mut self, now: Time) {
        let mss = u32::from(self.mss);
        let first = !self.timed_out;
        // The window was shut on data already sent: nothing was lost to congestion.
        if self.is_synchronized() && self.wnd > 0 {
            self.reno.on_timeout(self.nxt - self.una, mss, first);
        }
        self.lowered_at = now;
        // RFC 2018 8: after a time-out the peer may have dropped what it had said to have. The second one in a row is
        // reason to think so, and what it has at the left edge without acknowledging it is proof.
        self.board.all_is_lost(!first || self.board.is_reneged());
        self.recovery = Some(self.nxt);
        self.timed_out = true;
        self.probe = None;
        self.inflated = 0;
    }

    /// Sets the timer for what is outstanding, or cannot be sent (RFC 6298 5, RFC 8985 7.2, RFC 9293 3.8.6.1).
    pub(super) fn set_timer(&mut self, now: Time) {
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

    fn keep_alive(&mut self, now: Time) {
        let Some(keep) = self.config.keep_alive else { return };
        if self.keep_alive_probes >= keep.probes {
            self.reset = Some(self.own_reset());
            return self.end(Some(Broken::TimedOut));
        }
        // The peer has the whole interval to answer, even if this comes late.
        let due = keep.idle + keep.interval * u32::from(self.keep_alive_probes);
        self.last_heard = self.last_heard.max(now - due);
        self.keep_alive_probes += 1;
        self.keep_alive_due = true;
    }
}
