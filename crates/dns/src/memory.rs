//! Which name a real address was asked for by.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

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
    /// Another one was asked for with this address as well.
    is_shared: bool,
}

impl Memory {
    /// Remembers so many addresses; the one that was answered longest ago gives way.
    pub fn new(most: NonZeroUsize) -> Self {
        Self { names: Mutex::new(LruCache::new(most)) }
    }

    /// Remembers that a name has these addresses.
    pub fn learn(&self, name: &Arc<str>, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut names = self.names.lock();
        for ip in addresses {
            let ip = ip.to_canonical();
            let differs = |before: &Remembered| before.is_shared || before.name != *name;
            let is_shared = names.peek(&ip).is_some_and(differs);
            names.put(ip, Remembered { name: Arc::clone(name), is_shared });
        }
    }

    /// The name that was last asked for with this address.
    pub fn name(&self, ip: IpAddr) -> Option<Arc<str>> {
        self.names.lock().peek(&ip.to_canonical()).map(|remembered| Arc::clone(&remembered.name))
    }

    /// The only name that was asked for with this address, as far as is remembered: what connects there follows its answer.
    pub fn only_name(&self, ip: IpAddr) -> Option<Arc<str>> {
        let names = self.names.lock();
        let remembered = names.peek(&ip.to_canonical()).filter(|remembered| !remembered.is_shared)?;
        Some(Arc::clone(&remembered.name))
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

    #[test]
    fn the_last_name_counts_and_the_oldest_gives_way() {
        let memory = Memory::new(NonZeroUsize::new(2).unwrap());
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        memory.learn(&"a.example".into(), [ip(1), ip(2)]);
        memory.learn(&"b.example".into(), [ip(1)]);
        assert_eq!(memory.name(ip(1)).as_deref(), Some("b.example"));
        assert_eq!(memory.name("::ffff:192.0.2.2".parse().unwrap()).as_deref(), Some("a.example"));
        memory.learn(&"c.example".into(), [ip(3)]);
        assert_eq!(memory.name(ip(2)), None);
        assert_eq!(memory.len(), 2);
    }

    #[test]
    fn a_name_among_several_is_not_the_only_one() {
        let memory = Memory::new(NonZeroUsize::new(2).unwrap());
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        let only = |last| memory.only_name(ip(last));
        for name in ["a.example", "a.example"] {
            memory.learn(&name.into(), [ip(1), ip(2)]);
        }
        assert_eq!([1, 2, 3].map(only), [Some("a.example".into()), Some("a.example".into()), None]);
        memory.learn(&"b.example".into(), [ip(1)]);
        memory.learn(&"b.example".into(), [ip(1)]);
        assert_eq!([1, 2].map(only), [None, Some("a.example".into())], "it still is another one's as well");
        assert_eq!(memory.name(ip(1)).as_deref(), Some("b.example"));
    }
}
