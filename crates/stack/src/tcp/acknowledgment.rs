//! The ACK field of an arriving segment (RFC 9293 3.10.7.4, fifth step): what is acknowledged, what is lost, and the
//! windows.

use super::connection::{Connection, Reset, State, Timer};
use super::segment::Segment;
use super::time::Time;

impl<B: AsRef<[u8]>> Connection<B> {
    /// The fifth step. Returns whether the segment is to be looked at further.
    pub(super) fn acknowledgment_arrives(&mut self, now: Time, segment: &Segment<'_>) -> bool {
        let ack = segment.ack;
        if self.state == State::SynReceived {
            if ack.le(self.una) || ack.gt(self.nxt) {
                self.reset = Some(Reset { seq: ack, ack: None });
                return false;
            }
            self.state = State::Established;
            self.wnd = u32::from(segment.window) << self.send_shift;
            self.max_wnd = self.wnd;
            self.wl1 = segment.seq;
            self.wl2 = ack;
        } else if self.state == State::FinWait1 && self.una == self.iss {
            // Closed before the handshake was over.
            if ack.le(self.una) || ack.gt(self.nxt) {
                self.reset = Some(Reset { seq: ack, ack: None });
                return false;
            }
        }
        if ack.gt(self.nxt) {
            // "acknowledges something not yet sent"
            self.challenge(now);
            return false;
        }
        // RFC 5961 5.2.
        if ack.lt(self.una - self.max_wnd) {
            self.challenge(now);
            return false;
        }
        self.board_arrives(now, segment);
        let fin_acknowledged = self.closing && self.una.gt(self.queue.end());
        if fin_acknowledged {
            match self.state {
                State::FinWait1 => self.state = State::FinWait2,
                State::Closing => self.time_wait(now),
                State::LastAck => {
                    self.end(None);
                    return false;
                }
                _ => {}
            }
        }
        true
    }

    /// Acknowledged, selectively acknowledged and lost data; the window.
    fn board_arrives(&mut self, now: Time, segment: &Segment<'_>) {
        let ack = segment.ack;
        let (flight, old_window) = (self.nxt - self.una, self.wnd);
        if ack.ge(self.una) && (self.wl1.lt(segment.seq) || (self.wl1 == segment.seq && self.wl2.le(ack))) {
            self.wnd = u32::from(segment.window) << self.send_shift;
            self.max_wnd = self.max_wnd.max(self.wnd);
            self.wl1 = segment.seq;
            self.wl2 = ack;
        }
        if ack.lt(self.una) {
            return;
        }
        let progress = ack.gt(self.una);
        let duplicate = !progress && segment.is_empty() && self.wnd == old_window && !self.board.is_empty();
        let delivered = self.board.acknowledge(now, ack, &segment.sack, self.rtt.min());
        if let Some(rtt) = delivered.rtt {
            self.rtt.sample(rtt);
        }
        if progress {
            self.una = ack;
            self.queue.acknowledge(ack);
            self.rtt.progress();
            self.stalled = None;
            self.dup_acks = 0;
            self.inflated = 0;
            self.window_probe = false;
            self.timer = None;
        } else if duplicate {
            self.dup_acks = self.dup_acks.saturating_add(1);
        }
        if delivered.bytes > 0 {
            // RFC 8985 7.2: whatever is delivered sets the timer anew.
            self.timer = None;
        }
        self.tail_probe_arrives(segment);
        if self.recovery.is_some_and(|point| self.una.ge(point)) {
            self.recovery = None;
            self.timed_out = false;
        }
        self.find_losses(now, flight, progress, old_window);
        // The window was in use: in slow start half of it is enough to say so, as it doubles in a round trip.
        let limited = flight.saturating_mul(2) >= self.reno.window();
        if delivered.bytes > 0 && limited && (self.recovery.is_none() || self.timed_out) {
            self.reno.on_ack(delivered.bytes, self.mss.into());
        }
    }

    /// RFC 8985 7.4: a probe that had to repeat data, and whose data arrived only by it, has found a loss.
    fn tail_probe_arrives(&mut self, segment: &Segment<'_>) {
        let Some((end, repeated)) = self.probe else { return };
        if self.una.lt(end) {
            return;
        }
        self.probe = None;
        let arrived_twice = segment.sack.as_slice().first().is_some_and(|(left, _)| left.lt(segment.ack));
        if repeated && !arrived_twice && self.recovery.is_none() {
            self.reno.enter_recovery(self.reno.window(), self.mss.into());
        }
    }

    fn find_losses(&mut self, now: Time, flight: u32, progress: bool, old_window: u32) {
        let mss = u32::from(self.mss);
        let recovering = self.recovery.is_some();
        if self.window_probe && old_window == 0 && self.wnd > 0 {
            // The window is open again, and what probed it was not taken.
            self.window_probe = false;
            return self.board.first_is_lost();
        }
        if self.sack_permitted {
            if self.board.sacked() > 0 || recovering {
                let smoothed = self.smoothed_rtt();
                let min = self.rtt.min().unwrap_or_default();
                if let Some(at) = self.board.detect_losses(now, mss, recovering, smoothed, min) {
                    self.timer = Some((at, Timer::Reordering));
                }
            }
        } else if recovering {
            // RFC 6582 3.2: a partial acknowledgment means that the next segment is lost as well; a further duplicate,
            // that one more has left the network.
            if progress && !self.timed_out {
                self.board.first_is_lost();
            } else if !progress {
                self.inflated = self.inflated.saturating_add(mss).min(flight);
            }
        } else if self.dup_acks == 3 {
            self.board.first_is_lost();
        }
        if self.board.lost() > 0 && self.recovery.is_none() {
            self.recovery = Some(self.nxt);
            self.reno.enter_recovery(flight, mss);
        }
    }
}
