//! A client whose SYN is held: whether it still waits for the answer.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The longest time that senders wait before they repeat their first SYN: 1 s of RFC 6298 (2.1), 3 s of RFC 1122
/// (4.2.3.1), which some still keep.
const FIRST: Duration = Duration::from_secs(3);

/// What a repeated SYN may be late by: a full queue, a busy machine.
const LATE: Duration = Duration::from_secs(2);

/// A client that has sent a SYN, and sends it again for as long as it waits: each time after twice the time at most (RFC
/// 6298, 5.5). Whoever gives up says nothing, and is known by its silence.
#[derive(Debug)]
pub(crate) struct Asker {
    seen: Mutex<Seen>,
    reset: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    last: Instant,
    /// The longest time between two SYNs so far.
    pause: Duration,
}

/// How it is known that a client waits no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// It has sent a reset.
    Reset,
    /// It does not repeat its SYN, or has waited for as long as anybody may.
    Silent,
}

impl Asker {
    /// A client whose first SYN has just come.
    pub(super) fn new() -> Self {
        Self { seen: Mutex::new(Seen { last: Instant::now(), pause: Duration::ZERO }), reset: Notify::new() }
    }

    /// Its SYN has come again.
    pub(super) fn again(&self) {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        *seen = Seen { last: now, pause: seen.pause.max(now - seen.last) };
    }

    /// Its reset has come.
    pub(super) fn has_reset(&self) {
        self.reset.notify_one();
    }

    /// Resolves when it does not wait any more; after `most` at the latest.
    pub(super) async fn gave_up(&self, most: Duration) -> GaveUp {
        let end = Instant::now() + most;
        let silent = async {
            loop {
                let until = self.waits_until().min(end);
                if until <= Instant::now() {
                    return;
                }
                sleep_until(until).await;
            }
        };
        tokio::select! {
            () = self.reset.notified() => GaveUp::Reset,
            () = silent => GaveUp::Silent,
        }
    }

    /// When its next SYN must have come.
    fn waits_until(&self) -> Instant {
        let Seen { last, pause } = *self.seen.lock();
        last + (pause * 2).max(FIRST) + LATE
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const MOST: Duration = Duration::from_secs(180);

    /// How long a client is waited for that sends its SYN at these times, in seconds.
    async fn waited(syns: &[u64], most: Duration) -> (Duration, GaveUp) {
        let begin = Instant::now();
        let asker = Asker::new();
        let sender = async {
            for at in syns {
                sleep_until(begin + Duration::from_secs(*at)).await;
                asker.again();
            }
            std::future::pending().await
        };
        let gave_up = tokio::select! {
            () = sender => unreachable!(),
            gave_up = asker.gave_up(most) => gave_up,
        };
        (begin.elapsed(), gave_up)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_waited_for_as_long_as_it_waits() {
        // `tcp_syn_retries` of 6, to the time at which the kernel gives up; with and without
        // `tcp_syn_linear_timeouts` of 4 (net/ipv4/tcp_timer.c).
        for (syns, its_end) in
            [(&[1, 3, 7, 15, 31, 63][..], 127), (&[1, 2, 3, 4, 5, 7, 11, 19, 35, 67][..], 131)]
        {
            let (waited, gave_up) = waited(syns, MOST).await;
            assert_eq!(gave_up, GaveUp::Silent);
            assert!((its_end..its_end + 10).contains(&waited.as_secs()), "{waited:?}");
        }
        // Initially 3 s, as RFC 1122 had it.
        assert!(waited(&[3, 9, 21], MOST).await.0.as_secs() >= 45);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_gives_up_is_not_waited_for() {
        assert_eq!(waited(&[], MOST).await, (Duration::from_secs(5), GaveUp::Silent));
        assert!(waited(&[1, 3], MOST).await.0 < Duration::from_secs(10));
        // The network has doubled it.
        assert!(waited(&[0, 0], MOST).await.0 < Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_forever() {
        let every_second: Vec<_> = (1..1000).collect();
        assert_eq!(waited(&every_second, MOST).await, (MOST, GaveUp::Silent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_is_heard_at_once() {
        let asker = Asker::new();
        let begin = Instant::now();
        let (gave_up, ()) = tokio::join!(asker.gave_up(MOST), async {
            sleep(Duration::from_millis(10)).await;
            asker.has_reset();
        });
        assert_eq!((gave_up, begin.elapsed()), (GaveUp::Reset, Duration::from_millis(10)));
        // One that came before anybody waited for it.
        asker.has_reset();
        assert_eq!(timeout(MOST, asker.gave_up(MOST)).await, Ok(GaveUp::Reset));
    }
}
