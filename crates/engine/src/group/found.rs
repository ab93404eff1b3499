//! What a group of type `probe` has found out by trying: which member reaches which destination.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Destinations that are remembered.
const MOST: usize = 8192;

/// The place of the member that reached a destination last, and when.
#[derive(Debug)]
pub(super) struct Found {
    holds: Duration,
    members: Mutex<HashMap<u64, (usize, Instant)>>,
}

impl Found {
    /// What is found holds for so long.
    pub(super) fn new(holds: Duration) -> Self {
        Self { holds, members: Mutex::default() }
    }

    /// The member that reached a destination, if that was found lately.
    pub(super) fn get(&self, target: u64) -> Option<usize> {
        let members = self.members.lock();
        members.get(&target).filter(|(_, at)| at.elapsed() < self.holds).map(|(member, _)| *member)
    }

    /// Remembers it.
    pub(super) fn note(&self, target: u64, member: usize) {
        let mut members = self.members.lock();
        if members.len() >= MOST && !members.contains_key(&target) {
            members.retain(|_, (_, at)| at.elapsed() < self.holds);
            if members.len() >= MOST {
                members.clear();
            }
        }
        members.insert(target, (member, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_holds_for_a_while() {
        let found = Found::new(Duration::from_secs(60));
        assert_eq!(found.get(1), None);
        found.note(1, 2);
        found.note(1, 3);
        assert_eq!((found.get(1), found.get(2)), (Some(3), None));
        let found = Found::new(Duration::ZERO);
        found.note(1, 2);
        assert_eq!(found.get(1), None);
    }

    #[test]
    fn there_is_a_bound() {
        let found = Found::new(Duration::from_secs(60));
        for target in 0..3 * MOST as u64 {
            found.note(target, 0);
        }
        assert!(found.members.lock().len() <= MOST);
        assert_eq!(found.get(3 * MOST as u64 - 1), Some(0));
    }
}
