//! Rule sets: lists that a rule refers to by name, in the formats of Clash, mihomo and sing-box.

pub(crate) mod mrs;
pub(crate) mod srs;
mod succinct;
pub(crate) mod text;
pub(crate) mod yaml;

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::MAX_ENTRIES;
use crate::condition::{Address, Condition, NameKind, Side};
use crate::domain;
use crate::error::{BinaryError, ParseError, Wrong};
use crate::parse::{Dialect, Field, parse_condition};
pub use text::utf8;

/// How a file of rules is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One entry a line.
    Text,
    /// A list under the key `payload`.
    Yaml,
    /// Compiled by mihomo.
    Mrs,
    /// Compiled by sing-box.
    Srs,
}

/// What the entries of a rule set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Behavior {
    /// Names: `example.com`, `+.example.com`, `*.example.com`.
    Domain,
    /// Networks.
    IpCidr,
    /// Rules without an outbound.
    Classical,
}

/// A word that is none of those that there are. Displays as the words that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownWord(&'static str);

impl Format {
    /// What the ending of a file's name says.
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "txt" | "list" | "conf" | "text" => Some(Self::Text),
            "yaml" | "yml" => Some(Self::Yaml),
            "mrs" => Some(Self::Mrs),
            "srs" => Some(Self::Srs),
            _ => None,
        }
    }
}

impl FromStr for Format {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "text" => Ok(Self::Text),
            "yaml" => Ok(Self::Yaml),
            "mrs" => Ok(Self::Mrs),
            "srs" => Ok(Self::Srs),
            _ => Err(UnknownWord("text, yaml, mrs or srs")),
        }
    }
}

impl FromStr for Behavior {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "domain" => Ok(Self::Domain),
            "ipcidr" => Ok(Self::IpCidr),
            "classical" => Ok(Self::Classical),
            _ => Err(UnknownWord("domain, ipcidr or classical")),
        }
    }
}

impl fmt::Display for Behavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Domain => "domain",
            Self::IpCidr => "ipcidr",
            Self::Classical => "classical",
        })
    }
}

/// Why a file is no rule set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Entries of a text that are wrong, each with its place; at least one.
    #[error("{}", .0.first().map_or_else(String::new, ToString::to_string))]
    Entries(Vec<ParseError>),
    /// A binary file that is wrong.
    #[error(transparent)]
    Binary(#[from] BinaryError),
}

/// The entries of a rule set. A flow matches if it matches any of them.
#[derive(Clone, Debug, Default)]
pub struct SetData {
    /// Names, one behind the other: there may be a million.
    names: String,
    ends: Vec<(u32, NameKind)>,
    pub(crate) nets: Vec<IpNet>,
    pub(crate) others: Vec<Condition>,
    /// Entries that are left out because nothing here could match them: as mihomo leaves them out, or has them and nothing
    /// ever comes of it. Lists of others have some.
    skipped: Vec<ParseError>,
}

impl SetData {
    /// Reads a file. `behavior` is what its entries are; binary files say that themselves.
    ///
    /// # Errors
    /// Everything that is wrong in a text; the first thing that is wrong in a binary file.
    pub fn parse(bytes: &[u8], format: Format, behavior: Behavior) -> Result<Self, SetError> {
        match format {
            Format::Mrs => Ok(mrs::parse(bytes)?),
            Format::Srs => Ok(srs::parse(bytes)?),
            Format::Text | Format::Yaml => {
                let text = text::utf8(bytes).map_err(|error| SetError::Entries(vec![error]))?;
                Self::parse_text(text, format, behavior)
            }
        }
    }

    fn parse_text(text: &str, format: Format, behavior: Behavior) -> Result<Self, SetError> {
        let mut set = Self::default();
        let mut errors = Vec::new();
        let mut push = |item: &str, line: usize, before: usize| {
            if let Err(wrong) = set.push(item, behavior) {
                let skip = wrong.never || is_foreign(item, behavior);
                let error = wrong.place(line, before, item);
                if skip { set.skipped.push(error) } else { errors.push(error) }
            }
        };
        if format == Format::Yaml {
            let read = yaml::list(text, |item| push(&item.text, item.line, item.before));
            errors.extend(read.err());
        } else {
            text::lines(text).for_each(|(line, item)| push(item, line, 0));
        }
        if errors.is_empty() { Ok(set) } else { Err(SetError::Entries(errors)) }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.ends.len() + self.nets.len() + self.others.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that nothing here could match, with their places. They are left out.
    pub fn skipped(&self) -> &[ParseError] {
        &self.skipped
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, NameKind)> {
        let mut begin = 0;
        self.ends.iter().filter_map(move |(end, kind)| {
            let from = std::mem::replace(&mut begin, *end as usize);
            Some((self.names.get(from..*end as usize)?, *kind))
        })
    }

    fn push(&mut self, item: &str, behavior: Behavior) -> Result<(), Wrong> {
        let whole = Field::new(item, 0);
        let condition = match behavior {
            Behavior::Domain => {
                let (condition, never) = domain::entry(whole.text).map_err(|why| whole.wrong(why))?;
                if let Some(why) = never {
                    let message = format!("{:?} never matches: {why}", whole.text);
                    return Err(Wrong { never: true, ..whole.wrong(message) });
                }
                condition
            }
            Behavior::IpCidr => Condition::Net(crate::parse::net(whole)?, ANY_DESTINATION),
            Behavior::Classical => {
                let (kind, rest) = whole.split_first();
                let rest = rest.unwrap_or(whole.end());
                let all = crate::parse::takes_commas(&kind.text.to_ascii_uppercase());
                let (payload, options) = if all { (rest, None) } else { rest.split_first() };
                parse_condition(kind, payload, options, &Dialect::Set)?
            }
        };
        self.add(condition).map_err(|message| whole.wrong(message))
    }

    /// Adds an entry.
    pub(crate) fn add(&mut self, condition: Condition) -> Result<(), String> {
        if self.len() >= MAX_ENTRIES {
            return Err(format!("the file has more than {MAX_ENTRIES} entries"));
        }
        match condition {
            Condition::Name(kind, name) => self.add_name(kind, &name)?,
            Condition::Net(net, ANY_DESTINATION) => self.nets.push(net),
            other => self.others.push(other),
        }
        Ok(())
    }

    pub(crate) fn add_name(&mut self, kind: NameKind, name: &str) -> Result<(), String> {
        let end =
            u32::try_from(self.names.len() + name.len()).map_err(|_| "the names take more than 4 GiB")?;
        self.names.push_str(name);
        self.ends.push((end, kind));
        Ok(())
    }
}

/// The destination, resolved where needed; whoever refers to the set may say that it is not to be.
pub(crate) const ANY_DESTINATION: Address = Address { side: Side::Destination, resolve: true };

/// Whether an entry of a rule set is of a kind that mihomo leaves out.
fn is_foreign(item: &str, behavior: Behavior) -> bool {
    let kind = item.split(',').next().unwrap_or_default().trim().to_ascii_uppercase();
    behavior == Behavior::Classical && crate::parse::FOREIGN.contains(&kind.as_str())
}

#[cfg(test)]
mod tests;
