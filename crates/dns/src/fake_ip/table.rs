//! Which name has which slot. A slot stands for one address of each family.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a slot keeps its name after it was last given out, even if all are in use: programs remember addresses
/// longer than they were told to.
pub(super) const GRACE: Duration = Duration::from_secs(30);

const NONE: u32 = u32::MAX;

/// Every slot was given out lately, or is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Names and their slots. Those that are not in use make a list, the one that was used last at its end; the first gives
/// way to a new name.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    by_name: HashMap<Arc<str>, u32>,
    /// Slots below `slots.len()` without a name.
    free: Vec<u32>,
    capacity: u32,
    oldest: u32,
    newest: u32,
}

#[derive(Debug)]
struct Slot {
    /// None while it is free.
    name: Option<Arc<str>>,
    /// Flows that use it. Such a slot is not in the list.
    pins: u32,
    /// None if that was before this program started.
    used: Option<Instant>,
    before: u32,
    after: u32,
}

impl Slot {
    fn free() -> Self {
        Self { name: None, pins: 0, used: None, before: NONE, after: NONE }
    }
}

impl Table {
    pub(super) fn new(capacity: u32) -> Self {
        let capacity = capacity.min(NONE - 1);
        Self {
            slots: Vec::new(),
            by_name: HashMap::new(),
            free: Vec::new(),
            capacity,
            oldest: NONE,
            newest: NONE,
        }
    }

    /// A table as it was before a restart. Of two names for a slot the later one holds, of two slots for a name, too.
    pub(super) fn restore(capacity: u32, entries: impl IntoIterator<Item = (u32, Arc<str>)>) -> Self {
        let mut table = Self::new(capacity);
        for (slot, name) in entries {
            if slot >= table.capacity {
                continue;
            }
            while table.slots.len() <= slot as usize {
                table.slots.push(Slot::free());
            }
            table.clear(slot);
            if let Some(former) = table.by_name.get(&name).copied() {
                table.clear(former);
            }
            table.fill(slot, name, None);
        }
        table.free = (0..table.slots.len() as u32)
            .rev()
            .filter(|slot| table.at(*slot).is_some_and(|s| s.name.is_none()))
            .collect();
        table
    }

    /// The slot of a name, and whether the name is new in it.
    pub(super) fn slot(&mut self, name: &str, now: Instant) -> Result<(u32, bool), Full> {
        if let Some(slot) = self.by_name.get(name).copied() {
            self.touch(slot, now);
            return Ok((slot, false));
        }
        let slot = self.vacant(now)?;
        self.fill(slot, Arc::from(name), Some(now));
        Ok((slot, true))
    }

    /// The name of a slot.
    pub(super) fn name(&self, slot: u32) -> Option<&Arc<str>> {
        self.at(slot)?.name.as_ref()
    }

    /// Keeps a slot's name until [`Self::unpin`].
    pub(super) fn pin(&mut self, slot: u32) -> Option<Arc<str>> {
        let found = self.slots.get_mut(slot as usize)?;
        let name = Arc::clone(found.name.as_ref()?);
        found.pins += 1;
        if found.pins == 1 {
            self.unlink(slot);
        }
        Some(name)
    }

    /// Ends what [`Self::pin`] began.
    pub(super) fn unpin(&mut self, slot: u32, now: Instant) {
        let Some(found) = self.slots.get_mut(slot as usize) else { return };
        if found.pins == 0 {
            return;
        }
        found.pins -= 1;
        found.used = Some(now);
        if found.pins == 0 {
            self.append(slot);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// All names, in the order in which they would give way.
    pub(super) fn entries(&self) -> Vec<(u32, Arc<str>)> {
        let mut entries = Vec::with_capacity(self.len());
        let mut at = self.oldest;
        while let Some(slot) = self.at(at) {
            entries.extend(slot.name.clone().map(|name| (at, name)));
            at = slot.after;
        }
        let pinned = self.slots.iter().enumerate().filter(|(_, slot)| slot.pins > 0);
        entries.extend(pinned.filter_map(|(n, slot)| Some((n as u32, slot.name.clone()?))));
        entries
    }

    fn at(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)
    }

    fn vacant(&mut self, now: Instant) -> Result<u32, Full> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let next = self.slots.len() as u32;
        if next < self.capacity {
            self.slots.push(Slot::free());
            return Ok(next);
        }
        let oldest = self.oldest;
        let found = self.at(oldest).ok_or(Full)?;
        if found.used.is_some_and(|used| now.saturating_duration_since(used) < GRACE) {
            return Err(Full);
        }
        self.clear(oldest);
        Ok(oldest)
    }

    fn fill(&mut self, slot: u32, name: Arc<str>, used: Option<Instant>) {
        self.by_name.insert(Arc::clone(&name), slot);
        if let Some(found) = self.slots.get_mut(slot as usize) {
            found.name = Some(name);
            found.used = used;
        }
        self.append(slot);
    }

    /// Takes the name out of a slot that is not in use.
    fn clear(&mut self, slot: u32) {
        let Some(name) = self.slots.get_mut(slot as usize).and_then(|found| found.name.take()) else {
            return;
        };
        self.by_name.remove(&name);
        self.unlink(slot);
    }

    fn touch(&mut self, slot: u32, now: Instant) {
        let Some(found) = self.slots.get_mut(slot as usize) else { return };
        found.used = Some(now);
        if found.pins == 0 {
            self.unlink(slot);
            self.append(slot);
        }
    }

    fn append(&mut self, slot: u32) {
        let last = std::mem::replace(&mut self.newest, slot);
        if let Some(found) = self.slots.get_mut(slot as usize) {
            (found.before, found.after) = (last, NONE);
        }
        match self.slots.get_mut(last as usize) {
            Some(last) => last.after = slot,
            None => self.oldest = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Some(found) = self.slots.get_mut(slot as usize) else { return };
        let (before, after) = (found.before, found.after);
        (found.before, found.after) = (NONE, NONE);
        match self.slots.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.oldest = after,
        }
        match self.slots.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => self.newest = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same with a list that is searched from end to end.
    #[derive(Default)]
    struct Obvious {
        /// Slot, name, pins, last use; in the order of use.
        entries: Vec<(u32, String, u32, Instant)>,
        capacity: u32,
    }

    impl Obvious {
        fn slot(&mut self, name: &str, now: Instant) -> Result<(u32, bool), Full> {
            if let Some(at) = self.entries.iter().position(|entry| entry.1 == name) {
                let mut entry = self.entries.remove(at);
                entry.3 = now;
                self.entries.push(entry.clone());
                return Ok((entry.0, false));
            }
            let slot = if (self.entries.len() as u32) < self.capacity {
                self.entries.len() as u32
            } else {
                let at = self.entries.iter().position(|entry| entry.2 == 0).ok_or(Full)?;
                if now - self.entries[at].3 < GRACE {
                    return Err(Full);
                }
                self.entries.remove(at).0
            };
            self.entries.push((slot, name.to_owned(), 0, now));
            Ok((slot, true))
        }

        fn pin(&mut self, slot: u32) -> Option<String> {
            let entry = self.entries.iter_mut().find(|entry| entry.0 == slot)?;
            entry.2 += 1;
            Some(entry.1.clone())
        }

        fn unpin(&mut self, slot: u32, now: Instant) {
            let Some(at) = self.entries.iter().position(|entry| entry.0 == slot && entry.2 > 0) else {
                return;
            };
            self.entries[at].2 -= 1;
            self.entries[at].3 = now;
            if self.entries[at].2 == 0 {
                let entry = self.entries.remove(at);
                self.entries.push(entry);
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_one(steps in prop::collection::vec((0..3_u8, 0..12_u32, 0..20_u64), 1..400)) {
            let mut table = Table::new(5);
            let mut obvious = Obvious { capacity: 5, ..Obvious::default() };
            let mut now = Instant::now();
            for (what, number, pause) in steps {
                now += Duration::from_secs(pause);
                match what {
                    0 => {
                        let name = format!("{number}.example");
                        prop_assert_eq!(table.slot(&name, now), obvious.slot(&name, now));
                    }
                    1 => {
                        let pinned = table.pin(number).map(|name| name.to_string());
                        prop_assert_eq!(pinned, obvious.pin(number));
                    }
                    _ => {
                        table.unpin(number, now);
                        obvious.unpin(number, now);
                    }
                }
                for slot in 0..6 {
                    let expected = obvious.entries.iter().find(|entry| entry.0 == slot).map(|entry| &*entry.1);
                    prop_assert_eq!(table.name(slot).map(|name| &**name), expected);
                }
                prop_assert_eq!(table.len(), obvious.entries.len());
                prop_assert_eq!(table.entries().len(), table.len());
            }
        }
    }

    #[test]
    fn a_restored_table_has_the_same_names_in_the_same_slots() {
        let now = Instant::now();
        let entries = [(3, "c"), (0, "a"), (3, "d"), (1, "a"), (9, "beyond")];
        let mut table = Table::restore(4, entries.map(|(slot, name)| (slot, Arc::from(name))));
        assert_eq!(table.name(3).map(|name| &**name), Some("d"));
        assert_eq!(table.name(1).map(|name| &**name), Some("a"));
        assert_eq!(table.name(0), None, "its name has moved");
        assert_eq!(table.len(), 2);
        assert_eq!(table.slot("new", now), Ok((0, true)));
        assert_eq!(table.slot("newer", now), Ok((2, true)));
        // Those from before the restart give way at once, in their order.
        assert_eq!(table.slot("newest", now), Ok((3, true)));
        assert_eq!(table.slot("a", now), Ok((1, false)));
        assert_eq!(table.slot("one more", now), Err(Full));
        assert_eq!(table.slot("one more", now + GRACE), Ok((0, true)));
    }
}
