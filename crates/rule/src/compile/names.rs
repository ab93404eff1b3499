//! Many names, each with the first rule that it belongs to.
//!
//! One hash table holds all names, and a host name is looked up once for each of its ends that begins at a label: the
//! hash runs from the last character to the first, so that all ends are hashed in one pass. An entry is twelve bytes;
//! its name lies in one text with all others.

use hashbrown::HashTable;

use crate::condition::NameKind;

/// "None" among positions of rules.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    len: u8,
    kind: NameKind,
    order: u32,
}

/// Names and their rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    table: HashTable<Entry>,
    text: String,
    /// Of how many labels there are names: bit 2 for `example.com`. The last bit is for all longer ones.
    depths: u128,
    first: Option<u32>,
}

impl Names {
    /// Makes room, so that the table need not grow step by step.
    pub(crate) fn reserve(&mut self, names: usize) {
        let Self { table, text, .. } = self;
        table.reserve(names, |entry| hash(entry.name(text)));
    }

    /// Adds a name, unless it is there for an earlier rule. `Err` if the names take more than 4 GiB.
    pub(crate) fn insert(&mut self, name: &str, kind: NameKind, order: u32) -> Result<(), ()> {
        let Self { table, text, depths, first } = self;
        let hash_of_name = hash(name);
        let same = |entry: &Entry| entry.kind == kind && entry.name(text) == name;
        if let Some(found) = table.find_mut(hash_of_name, same) {
            found.order = found.order.min(order);
        } else {
            let at = u32::try_from(text.len()).map_err(|_| ())?;
            // Names have at most 253 bytes: `domain::name`.
            let len = u8::try_from(name.len()).map_err(|_| ())?;
            text.push_str(name);
            let entry = Entry { at, len, kind, order };
            table.insert_unique(hash_of_name, entry, |entry| hash(entry.name(text)));
            *depths |= depth_bit(name.bytes().filter(|byte| *byte == b'.').count() + 1);
        }
        *first = Some(first.map_or(order, |first| first.min(order)));
        Ok(())
    }

    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
    }

    /// The first rule that has the host name, before rule `best`.
    pub(crate) fn find(&self, host: &str, best: u32) -> Option<u32> {
        if self.first? >= best {
            return None;
        }
        let bytes = host.as_bytes();
        let mut best = best;
        let mut state = SEED;
        let mut depth = 1;
        // Where the label begins that stands before the end that is looked at.
        for at in (0..bytes.len()).rev() {
            let starts = at == 0 || bytes.get(at - 1) == Some(&b'.');
            state = step(state, bytes.get(at).copied().unwrap_or_default());
            if !starts {
                continue;
            }
            if self.depths & depth_bit(depth) != 0 {
                let end = host.get(at..).unwrap_or_default();
                for entry in self.table.iter_hash(finish(state)) {
                    if entry.order < best && entry.applies(at, bytes) && entry.name(&self.text) == end {
                        best = entry.order;
                    }
                }
            }
            depth += 1;
        }
        (best != NONE && self.first.is_some_and(|first| first <= best)).then_some(best)
    }

    pub(crate) fn memory(&self) -> usize {
        self.table.allocation_size() + self.text.capacity()
    }
}

impl Entry {
    fn name(self, text: &str) -> &str {
        let at = self.at as usize;
        text.get(at..at + usize::from(self.len)).unwrap_or_default()
    }

    /// Whether the entry's kind has a host name whose end from `at` on is the entry's name.
    fn applies(self, at: usize, host: &[u8]) -> bool {
        match self.kind {
            NameKind::Exact => at == 0,
            NameKind::Suffix => true,
            NameKind::Below => at > 0,
            NameKind::Star => at > 0 && !host.get(..at - 1).unwrap_or_default().contains(&b'.'),
        }
    }
}

fn depth_bit(depth: usize) -> u128 {
    1 << depth.min(127)
}

/// The fractional part of the golden ratio, as of SplitMix64.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// FNV-1a over the bytes from the last to the first.
fn step(state: u64, byte: u8) -> u64 {
    (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Spreads the bits: the table takes its place from the low ones and its tag from the high ones.
fn finish(state: u64) -> u64 {
    let state = (state ^ (state >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    state ^ (state >> 32)
}

fn hash(name: &str) -> u64 {
    finish(name.bytes().rev().fold(SEED, step))
}
