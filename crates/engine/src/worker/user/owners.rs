//! Which worker has which connection.
//!
//! The kernel picks the queue for a packet by its flow, so that a worker sees its own connections only
//! (`tun_automq_select_queue`, drivers/net/tun.c). What it cannot tell so, fragments for example, may come to another;
//! that one looks here, and hands the packet over.

use std::hash::BuildHasher;

use hashbrown::hash_map::Entry;
use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Key;

const SHARDS: usize = 64;

/// Packets that may wait to be handed over to one worker; TCP sends again what is lost.
const WAITING: usize = 1024;

/// The owners of all connections.
#[derive(Debug)]
pub(crate) struct Owners {
    shards: Vec<Mutex<HashMap<Key, usize>>>,
    hasher: DefaultHashBuilder,
    /// Where each worker takes packets that came to another.
    mailboxes: Vec<Sender<Vec<u8>>>,
}

impl Owners {
    /// For so many workers; also what each of them is to receive from.
    pub(crate) fn new(workers: usize) -> (Self, Vec<Receiver<Vec<u8>>>) {
        let (mailboxes, receivers) = (0..workers).map(|_| channel(WAITING)).unzip();
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        (Self { shards, hasher: DefaultHashBuilder::default(), mailboxes }, receivers)
    }

    fn shard(&self, key: &Key) -> Option<&Mutex<HashMap<Key, usize>>> {
        self.shards.get((self.hasher.hash_one(key) >> 48) as usize % SHARDS)
    }

    /// Makes `worker` the owner, or names the one that is.
    pub(super) fn claim(&self, key: &Key, worker: usize) -> Result<(), usize> {
        let Some(shard) = self.shard(key) else { return Ok(()) };
        match shard.lock().entry(*key) {
            Entry::Occupied(entry) if *entry.get() != worker => Err(*entry.get()),
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(entry) => {
                entry.insert(worker);
                Ok(())
            }
        }
    }

    /// The owner of a connection.
    pub(super) fn of(&self, key: &Key) -> Option<usize> {
        self.shard(key)?.lock().get(key).copied()
    }

    /// The connection is over.
    pub(super) fn release(&self, key: &Key) {
        if let Some(shard) = self.shard(key) {
            shard.lock().remove(key);
        }
    }

    /// Hands a frame to another worker.
    pub(super) fn hand_over(&self, worker: usize, frame: &[u8]) {
        if let Some(mailbox) = self.mailboxes.get(worker) {
            // Full, or its worker is gone: lost, as on any link.
            let _ = mailbox.try_send(frame.to_vec());
        }
    }
}
