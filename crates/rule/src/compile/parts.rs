//! Many keywords, regular expressions and programs, each with the first rule that it belongs to.

use std::collections::HashMap;

use aho_corasick::AhoCorasick;
use regex::{Regex, RegexSet, RegexSetBuilder};

use super::CompileError;
use crate::condition::REGEX_SIZE;

/// Parts of names, all looked for in one pass.
#[derive(Debug)]
pub(crate) struct Keywords {
    automaton: AhoCorasick,
    orders: Vec<u32>,
    first: u32,
}

impl Keywords {
    /// `None` if there are none.
    pub(crate) fn new(keywords: &[(Box<str>, u32)]) -> Result<Option<Self>, CompileError> {
        let Some(first) = keywords.iter().map(|(_, order)| *order).min() else { return Ok(None) };
        let automaton = AhoCorasick::new(keywords.iter().map(|(keyword, _)| keyword.as_bytes()))
            .map_err(|e| CompileError::new(format!("the keywords cannot be compiled: {e}")))?;
        Ok(Some(Self { automaton, orders: keywords.iter().map(|(_, order)| *order).collect(), first }))
    }

    pub(crate) fn find(&self, host: &str, best: u32) -> Option<u32> {
        if self.first >= best {
            return None;
        }
        let found = self.automaton.find_overlapping_iter(host);
        found
            .filter_map(|found| self.orders.get(found.pattern().as_usize()))
            .copied()
            .min()
            .filter(|at| *at < best)
    }

    pub(crate) fn memory(&self) -> usize {
        self.automaton.memory_usage() + 4 * self.orders.capacity()
    }
}

/// How many expressions are looked for together. More share a cache that they overflow.
const TOGETHER: usize = 32;

/// Regular expressions, in groups that are looked for together.
#[derive(Debug, Default)]
pub(crate) struct Regexes {
    groups: Vec<(RegexSet, Vec<u32>)>,
}

impl Regexes {
    /// The expressions with their rules, in the order of the rules.
    pub(crate) fn new(regexes: &[(Box<Regex>, u32)]) -> Result<Self, CompileError> {
        let mut groups = Vec::new();
        for group in regexes.chunks(TOGETHER) {
            let set = RegexSetBuilder::new(group.iter().map(|(regex, _)| regex.as_str()))
                .case_insensitive(true)
                .size_limit(REGEX_SIZE * TOGETHER)
                .nest_limit(64)
                .build()
                .map_err(|e| CompileError::new(format!("the regular expressions cannot be compiled: {e}")))?;
            groups.push((set, group.iter().map(|(_, order)| *order).collect()));
        }
        Ok(Self { groups })
    }

    pub(crate) fn find(&self, host: &str, best: u32) -> Option<u32> {
        for (set, orders) in &self.groups {
            if orders.first().is_none_or(|first| *first >= best) {
                return None;
            }
            // The orders ascend, so that the first match of the first group that has one is the first of all.
            if let Some(found) = set.matches(host).iter().next() {
                return orders.get(found).copied().filter(|order| *order < best);
            }
        }
        None
    }
}

/// Programs by name and by path, in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    names: HashMap<Box<str>, u32>,
    paths: HashMap<Box<str>, u32>,
    first: Option<u32>,
}

impl Programs {
    pub(crate) fn insert(&mut self, by_path: bool, program: Box<str>, order: u32) {
        let map = if by_path { &mut self.paths } else { &mut self.names };
        let entry = map.entry(program).or_insert(order);
        *entry = order.min(*entry);
        self.first = Some(self.first.map_or(order, |first| first.min(order)));
    }

    /// The first rule that asks about programs.
    pub(crate) fn first(&self) -> Option<u32> {
        self.first
    }

    pub(crate) fn find(&self, name: &str, path: &str) -> Option<u32> {
        let by_name = if self.names.is_empty() { None } else { self.names.get(name.to_lowercase().as_str()) };
        let by_path = if self.paths.is_empty() { None } else { self.paths.get(path.to_lowercase().as_str()) };
        match (by_name, by_path) {
            (Some(a), Some(b)) => Some(*a.min(b)),
            (a, b) => a.or(b).copied(),
        }
    }
}
