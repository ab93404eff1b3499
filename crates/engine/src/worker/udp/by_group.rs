//! What carries the datagrams of a client's socket for a group: it stays that when the group would choose another one now.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::{Mutex, RwLock};

use super::{SHARDS, Session};

/// A way by which nothing has come back for so many seconds may be left for one that works.
const SILENT: u32 = 10;

/// A client socket, and a group's [line](crate::group::Group::line).
type Key = (SocketAddr, u32);

/// The sessions that carry for groups, by whom they carry for.
#[derive(Debug)]
pub(super) struct ByGroup {
    shards: Vec<RwLock<HashMap<Key, Arc<Session>>>>,
    hasher: DefaultHashBuilder,
}

/// The lines of the groups that a session carries for; none when it is over.
#[derive(Debug)]
pub(super) struct Groups(Mutex<Option<Vec<u32>>>);

impl Default for Groups {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Default for ByGroup {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl ByGroup {
    fn shard(&self, key: &Key) -> Option<&RwLock<HashMap<Key, Arc<Session>>>> {
        self.shards.get((self.hasher.hash_one(key) >> 48) as usize % SHARDS)
    }

    /// The session that carries for this group.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Session>> {
        self.shard(key)?.read().get(key).cloned()
    }

    /// Has a session carry for this group from now on, unless it is over.
    pub(super) fn set(&self, line: u32, session: &Arc<Session>) {
        // Held until it is there, so that it is not removed before.
        let mut groups = session.groups.0.lock();
        let Some(groups) = &mut *groups else { return };
        if !groups.contains(&line) {
            groups.push(line);
        }
        let key = (session.key.0, line);
        if let Some(shard) = self.shard(&key) {
            shard.write().insert(key, Arc::clone(session));
        }
    }

    /// Forgets a session that is over.
    pub(super) fn remove(&self, session: &Arc<Session>) {
        let groups = session.groups.0.lock().take();
        for line in groups.into_iter().flatten() {
            let key = (session.key.0, line);
            let Some(shard) = self.shard(&key) else { continue };
            let mut shard = shard.write();
            if shard.get(&key).is_some_and(|found| Arc::ptr_eq(found, session)) {
                shard.remove(&key);
            }
        }
    }
}

/// When something came back last, in seconds of the sessions' clock and one more; zero if nothing will.
#[derive(Debug)]
pub(super) struct Heard(AtomicU32);

impl Heard {
    /// As if something had: what is new has its time.
    pub(super) fn new(now: u32) -> Self {
        Self(AtomicU32::new(now + 1))
    }

    pub(super) fn note(&self, now: u32) {
        if self.0.load(Relaxed) != now + 1 {
            self.0.store(now + 1, Relaxed);
        }
    }

    /// Its way is lost.
    pub(super) fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    /// Whether it was lately.
    pub(super) fn is_recent(&self, now: u32) -> bool {
        let heard = self.0.load(Relaxed);
        heard != 0 && (now + 1).saturating_sub(heard) < SILENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_grows_old() {
        let heard = Heard::new(0);
        assert!(heard.is_recent(0) && heard.is_recent(9) && !heard.is_recent(10));
        heard.note(10);
        assert!(heard.is_recent(19) && !heard.is_recent(20));
        heard.forget();
        assert!(!heard.is_recent(0) && !heard.is_recent(10));
    }
}
