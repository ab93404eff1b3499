//! Lists of numbers and ranges: `80/443/8000-8999`.

use std::fmt;
use std::str::FromStr;

/// Numbers that a rule names. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges<T>(Box<[(T, T)]>);

impl<T: Copy + Ord + FromStr + fmt::Display> Ranges<T> {
    pub(crate) fn new(ranges: Vec<(T, T)>) -> Option<Self> {
        (!ranges.is_empty()).then(|| Self(ranges.into()))
    }

    /// Parses numbers and ranges between slashes. `Err` is the part that is neither. A range may be given from its
    /// end, as mihomo has it.
    pub(crate) fn parse(text: &str, max: T) -> Result<Self, &str> {
        let number = |text: &str| text.trim().parse().ok().filter(|number: &T| *number <= max);
        let mut ranges = Vec::new();
        for part in text.split('/').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) => ranges.push((first.min(last), first.max(last))),
                _ => return Err(part),
            }
        }
        // `split` gives at least one part.
        Ok(Self(ranges.into()))
    }

    pub(crate) fn contains(&self, value: T) -> bool {
        self.0.iter().any(|(first, last)| *first <= value && value <= *last)
    }
}
