//! How well an outbound carries datagrams, which says nothing about its connections: `ssh -D` and many others have only those,
//! and of some nothing is heard at all when a way for datagrams is opened.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// No other way is tried to be opened for so long after one has failed: a proxy is not to be asked with each datagram.
const REST: Duration = Duration::from_secs(1);
/// For so long a group takes another member. It doubles with each failure after that.
const SHUN_FIRST: Duration = Duration::from_secs(2);
const SHUN_MOST: Duration = Duration::from_secs(60);

/// What is known of it. A datagram costs one load as long as nothing has failed.
#[derive(Debug)]
pub(super) struct Datagrams {
    epoch: Instant,
    /// Milliseconds after the epoch, and never zero; zero if nothing has failed since it last worked.
    failed: AtomicU64,
    /// How often it was tried again in vain.
    again: AtomicU32,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self { epoch: Instant::now(), failed: AtomicU64::new(0), again: AtomicU32::new(0) }
    }
}

impl Datagrams {
    /// Notes that no way could be opened. True if that is news.
    pub(super) fn fail(&self, now: Instant) -> bool {
        let since = self.since_failure(now);
        // What began together fails together.
        if since.is_some_and(|since| since >= self.shun()) {
            self.again.store(self.again.load(Relaxed).saturating_add(1), Relaxed);
        }
        let at = now.saturating_duration_since(self.epoch).as_millis();
        self.failed.store(u64::try_from(at).unwrap_or(u64::MAX).max(1), Relaxed);
        since.is_none()
    }

    /// Notes that there is no reason to think so any more.
    pub(super) fn forget(&self) {
        if self.failed.load(Relaxed) != 0 {
            self.failed.store(0, Relaxed);
            self.again.store(0, Relaxed);
        }
    }

    /// Whether another outbound is to be preferred for them.
    pub(super) fn is_shunned(&self, now: impl FnOnce() -> Instant) -> bool {
        self.failed.load(Relaxed) != 0 && self.since_failure(now()).is_some_and(|since| since < self.shun())
    }

    /// Whether no way is to be opened now.
    pub(super) fn rests(&self, now: impl FnOnce() -> Instant) -> bool {
        self.failed.load(Relaxed) != 0 && self.since_failure(now()).is_some_and(|since| since < REST)
    }

    fn since_failure(&self, now: Instant) -> Option<Duration> {
        let failed = self.failed.load(Relaxed);
        let since = || now.saturating_duration_since(self.epoch + Duration::from_millis(failed));
        (failed != 0).then(since)
    }

    fn shun(&self) -> Duration {
        SHUN_FIRST.saturating_mul(1 << self.again.load(Relaxed).min(8)).min(SHUN_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_forgotten_after_a_while_that_grows() {
        let datagrams = Datagrams::default();
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let shunned = |millis| datagrams.is_shunned(|| at(millis));
        let rests = |millis| datagrams.rests(|| at(millis));
        assert!(!shunned(0) && !rests(0));
        assert!(datagrams.fail(at(0)) && !datagrams.fail(at(0)), "it is news once");
        assert!(shunned(0) && shunned(1990) && !shunned(2010));
        assert!(rests(0) && rests(990) && !rests(1010));
        // A failure of what was not to be tried is none of its own, but it still does not work.
        datagrams.fail(at(1500));
        assert!(rests(2490) && shunned(3490) && !shunned(3510));
        let mut now = 4000;
        for seconds in [4, 8, 16, 32, 60, 60] {
            datagrams.fail(at(now));
            datagrams.fail(at(now));
            assert!(shunned(now + seconds * 1000 - 10) && !rests(now + 1010), "{seconds}");
            now += seconds * 1000 + 10;
            assert!(!shunned(now), "{seconds}");
        }
        datagrams.forget();
        assert!(!shunned(now) && !rests(now));
        assert!(datagrams.fail(at(now)));
        assert!(!shunned(now + 2010), "it begins anew");
    }
}
