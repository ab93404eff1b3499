//! Memory for data that wait for an end which does not take them, of all connections together.
//!
//! What a client sends and its server does not read waits here, and so does what a server has sent and the client has not
//! acknowledged. Each connection has a limit; thousands that are stuck would still have gigabytes.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A connection may have this part of what nobody has, in each direction ("Dynamic Queue Length Thresholds for Shared-Memory
/// Packet Switches", Choudhury and Hahne, 1998): where little is held that is more than any connection wants, and however many
/// are stuck, something is left for the next.
const PART: usize = 16;

/// What a connection may have whatever the others hold: the longest packet, and the window that a SYN can offer.
pub(super) const LEAST: usize = 64 * 1024;

/// How far a worker's own count may be from what all know of it: other processors are told for many packets at once.
const UNTOLD: usize = 256 * 1024;

/// The part of this machine's memory that may be held: with as much the kernel's own TCP comes under pressure (`tcp_init_mem`,
/// net/ipv4/tcp.c).
const OF_MACHINE: u64 = 16;

/// What may be held on the smallest machine, and on the largest.
const BOUNDS: (u64, u64) = (32 << 20, 512 << 20);

/// So much given back at least is worth asking the allocator for it.
const PEAK: usize = 32 << 20;

/// What the connections of all workers hold and may hold.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    held: AtomicUsize,
    /// The most that was held since memory was handed back.
    peak: AtomicUsize,
}

impl Budget {
    /// For a machine, or a control group, with so many bytes of memory, if that is known.
    pub(crate) fn of_machine(memory: Option<u64>) -> Self {
        let (least, most) = BOUNDS;
        let most = memory.map_or(least, |memory| (memory / OF_MACHINE).clamp(least, most));
        Self::new(usize::try_from(most).unwrap_or(usize::MAX))
    }

    pub(super) fn new(most: usize) -> Self {
        Self { most, held: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// Whether most of what was held is free by now, and was not handed back to the system: the allocator keeps it.
    pub(in crate::worker) fn is_past_peak(&self) -> bool {
        let (held, peak) = (self.held.load(Relaxed), self.peak.load(Relaxed));
        let past = held + PEAK <= peak && held <= peak / 2;
        if past {
            self.peak.store(held, Relaxed);
        }
        past
    }
}

/// What one worker's connections hold.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<Budget>,
    held: Cell<usize>,
    told: Cell<usize>,
}

impl Account {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), held: Cell::new(0), told: Cell::new(0) }
    }

    pub(super) fn add(&self, bytes: usize) {
        let held = self.held.get() + bytes;
        self.held.set(held);
        let more = held.saturating_sub(self.told.get());
        if more >= UNTOLD {
            self.told.set(held);
            let all = self.budget.held.fetch_add(more, Relaxed) + more;
            self.budget.peak.fetch_max(all, Relaxed);
        }
    }

    pub(super) fn sub(&self, bytes: usize) {
        let held = self.held.get().saturating_sub(bytes);
        self.held.set(held);
        let less = self.told.get().saturating_sub(held);
        if less >= UNTOLD {
            self.told.set(held);
            self.budget.held.fetch_sub(less, Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// What one connection may hold now in each direction.
    pub(super) fn share(&self) -> usize {
        let free = self.budget.most.saturating_sub(self.budget.held.load(Relaxed));
        // In steps: a connection whose share has changed looks anew at what it may say.
        (free / PART / LEAST * LEAST).max(LEAST)
    }

    /// Whether all is held that may be.
    pub(super) fn is_spent(&self) -> bool {
        self.budget.held.load(Relaxed) >= self.budget.most
    }

    /// Whether connections have less than they might want.
    pub(super) fn is_tight(&self) -> bool {
        self.budget.held.load(Relaxed) >= self.budget.most / 2
    }
}

/// What one connection holds of an account, for as long as it does.
#[derive(Debug)]
pub(super) struct Charge {
    account: Rc<Account>,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(account: &Rc<Account>) -> Self {
        Self { account: Rc::clone(account), bytes: 0 }
    }

    pub(super) fn set(&mut self, bytes: usize) {
        match std::mem::replace(&mut self.bytes, bytes) {
            before if before < bytes => self.account.add(bytes - before),
            before if before > bytes => self.account.sub(before - bytes),
            _ => {}
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_as_memory_is_held_and_nobody_has_none() {
        let budget = Arc::new(Budget::new(64 << 20));
        let account = Account::new(&budget);
        assert_eq!((account.share(), account.is_spent()), (4 << 20, false));
        account.add(32 << 20);
        assert_eq!(account.share(), 2 << 20);
        account.add(31 << 20);
        assert_eq!((account.share(), account.is_spent()), (LEAST, false));
        account.add(64 << 20);
        assert_eq!((account.share(), account.is_spent()), (LEAST, true));
        account.sub(127 << 20);
        assert_eq!((account.share(), account.is_spent()), (4 << 20, false));
    }

    #[test]
    fn stuck_connections_stay_within_the_budget_but_for_what_each_may_always_have() {
        for most in [32 << 20, 512 << 20] {
            let budget = Arc::new(Budget::new(most));
            let account = Rc::new(Account::new(&budget));
            let mut stuck = Vec::new();
            while stuck.len() < most / LEAST / 2 {
                let mut charge = Charge::new(&account);
                charge.set(account.share().min(512 * 1024));
                stuck.push(charge);
            }
            let held = budget.held.load(Relaxed);
            assert!(held <= most + stuck.len() * LEAST, "{held} of {most}");
            assert!(held < most * 3 / 2);
            drop(stuck);
            assert_eq!(account.held(), 0);
            assert!(budget.held.load(Relaxed) < UNTOLD);
        }
    }

    #[test]
    fn workers_know_of_each_other() {
        let budget = Arc::new(Budget::new(64 << 20));
        let (one, other) = (Account::new(&budget), Account::new(&budget));
        (0..700).for_each(|_| one.add(100_000));
        assert_eq!(other.share(), LEAST);
        (0..700).for_each(|_| one.sub(100_000));
        assert_eq!(other.share(), 4 << 20);
    }

    #[test]
    fn memory_is_handed_back_once_for_each_peak() {
        let budget = Arc::new(Budget::new(512 << 20));
        let account = Account::new(&budget);
        account.add(200 << 20);
        assert!(!budget.is_past_peak(), "it is in use");
        account.sub(180 << 20);
        assert_eq!([budget.is_past_peak(), budget.is_past_peak()], [true, false]);
        account.add(PEAK / 2);
        account.sub(PEAK / 2);
        assert!(!budget.is_past_peak(), "too little");
    }

    #[test]
    fn the_budget_follows_the_machine() {
        let most = |memory| Budget::of_machine(memory).most;
        assert_eq!(
            [None, Some(64 << 20), Some(1 << 30), Some(1 << 40)].map(most),
            [32, 32, 64, 512].map(|mib| mib << 20)
        );
    }
}
