//! Which name a real address was asked for by.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

/// For how long programs use an answer at least, whatever its TTL is: browsers do so for a minute.
const USED: Duration = Duration::from_secs(60);
/// And at most (RFC 8767, 4).
const USED_AT_MOST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The names of the addresses that were answered lately, so that rules about names apply to connections that only have
/// an address. Where several names share an address the last one counts, as the connection most likely follows its
/// answer; so this is for choosing a way, and not for telling anybody where to connect to.
#[derive(Debug)]
pub struct Memory {
    names: Mutex<LruCache<IpAddr, Remembered>>,
}

#[derive(Debug)]
struct Remembered {
    name: Arc<str>,
    /// When the last answer that names it ends.
    until: Instant,
    /// When those end in which another name has this address as well, if there was one.
    others: Option<Instant>,
}

/// What an address was asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedBy {
    /// The last name.
    pub name: Arc<str>,
    /// Whether it is the only one.
    pub doubt: Doubt,
}

/// Whether what connects to an address may follow another answer than the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Nobody has asked for another name of this address.
    Never,
    /// Somebody has, and that answer has ended.
    Over,
    /// Somebody has, lately.
    Now,
}

impl Memory {
    /// Remembers so many addresses; the one that was answered longest ago gives way.
    pub fn new(most: NonZeroUsize) -> Self {
        Self { names: Mutex::new(LruCache::new(most)) }
    }

    /// Remembers that a name has these addresses, for so long each.
    pub fn learn(
        &self,
        name: &Arc<str>,
        addresses: impl IntoIterator<Item = (IpAddr, Duration)>,
        now: Instant,
    ) {
        let mut names = self.names.lock();
        for (ip, ttl) in addresses {
            let ip = ip.to_canonical();
            let mut until = now + ttl.clamp(USED, USED_AT_MOST);
            let others = match names.peek(&ip) {
                None => None,
                Some(before) if before.name == *name => {
                    until = until.max(before.until);
                    before.others
                }
                Some(before) => before.others.max(Some(before.until)),
            };
            names.put(ip, Remembered { name: Arc::clone(name), until, others });
        }
    }

    /// The name that was last asked for with this address.
    pub fn name(&self, ip: IpAddr) -> Option<Arc<str>> {
        self.names.lock().peek(&ip.to_canonical()).map(|remembered| Arc::clone(&remembered.name))
    }

    /// The same, and whether it is the only one, as far as is remembered: what connects there follows its answer then. The time is
    /// asked for where it matters.
    pub fn asked_by(&self, ip: IpAddr, now: impl FnOnce() -> Instant) -> Option<AskedBy> {
        let names = self.names.lock();
        let Remembered { name, others, .. } = names.peek(&ip.to_canonical())?;
        let doubt = match others {
            None => Doubt::Never,
            Some(until) if *until <= now() => Doubt::Over,
            Some(_) => Doubt::Now,
        };
        Some(AskedBy { name: Arc::clone(name), doubt })
    }

    /// How many addresses are remembered.
    pub fn len(&self) -> usize {
        self.names.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of half an hour.
    fn learn(memory: &Memory, name: &str, ips: impl IntoIterator<Item = IpAddr>, now: Instant) {
        memory.learn(&name.into(), ips.into_iter().map(|ip| (ip, Duration::from_secs(1800))), now);
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_last_name_counts_and_the_oldest_gives_way() {
        let (memory, now) = (Memory::new(NonZeroUsize::new(2).unwrap()), Instant::now());
        learn(&memory, "a.example", [ip(1), ip(2)], now);
        learn(&memory, "b.example", [ip(1)], now);
        assert_eq!(memory.name(ip(1)).as_deref(), Some("b.example"));
        assert_eq!(memory.name("::ffff:192.0.2.2".parse().unwrap()).as_deref(), Some("a.example"));
        learn(&memory, "c.example", [ip(3)], now);
        assert_eq!(memory.name(ip(2)), None);
        assert_eq!(memory.len(), 2);
    }

    #[test]
    fn a_name_among_several_is_not_the_only_one_as_long_as_there_are_others() {
        let (memory, begin) = (Memory::new(NonZeroUsize::new(2).unwrap()), Instant::now());
        let at = |minutes: u64| begin + Duration::from_secs(60 * minutes);
        let doubt = |last, minutes| memory.asked_by(ip(last), || at(minutes)).map(|asked| asked.doubt);
        for _ in 0..2 {
            learn(&memory, "a.example", [ip(1), ip(2)], at(0));
        }
        assert_eq!([1, 2, 3].map(|last| doubt(last, 0)), [Some(Doubt::Never), Some(Doubt::Never), None]);
        for minutes in [10, 20] {
            learn(&memory, "b.example", [ip(1)], at(minutes));
        }
        assert_eq!([1, 2].map(|last| doubt(last, 29)), [Some(Doubt::Now), Some(Doubt::Never)]);
        assert_eq!(doubt(1, 30), Some(Doubt::Over), "the other one's answer has ended");
        assert_eq!(memory.name(ip(1)).as_deref(), Some("b.example"));
        learn(&memory, "a.example", [ip(1)], at(40));
        assert_eq!([49, 50].map(|minutes| doubt(1, minutes)), [Some(Doubt::Now), Some(Doubt::Over)]);
    }

    #[test]
    fn a_short_answer_is_used_for_a_minute() {
        let (memory, begin) = (Memory::new(NonZeroUsize::new(2).unwrap()), Instant::now());
        for name in ["a.example", "b.example"] {
            memory.learn(&name.into(), [(ip(1), Duration::ZERO)], begin);
        }
        let doubt = |after| memory.asked_by(ip(1), || begin + after).map(|asked| asked.doubt);
        assert_eq!(doubt(Duration::from_secs(59)), Some(Doubt::Now));
        assert_eq!(doubt(USED), Some(Doubt::Over));
    }
}
