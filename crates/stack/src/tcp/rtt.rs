//! The retransmission time-out (RFC 6298).

use std::time::Duration;

/// The lower bound of the time-out. RFC 6298 (2.4) says one second, for links whose round trip was hundreds of
/// milliseconds; Linux has used 200 ms for decades (`TCP_RTO_MIN`), and a delayed acknowledgment of its peers, 40 ms to
/// 200 ms, stays below.
const MIN: Duration = Duration::from_millis(200);
/// The upper bound: RFC 6298 (2.5) asks for at least 60 s.
const MAX: Duration = Duration::from_secs(60);
/// Before the first sample (RFC 6298, 2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// The same where that was too short for the SYN (RFC 6298, 5.7).
const AFTER_LOST_SYN: Duration = Duration::from_secs(3);

/// Smoothed round-trip time, its variation, and the time-out that follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct RttEstimator {
    /// SRTT and RTTVAR in microseconds; SRTT is 0 before the first sample.
    srtt: u32,
    rttvar: u32,
    /// The shortest sample.
    min: u32,
    /// How often the time-out was doubled (RFC 6298, 5.5). It stays so until a sample is taken.
    backoff: u8,
    /// The SYN's timer went off.
    syn_lost: bool,
}

impl RttEstimator {
    pub(super) const fn new() -> Self {
        Self { srtt: 0, rttvar: 0, min: u32::MAX, backoff: 0, syn_lost: false }
    }

    /// Takes a sample of a segment that was sent once (Karn's algorithm: RFC 6298, 3).
    pub(super) fn sample(&mut self, rtt: Duration) {
        let rtt = micros(rtt);
        self.smooth(rtt);
        self.min = self.min.min(rtt);
    }

    /// Takes a sample that the peer's echo of a timestamp gave: as coarse as that clock, and no measure of the shortest
    /// round trip.
    pub(super) fn sample_coarse(&mut self, rtt: Duration) {
        self.smooth(micros(rtt));
    }

    fn smooth(&mut self, rtt: u32) {
        if self.srtt == 0 {
            self.srtt = rtt;
            self.rttvar = rtt / 2;
        } else {
            self.rttvar = self.rttvar - self.rttvar / 4 + self.srtt.abs_diff(rtt) / 4;
            self.srtt = (self.srtt - self.srtt / 8 + rtt / 8).max(1);
        }
        self.backoff = 0;
    }

    /// The smoothed round-trip time, once there was a sample.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        (self.srtt > 0).then(|| Duration::from_micros(self.srtt.into()))
    }

    /// The shortest round trip seen, once there was a sample.
    pub(super) fn min(&self) -> Option<Duration> {
        (self.min != u32::MAX).then(|| Duration::from_micros(self.min.into()))
    }

    /// RTO, backed off.
    pub(super) fn timeout(&self) -> Duration {
        let base = if self.srtt == 0 {
            if self.syn_lost { AFTER_LOST_SYN } else { INITIAL }
        } else {
            // The clock's granularity is far below anything here.
            Duration::from_micros(u64::from(self.srtt) + 4 * u64::from(self.rttvar)).max(MIN)
        };
        base.saturating_mul(1 << self.backoff.min(16)).min(MAX)
    }

    /// RFC 6298 (5.5): the timer went off.
    pub(super) fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// How often the timer went off since the last sample.
    pub(super) fn expired(&self) -> u8 {
        self.backoff
    }

    /// The SYN was acknowledged after its timer had gone off (RFC 6298, 5.7).
    pub(super) fn syn_was_lost(&mut self) {
        self.syn_lost = true;
        self.backoff = 0;
    }
}

fn micros(rtt: Duration) -> u32 {
    u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).clamp(1, 60_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn follows_rfc_6298() {
        let mut rtt = RttEstimator::new();
        // (2.1)
        assert_eq!(rtt.timeout(), MS(1000));
        rtt.sample(MS(400));
        // (2.2): SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 RTTVAR.
        assert_eq!(rtt.smoothed(), Some(MS(400)));
        assert_eq!(rtt.timeout(), MS(1200));
        rtt.sample(MS(800));
        // (2.3): RTTVAR = 3/4 * 200 + 1/4 * 400 = 250; SRTT = 7/8 * 400 + 1/8 * 800 = 450.
        assert_eq!(rtt.smoothed(), Some(MS(450)));
        assert_eq!(rtt.timeout(), MS(450 + 4 * 250));
        assert_eq!(rtt.min(), Some(MS(400)));
    }

    #[test]
    fn backs_off_to_a_minute_and_no_further() {
        let mut rtt = RttEstimator::new();
        // (5.5)
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            rtt.back_off();
            assert_eq!(rtt.timeout(), Duration::from_secs(expected));
        }
        for _ in 0..500 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), Duration::from_secs(60));
        rtt.sample(MS(1));
        assert_eq!(rtt.timeout(), MIN);
    }
}
