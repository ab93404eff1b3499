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
    names: Mutex<LruCache<IpAddr, Arc<str>>>,
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
            names.put(ip.to_canonical(), Arc::clone(name));
        }
    }

    /// The name that was last asked for with this address.
    pub fn name(&self, ip: IpAddr) -> Option<Arc<str>> {
        self.names.lock().peek(&ip.to_canonical()).cloned()
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
}
