//! How much of something each source has: one alone must not keep the others out.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::limits::Share;

/// What there is of a thing, in all and by source.
#[derive(Debug, Default)]
pub(super) struct BySource {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

impl BySource {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all
    }

    /// How many `source` has.
    pub(super) fn of(&self, source: IpAddr) -> usize {
        self.of.get(&source).copied().unwrap_or(0)
    }

    /// Whether `source` may have one more.
    pub(super) fn has_room(&self, source: IpAddr, share: Share) -> bool {
        self.all < share.all && self.of(source) < share.of_source
    }

    /// Counts one more of `source`.
    pub(super) fn enter(&mut self, source: IpAddr) {
        self.all += 1;
        *self.of.entry(source).or_default() += 1;
    }

    /// Counts one less of it.
    pub(super) fn leave(&mut self, source: IpAddr) {
        self.all -= 1;
        if let Some(count) = self.of.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_leaves_room_for_the_others() {
        let share = Share { all: 8, of_source: 6 };
        let mut there = BySource::default();
        let source = |last| IpAddr::from([192, 0, 2, last]);
        let enter = |there: &mut BySource, last| {
            let room = |there: &BySource| there.has_room(source(last), share);
            (0..100).take_while(|_| room(there).then(|| there.enter(source(last))).is_some()).count()
        };
        assert_eq!([1, 2, 3].map(|last| enter(&mut there, last)), [6, 2, 0]);
        there.leave(source(1));
        assert_eq!([1, 3].map(|last| enter(&mut there, last)), [1, 0]);
        (0..6).for_each(|_| there.leave(source(1)));
        (0..2).for_each(|_| there.leave(source(2)));
        assert_eq!((there.len(), there.of.len()), (0, 0), "nothing is kept of those that are gone");
    }
}
