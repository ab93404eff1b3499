//! The compiled lists of names of mihomo and sing-box: a trie over the bytes of the reversed names, level by level.
//!
//! A bitmap has for each node, in the order of a breadth-first walk, a 0 for each child and then a 1. The labels of
//! the edges stand in the same order, and another bitmap says which nodes end a name. (This is the layout of
//! github.com/openacid/succinct.) Only the names are taken from it: a table of names in the order of rules is looked
//! up faster than this is.

use crate::MAX_ENTRIES;
use crate::bytes::Bytes;
use crate::domain::MAX_NAME;
use crate::error::BinaryError;

/// Nodes of one tree, each of which takes four bytes while it is read. A million names have about ten million.
const MAX_NODES: usize = 32 * 1024 * 1024;

/// The parts of a list, as they stand in the file.
pub(super) struct Trie<'a> {
    /// Words of 64 bits, big-endian.
    pub(super) leaves: &'a [u8],
    pub(super) bitmap: &'a [u8],
    pub(super) labels: &'a [u8],
}

impl Trie<'_> {
    /// Calls `each` with every name, in the direction of reading.
    pub(super) fn names(
        &self,
        at: &Bytes<'_>,
        mut each: impl FnMut(&[u8]) -> Result<(), BinaryError>,
    ) -> Result<(), BinaryError> {
        let nodes = self.labels.len() + 1;
        if nodes > MAX_NODES {
            return Err(at.wrong(format_args!("the tree of names has more than {MAX_NODES} nodes")));
        }
        // The parent of each node but the root; the edge to node `n` has label `n - 1`.
        let mut parents: Vec<u32> = Vec::with_capacity(self.labels.len());
        let mut node = 0u32;
        for at in 0..self.bitmap.len() * 8 {
            if node as usize == nodes {
                break;
            }
            match bit(self.bitmap, at) {
                true => node += 1,
                false if parents.len() < self.labels.len() => parents.push(node),
                false => break,
            }
        }
        if parents.len() < self.labels.len()
            || parents.iter().zip(1..).any(|(parent, child)| *parent >= child)
        {
            return Err(at.wrong("the list of names is broken: its tree does not fit its labels"));
        }
        let mut name = Vec::with_capacity(MAX_NAME);
        let mut count = 0;
        for leaf in 0..nodes {
            if !bit(self.leaves, leaf) {
                continue;
            }
            count += 1;
            if count > MAX_ENTRIES {
                return Err(at.wrong(format_args!("the list has more than {MAX_ENTRIES} names")));
            }
            // From the leaf to the root is the name forwards.
            name.clear();
            let mut node = leaf;
            while let Some(edge) = node.checked_sub(1) {
                // Beyond the longest name there is room for what stands for "all below".
                if name.len() > MAX_NAME + 2 {
                    return Err(at.wrong("the list has a name of more than 253 characters"));
                }
                name.extend(self.labels.get(edge));
                node = parents.get(edge).map_or(0, |parent| *parent as usize);
            }
            each(&name)?;
        }
        Ok(())
    }
}

/// Bit `at` of words of 64 bits, the lowest of each first.
fn bit(words: &[u8], at: usize) -> bool {
    let byte = at / 64 * 8 + 7 - at % 64 / 8;
    words.get(byte).is_some_and(|byte| byte >> (at % 8) & 1 != 0)
}
