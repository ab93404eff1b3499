//! The ACK field of an arriving segment (RFC 9293 3.10.7.4, fifth step): what is acknowledged, what is lost, and the
//! windows.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::connection::{Connection, Reset, State, Timer};
use super::segment::{Blocks, Segment};
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
            self.wnd = self.offered(segment);
            self.max_wnd = self.wnd;
            self.wl1 = segment.seq;
            self.wl2 = ack;
        } else if self.state == State::FinWait1 && !self.syn_acknowledged {
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

    /// SND.WND: the window of a segment with a SYN is not scaled (RFC 7323 2.2).
    fn offered(&self, segment: &Segment<'_>) -> u32 {
        let shift = if segment.flags.contains(Flags::SYN) { 0 } else { self.send_shift };
        u32::from(segment.window) << shift
    }

    /// Our SYN was acknowledged.
    pub(super) fn on_syn_acknowledged(&mut self, now: Time, segment: &Segment<'_>, sample: Option<Duration>) {
        self.syn_acknowledged = true;
        let lost = self.rtt.expired();
        self.sample(now, segment, sample);
        if lost > 0 {
            self.rtt.syn_was_lost();
        }
        if lost > 1 {
            self.reno.after_lost_syns(self.mss.into());
        }
        self.recovery = None;
        self.timed_out = false;
    }

    /// Takes a round trip that data sent once have measured, or else what the peer echoes of our clock (RFC 7323 4.1):
    /// only where something new is acknowledged.
    fn sample(&mut self, now: Time, segment: &Segment<'_>, measured: Option<Duration>) {
        if let Some(rtt) = measured {
            return self.rtt.sample(rtt);
        }
        let (Some(own), Some(theirs)) = (self.timestamps, segment.timestamps) else { return };
        let age = now.as_millis().wrapping_add(own.offset).wrapping_sub(theirs.echo);
        // What is longer than any time-out is no echo. A tick may be all but over.
        if age < 60_000 {
            self.rtt.sample_coarse(Duration::from_millis(u64::from(age) + 1));
        }
    }

    /// Acknowledged, selectively acknowledged and lost data; the window.
    fn board_arrives(&mut self, now: Time, segment: &Segment<'_>) {
        let ack = segment.ack;
        let (flight, old_window) = (self.nxt - self.una, self.wnd);
        // What acknowledges something new is new, wherever it begins.
        let newer = self.wl1.lt(segment.seq) || (self.wl1 == segment.seq && self.wl2.le(ack));
        if ack.gt(self.una) || (ack == self.una && newer) {
            self.wnd = self.offered(segment);
            self.max_wnd = self.max_wnd.max(self.wnd);
            self.wl1 = segment.seq;
            self.wl2 = ack;
        }
        if ack.lt(self.una) {
            return;
        }
        let progress = ack.gt(self.una);
        // The answer to a probe of a shut window is none: it says nothing of what was lost.
        let duplicate = !progress
            && segment.is_empty()
            && self.wnd == old_window
            && !self.board.is_empty()
            && !self.window_probe;
        let blocks = if self.sack_permitted { segment.sack } else { Blocks::default() };
        let delivered = self.board.acknowledge(now, ack, &blocks, self.rtt.min());
        if !self.syn_acknowledged && progress {
            self.on_syn_acknowledged(now, segment, delivered.rtt);
        } else if progress || delivered.rtt.is_some() {
            self.sample(now, segment, delivered.rtt);
        }
        if progress {
            self.una = ack;
            self.queue.acknowledge(ack);
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
        self.tail_probe_arrives(segment, progress);
        // RFC 5681 3.2 (6): what ends a recovery sets the window to the threshold, and does not make it grow.
        let grows = self.recovery.is_none() || self.timed_out;
        if self.recovery.is_some_and(|point| self.una.ge(point)) {
            self.recovery = None;
            self.timed_out = false;
        }
        self.find_losses(now, flight, progress, duplicate, old_window);
        // The window was in use: in slow start half of it is enough to say so, as it doubles in a round trip.
        let limited = flight.saturating_mul(2) >= self.reno.window();
        if delivered.bytes > 0 && limited && grows && (self.recovery.is_none() || self.timed_out) {
            self.reno.on_ack(delivered.bytes, self.mss.into());
        }
    }

    /// RFC 8985 7.4.2: a probe that had to repeat data, and whose data arrived only by it, has found a loss. That shows
    /// when what was sent after it is acknowledged, and the peer has not said before that it came twice.
    fn tail_probe_arrives(&mut self, segment: &Segment<'_>, progress: bool) {
        let Some((end, repeated)) = self.probe else { return };
        if self.una.lt(end) {
            return;
        }
        let arrived_twice = segment.sack.as_slice().first().is_some_and(|&(_, right)| right == end);
        let came_as_duplicate = !progress && segment.is_empty() && segment.sack.is_empty();
        if !repeated || arrived_twice || came_as_duplicate {
            self.probe = None;
        } else if self.una.gt(end) {
            self.probe = None;
            if self.recovery.is_none() {
                self.reno.enter_recovery(self.reno.window(), self.mss.into());
            }
        }
    }

    /// Finds losses by RACK (RFC 8985 6.2), of `flight` bytes outstanding, and when to look again.
    pub(super) fn detect_losses(&mut self, now: Time, flight: u32) {
        let mss = u32::from(self.mss);
        let recovering = self.recovery.is_some();
        let (smoothed, min) = (self.smoothed_rtt(), self.rtt.min().unwrap_or_default());
        if let Some(at) = self.board.detect_losses(now, mss, recovering, smoothed, min) {
            self.timer = Some((at, Timer::Reordering));
        }
        // RFC 5681 4.3: "the loss of a retransmission should be taken as two indications of congestion". One that was
        // sent before the window was lowered last is none of it as it is now.
        if let Some(sent) = self.board.take_lost_again()
            && recovering
            && sent >= self.lowered_at
        {
            self.reno.enter_recovery(self.reno.window().min(flight), mss);
            self.lowered_at = now;
        }
        self.enter_recovery(now, flight);
    }

    /// Lowers the congestion window for what was found lost.
    fn enter_recovery(&mut self, now: Time, flight: u32) {
        if self.board.lost() > 0 && self.recovery.is_none() {
            self.recovery = Some(self.nxt);
            self.lowered_at = now;
            self.reno.enter_recovery(flight, self.mss.into());
            self.due = Some(Timer::Reordering);
        }
    }

    fn find_losses(&mut self, now: Time, flight: u32, progress: bool, duplicate: bool, old_window: u32) {
        let mss = u32::from(self.mss);
        let recovering = self.recovery.is_some();
        if self.window_probe && old_window == 0 && self.wnd > 0 {
            // The window is open again, and what probed it was not taken.
            self.window_probe = false;
            return self.board.first_is_lost();
        }
        if self.sack_permitted {
            if self.board.sacked() > 0 || recovering {
                self.detect_losses(now, flight);
            }
            return;
        }
        if recovering {
            // RFC 6582 3.2: a partial acknowledgment means that the next segment is lost as well; a further duplicate,
            // that one more has left the network.
            if progress && !self.timed_out {
                self.board.first_is_lost();
                self.due = Some(Timer::Reordering);
            } else if duplicate && !self.timed_out {
                self.inflated = self.inflated.saturating_add(mss).min(flight);
            }
        } else if self.dup_acks == 3 {
            self.board.first_is_lost();
        }
        self.enter_recovery(now, flight);
    }
}
