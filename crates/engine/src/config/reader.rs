//! Reads typed values out of a parsed TOML document and remembers where each stood.
//!
//! Every value is looked at, so that all errors are reported and not only the first.

use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::settings::Located;

/// One file and the errors found in it so far.
pub(super) struct Reader<'a> {
    file: Arc<Path>,
    text: &'a str,
    /// The key being read, with its sections: `capture.mode`.
    key: String,
    pub(super) errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &Path, text: &'a str) -> Self {
        Self { file: file.into(), text, key: String::new(), errors: Vec::new() }
    }

    /// Line and column of a position in the file.
    pub(super) fn origin(&self, span: &Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            file: self.file.clone(),
            line: 1 + before.matches('\n').count(),
            column: 1 + before[line_start..].chars().count(),
        }
    }

    /// Records what is wrong with the key being read.
    pub(super) fn error(&mut self, span: &Range<usize>, message: impl AsRef<str>) {
        let message = match self.key.as_str() {
            "" => message.as_ref().to_owned(),
            key => format!("{key}: {}", message.as_ref()),
        };
        self.errors.push(ConfigError::new(Some(self.origin(span)), message));
    }

    fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(&value.span(), format!("expected {expected}, found {found}"));
    }
}

/// A value that can be read from TOML. Errors go to the reader; `None` means that there was one.
pub(super) trait FromToml: Sized {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self>;
}

impl FromToml for bool {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let read = value.get_ref().as_bool();
        if read.is_none() {
            reader.wrong_type(value, "a boolean");
        }
        read
    }
}

impl FromToml for u32 {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(integer) = value.get_ref().as_integer() else {
            reader.wrong_type(value, "an integer");
            return None;
        };
        let read = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        if read.is_none() {
            reader.error(&value.span(), format!("{integer} is not between 0 and 4294967295"));
        }
        read
    }
}

impl FromToml for String {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let read = value.get_ref().as_str().map(str::to_owned);
        if read.is_none() {
            reader.wrong_type(value, "a string");
        }
        read
    }
}

impl<T: FromToml> FromToml for Vec<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(array) = value.get_ref().as_array() else {
            reader.wrong_type(value, "a list");
            return None;
        };
        let read: Vec<Option<T>> = array.iter().map(|element| T::from_toml(element, reader)).collect();
        read.into_iter().collect()
    }
}

/// The right ones of a list whose entries have nothing to do with each other.
pub(super) struct Each<T>(pub(super) Vec<T>);

impl<T: FromToml> FromToml for Each<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(array) = value.get_ref().as_array() else {
            reader.wrong_type(value, "a list");
            return None;
        };
        Some(Self(array.iter().filter_map(|element| T::from_toml(element, reader)).collect()))
    }
}

impl<T: FromToml> FromToml for Located<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let read = T::from_toml(value, reader)?;
        Some(Self { value: read, origin: reader.origin(&value.span()) })
    }
}

/// A value written as a string.
pub(super) struct Text<T>(pub(super) T);

impl<T: FromStr<Err: std::fmt::Display>> FromToml for Text<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        match String::from_toml(value, reader)?.parse() {
            Ok(read) => Some(Self(read)),
            Err(why) => {
                reader.error(&value.span(), format!("{why}"));
                None
            }
        }
    }
}

/// A value written as a number.
pub(super) struct Number<T>(pub(super) T);

impl<T: TryFrom<u32, Error: std::fmt::Display>> FromToml for Number<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        match T::try_from(u32::from_toml(value, reader)?) {
            Ok(read) => Some(Self(read)),
            Err(why) => {
                reader.error(&value.span(), format!("{why}"));
                None
            }
        }
    }
}

/// A table of which each key is read by name; those left over are unknown.
pub(super) struct Section<'t, 'i> {
    name: String,
    table: &'t DeTable<'i>,
    known: Vec<&'static str>,
    /// Known as well, but not to be named among those that there are.
    later: Vec<&'static str>,
}

impl<'t, 'i> Section<'t, 'i> {
    /// The whole document.
    pub(super) fn root(table: &'t DeTable<'i>) -> Self {
        Self::named(String::new(), table)
    }

    /// A table that was found under a path of keys such as `outbound.proxy`.
    pub(super) fn named(name: String, table: &'t DeTable<'i>) -> Self {
        Self { name, table, known: Vec::new(), later: Vec::new() }
    }

    /// The path of this section, as in the errors.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The value of a key, unread.
    pub(super) fn raw(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    /// Where a key stands that is for a later version, whatever it holds.
    pub(super) fn later(&mut self, key: &'static str) -> Option<Range<usize>> {
        self.later.push(key);
        self.table.get_key_value(key).map(|(key, _)| key.span())
    }

    /// Reads a key, if it is there and right.
    pub(super) fn read<T: FromToml>(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<T> {
        let value = self.raw(key)?;
        reader.key = self.path(key);
        let read = T::from_toml(value, reader);
        reader.key.clear();
        read
    }

    /// The section under a key; an empty one if it is not there.
    pub(super) fn section(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<Section<'t, 'i>> {
        let value = self.raw(key)?;
        let name = self.path(key);
        reader.key.clone_from(&name);
        let table = value.get_ref().as_table();
        if table.is_none() {
            reader.wrong_type(value, "a table");
        }
        reader.key.clear();
        table.map(|table| Section::named(name, table))
    }

    /// The sections with names of the user's choice, sorted by name.
    pub(super) fn each(&self, reader: &mut Reader<'_>) -> Vec<(String, Range<usize>, Section<'t, 'i>)> {
        let mut sections = Vec::new();
        for (key, value) in self.table {
            let name = self.path(key.get_ref());
            match value.get_ref().as_table() {
                Some(table) => {
                    sections.push((key.get_ref().to_string(), key.span(), Section::named(name, table)));
                }
                None => {
                    reader.key = name;
                    reader.wrong_type(value, "a table");
                    reader.key.clear();
                }
            }
        }
        sections
    }

    /// The lists with names of the user's choice, sorted by name; none in the place of one that is wrong.
    pub(super) fn lists<T: FromToml>(
        &self,
        reader: &mut Reader<'_>,
    ) -> Vec<(String, Range<usize>, Option<T>)> {
        let mut lists = Vec::new();
        for (key, value) in self.table {
            reader.key = self.path(key.get_ref());
            let list = T::from_toml(value, reader);
            reader.key.clear();
            lists.push((key.get_ref().to_string(), key.span(), list));
        }
        lists
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, reader: &mut Reader<'_>) {
        let is_known = |key: &str| self.known.contains(&key) || self.later.contains(&key);
        for key in self.table.keys().filter(|key| !is_known(key.get_ref())) {
            let place = match self.name.as_str() {
                "" => "at the top".to_owned(),
                name => format!("in [{name}]"),
            };
            let message =
                format!("unknown key `{}` {place}; the keys are {}", key.get_ref(), self.known.join(", "));
            reader.error(&key.span(), message);
        }
    }
}
