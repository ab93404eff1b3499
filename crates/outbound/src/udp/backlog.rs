//! How much memory datagrams may take that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a datagram that waits takes besides its own bytes.
const OVERHEAD: usize = 128;

/// The memory that datagrams of all client sockets may take while they wait for a way out. What does not fit is dropped, as
/// by a full queue anywhere on the way.
#[derive(Debug)]
pub struct Backlog {
    most: usize,
    taken: AtomicUsize,
}

impl Backlog {
    /// Room for `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0) }
    }

    /// Takes room for a datagram of `bytes` bytes. False if there is none left.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let weight = bytes.saturating_add(OVERHEAD);
        // What is too much is in it for a moment, so that another one may be refused early, never taken wrongly.
        let fits = self.taken.fetch_add(weight, Relaxed).saturating_add(weight) <= self.most;
        if !fits {
            self.taken.fetch_sub(weight, Relaxed);
        }
        fits
    }

    /// The same for as long as what it returns lives.
    pub fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        self.take(bytes).then(|| Room { backlog: Arc::clone(self), bytes })
    }

    /// Gives back what [`Self::take`] took for so many datagrams, of so many bytes together.
    pub fn give_back(&self, datagrams: usize, bytes: usize) {
        self.taken.fetch_sub(bytes + datagrams * OVERHEAD, Relaxed);
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

/// The room of one datagram.
#[derive(Debug)]
pub struct Room {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.backlog.give_back(1, self.bytes);
    }
}
