//! Congestion control: NewReno (RFC 5681), which counts bytes.

/// The congestion window and the slow start threshold, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewReno {
    cwnd: u32,
    ssthresh: u32,
    /// Bytes acknowledged since the window last grew in congestion avoidance.
    acked: u32,
}

/// More than any receiver here offers; keeps the arithmetic far from its ends.
const MAX_WINDOW: u32 = 1 << 30;

impl NewReno {
    /// Starts with the initial window of RFC 6928.
    pub(super) fn new(mss: u32) -> Self {
        Self { cwnd: (10 * mss).min((2 * mss).max(14_600)), ssthresh: MAX_WINDOW, acked: 0 }
    }

    /// The congestion window.
    pub(super) fn window(&self) -> u32 {
        self.cwnd
    }

    /// `bytes` were acknowledged outside of recovery, while the window was in full use: an unused window says nothing
    /// about the path (RFC 7661 3).
    pub(super) fn on_ack(&mut self, bytes: u32, mss: u32) {
        if self.cwnd < self.ssthresh {
            // One acknowledgment of a superpacket stands for dozens of segments: bytes are counted (RFC 3465), and
            // there is no burst to fear, as what leaves here is one superpacket again.
            self.cwnd = self.cwnd.saturating_add(bytes).min(MAX_WINDOW);
        } else {
            self.acked = self.acked.saturating_add(bytes);
            if self.acked >= self.cwnd {
                self.acked -= self.cwnd;
                self.cwnd = self.cwnd.saturating_add(mss).min(MAX_WINDOW);
            }
        }
    }

    /// A loss was found by acknowledgments, with `flight` bytes outstanding (RFC 5681 3.2, RFC 6675 5 (4.2)).
    pub(super) fn enter_recovery(&mut self, flight: u32, mss: u32) {
        self.ssthresh = (flight / 2).max(2 * mss);
        self.cwnd = self.ssthresh;
        self.acked = 0;
    }

    /// The retransmission timer went off (RFC 5681 3.1). Only the first time-out for the same data halves the threshold
    /// (its equation 4 and the paragraph after).
    pub(super) fn on_timeout(&mut self, flight: u32, mss: u32, first: bool) {
        if first {
            self.ssthresh = (flight / 2).max(2 * mss);
        }
        self.cwnd = mss;
        self.acked = 0;
    }

    /// The SYN was lost more than once (RFC 5681 3.1, as RFC 6928 2 limits it).
    pub(super) fn after_lost_syns(&mut self, mss: u32) {
        self.cwnd = mss;
    }

    /// The connection sent nothing for longer than a retransmission time-out (RFC 5681 4.1).
    pub(super) fn restart_after_idle(&mut self, mss: u32) {
        self.cwnd = self.cwnd.min(Self::new(mss).cwnd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_with_ten_segments_or_what_rfc_6928_allows() {
        assert_eq!(NewReno::new(1_000).window(), 10_000);
        assert_eq!(NewReno::new(1_460).window(), 14_600);
        assert_eq!(NewReno::new(9_000).window(), 18_000);
    }

    #[test]
    fn slow_start_doubles_and_congestion_avoidance_adds_a_segment() {
        let mut reno = NewReno::new(1_000);
        reno.on_ack(10_000, 1_000);
        assert_eq!(reno.window(), 20_000);
        reno.enter_recovery(20_000, 1_000);
        assert_eq!(reno.window(), 10_000);
        reno.on_ack(9_999, 1_000);
        assert_eq!(reno.window(), 10_000);
        reno.on_ack(1, 1_000);
        assert_eq!(reno.window(), 11_000);
    }

    #[test]
    fn a_timeout_leaves_one_segment_and_halves_once() {
        let mut reno = NewReno::new(1_000);
        reno.on_timeout(10_000, 1_000, true);
        assert_eq!(reno.window(), 1_000);
        reno.on_timeout(1_000, 1_000, false);
        for _ in 0..4 {
            reno.on_ack(1_000, 1_000);
        }
        assert_eq!(reno.window(), 5_000, "slow start up to half of the flight");
        reno.on_ack(1_000, 1_000);
        assert_eq!(reno.window(), 5_000, "then congestion avoidance");
    }

    #[test]
    fn never_falls_below_two_segments_by_halving() {
        let mut reno = NewReno::new(1_000);
        reno.enter_recovery(1_000, 1_000);
        assert_eq!(reno.window(), 2_000);
    }
}
