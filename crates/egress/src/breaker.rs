//! Where nothing is sent any more because packets of ours have come back from there.
//!
//! The first packet that comes back opens the breaker of its destination; others go on. When too many destinations are
//! open, or the kernel says that all of a family loops, the family is. A breaker is closed again when the kernel and a
//! canary say that it may be, which is tried after a pause that doubles with each relapse.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use oneway_route::Family;
use parking_lot::{Mutex, RwLock};

use crate::EgressError;

/// Destinations that may be open at a time, of each family; with more the family is.
const MOST: usize = 64;
/// The first pause before a try.
const FIRST: Duration = Duration::from_millis(250);
/// How often it doubles at most: to 4 s.
const DOUBLINGS: u32 = 4;
/// A destination that comes back so soon after it was closed begins with a longer pause.
const RELAPSE: Duration = Duration::from_secs(60);

/// A destination, or all of a family, that nothing is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quarantined {
    /// One destination.
    Destination(IpAddr),
    /// Every destination of a family.
    Family(Family),
}

/// What is open.
#[derive(Default)]
pub(crate) struct Breaker {
    /// Whether anything is: all that is looked at as long as nothing is.
    any: AtomicBool,
    returned: AtomicU64,
    state: Mutex<State>,
    alarm: RwLock<Option<Box<dyn Fn() + Send + Sync>>>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<Quarantined, Open>,
    /// How far those had come that were closed not long ago, and when that was.
    closed: HashMap<Quarantined, (u32, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    doublings: u32,
    next: Instant,
    /// Packets that came back since it is open.
    returned: u64,
}

impl Breaker {
    /// A packet to `dst` came back.
    pub(crate) fn trip(&self, dst: IpAddr, now: Instant) {
        self.returned.fetch_add(1, Relaxed);
        let news = {
            let mut state = self.state.lock();
            let news = state.open(Quarantined::Destination(dst), now);
            let family = Family::of(dst);
            let many =
                |q: &Quarantined| matches!(q, Quarantined::Destination(ip) if Family::of(*ip) == family);
            if state.open.keys().filter(|q| many(q)).count() > MOST {
                state.open(Quarantined::Family(family), now);
                state.open.retain(|q, _| !many(q));
            }
            self.any.store(true, Relaxed);
            news
        };
        if news && let Some(alarm) = &*self.alarm.read() {
            alarm();
        }
    }

    /// Opens that of a whole family.
    pub(crate) fn open_family(&self, family: Family, now: Instant) {
        self.state.lock().open(Quarantined::Family(family), now);
        self.any.store(true, Relaxed);
    }

    /// Whether something may be sent to `dst`.
    pub(crate) fn check(&self, dst: IpAddr) -> Result<(), EgressError> {
        if !self.any.load(Relaxed) {
            return Ok(());
        }
        let state = self.state.lock();
        let open = |q| state.open.contains_key(&q);
        if open(Quarantined::Destination(dst)) || open(Quarantined::Family(Family::of(dst))) {
            return Err(EgressError::Quarantined { dst });
        }
        Ok(())
    }

    /// Calls `alarm` whenever something new is opened.
    pub(crate) fn set_alarm(&self, alarm: Box<dyn Fn() + Send + Sync>) {
        *self.alarm.write() = Some(alarm);
    }

    /// What is open, and whether it is time to try it. Also forgets what was closed long ago.
    pub(crate) fn list(&self, now: Instant) -> Vec<(Quarantined, bool)> {
        let mut state = self.state.lock();
        state.closed.retain(|_, (_, at)| now.saturating_duration_since(*at) < RELAPSE);
        state.open.iter().map(|(q, open)| (*q, open.next <= now)).collect()
    }

    /// When the next is to be tried.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.state.lock().open.values().map(|open| open.next).min()
    }

    /// How many packets came back to what is open.
    pub(crate) fn returned_to(&self, which: Quarantined) -> u64 {
        self.state.lock().open.get(&which).map_or(0, |open| open.returned)
    }

    /// How many packets ever came back.
    pub(crate) fn returned(&self) -> u64 {
        self.returned.load(Relaxed)
    }

    /// The try has shown that it still loops.
    pub(crate) fn keep(&self, which: Quarantined, now: Instant) {
        if let Some(open) = self.state.lock().open.get_mut(&which) {
            open.doublings = (open.doublings + 1).min(DOUBLINGS);
            open.next = now + FIRST * (1 << open.doublings);
        }
    }

    /// The try has shown that it does not loop any more.
    pub(crate) fn close(&self, which: Quarantined, now: Instant) {
        let mut state = self.state.lock();
        if let Some(open) = state.open.remove(&which) {
            if state.closed.len() >= 4 * MOST {
                state.closed.clear();
            }
            state.closed.insert(which, (open.doublings, now));
        }
        self.any.store(!state.open.is_empty(), Relaxed);
    }
}

impl State {
    /// Whether that is news.
    fn open(&mut self, which: Quarantined, now: Instant) -> bool {
        if let Some(open) = self.open.get_mut(&which) {
            open.returned += 1;
            return false;
        }
        let doublings = match self.closed.get(&which) {
            Some((doublings, at)) if now.saturating_duration_since(*at) < RELAPSE => {
                (doublings + 1).min(DOUBLINGS)
            }
            _ => 0,
        };
        self.open.insert(which, Open { doublings, next: now + FIRST * (1 << doublings), returned: 1 });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + n))
    }

    #[test]
    fn one_packet_opens_its_destination_alone() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        breaker.check(ip(1)).unwrap();
        breaker.trip(ip(1), now);
        assert!(matches!(breaker.check(ip(1)), Err(EgressError::Quarantined { .. })));
        breaker.check(ip(2)).unwrap();
        breaker.check("2001:db8::1".parse().unwrap()).unwrap();
    }

    #[test]
    fn the_pause_doubles_with_each_try_and_with_a_relapse() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let one = Quarantined::Destination(ip(1));
        breaker.trip(ip(1), start);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let next = breaker.next().unwrap();
            pauses.push((next - now).as_millis());
            assert_eq!(breaker.list(next), [(one, true)]);
            now = next;
            breaker.keep(one, now);
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 4000, 4000]);
        breaker.close(one, now);
        assert_eq!(breaker.next(), None);
        breaker.check(ip(1)).unwrap();
        // At once again: the pause goes on where it was.
        breaker.trip(ip(1), now);
        assert_eq!(breaker.next(), Some(now + Duration::from_secs(4)));
        breaker.close(one, now);
        // Long after: a new beginning.
        let later = now + RELAPSE;
        breaker.list(later);
        breaker.trip(ip(1), later);
        assert_eq!(breaker.next(), Some(later + FIRST));
    }

    #[test]
    fn too_many_destinations_open_the_family_and_no_more_is_kept() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for n in 0..1000 {
            breaker.trip(ip(n), now);
            assert!(breaker.list(now).len() <= MOST + 1);
        }
        assert!(breaker.list(now).contains(&(Quarantined::Family(Family::V4), false)));
        assert!(breaker.check(ip(5000)).is_err());
        breaker.check("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(breaker.returned(), 1000);
    }
}
