//! `GEOSITE`: categories of names, from the database of v2fly (`geosite.dat`), which mihomo uses as well.
//!
//! A list of categories as protocol buffers, `app/router/routercommon/common.proto` of github.com/v2fly/v2ray-core:
//! `GeoSiteList { repeated GeoSite entry = 1 }`, `GeoSite { string country_code = 1; repeated Domain domain = 2 }`,
//! `Domain { Type type = 1; string value = 2; repeated Attribute attribute = 3 }`, `Attribute { string key = 1; … }`.
//! Only the categories that rules name are read through.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use crate::bytes::Bytes;
use crate::condition::{Condition, NameKind, regex};
use crate::domain;
use crate::error::BinaryError;
use crate::set::SetData;

/// A database of names by category.
pub struct GeoSite {
    bytes: Vec<u8>,
    /// Where the entries of each category lie.
    categories: HashMap<Box<str>, Range<usize>>,
}

impl fmt::Debug for GeoSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeoSite").field("categories", &self.categories.len()).finish_non_exhaustive()
    }
}

impl GeoSite {
    /// Takes the bytes of a database file.
    ///
    /// # Errors
    /// If they are no database.
    pub fn new(bytes: Vec<u8>) -> Result<Self, BinaryError> {
        let broken = |why: BinaryError| BinaryError::new(format!("this is no database of names: {why}"));
        let mut categories = HashMap::new();
        let mut rest = Bytes::new(&bytes);
        while !rest.is_empty() {
            let Value::Bytes(1, entry) = value(&mut rest).map_err(broken)? else {
                return Err(broken(rest.wrong("a category is expected")));
            };
            let end = rest.position();
            let mut fields = Bytes::new(entry);
            let mut name = None;
            while !fields.is_empty() && name.is_none() {
                if let Value::Bytes(1, code) = value(&mut fields).map_err(broken)? {
                    name = std::str::from_utf8(code).ok();
                }
            }
            let name = name.ok_or_else(|| broken(rest.wrong("a category has no name")))?;
            categories.insert(name.to_ascii_lowercase().into(), end - entry.len()..end);
        }
        if categories.is_empty() {
            return Err(BinaryError::new("this database of names is empty"));
        }
        Ok(Self { bytes, categories })
    }

    /// Whether there is a category, whose name is in lower case.
    pub(crate) fn has(&self, category: &str) -> bool {
        self.categories.contains_key(category)
    }

    /// The entries of a category that have an attribute, if one is given.
    pub(crate) fn entries(&self, category: &str, attribute: Option<&str>) -> Result<SetData, BinaryError> {
        let missing = || BinaryError::new(format!("the database of names has no category {category:?}"));
        let range = self.categories.get(category).cloned().ok_or_else(missing)?;
        let mut fields = Bytes::new(self.bytes.get(range).ok_or_else(missing)?);
        let mut set = SetData::default();
        while !fields.is_empty() {
            if let Value::Bytes(2, domain) = value(&mut fields)? {
                let at = fields.clone();
                if let Some(condition) = entry(domain, attribute).map_err(|why| at.wrong(why))? {
                    set.add(condition).map_err(|why| at.wrong(why))?;
                }
            }
        }
        Ok(set)
    }
}

/// One name of a category; none if it lacks the attribute.
fn entry(domain: &[u8], attribute: Option<&str>) -> Result<Option<Condition>, String> {
    let mut fields = Bytes::new(domain);
    let (mut kind, mut text, mut wanted) = (0, "", attribute.is_none());
    while !fields.is_empty() {
        match value(&mut fields).map_err(|e| e.to_string())? {
            Value::Number(1, number) => kind = number,
            Value::Bytes(2, bytes) => text = std::str::from_utf8(bytes).map_err(|_| "a name is not UTF-8")?,
            Value::Bytes(3, bytes) => {
                let mut inner = Bytes::new(bytes);
                while !inner.is_empty() {
                    if let Value::Bytes(1, key) = value(&mut inner).map_err(|e| e.to_string())? {
                        wanted |= attribute.is_some_and(|wanted| wanted.as_bytes().eq_ignore_ascii_case(key));
                    }
                }
            }
            _ => {}
        }
    }
    if !wanted {
        return Ok(None);
    }
    Ok(Some(match kind {
        0 if text.is_empty() => return Err("a part of a name is empty".to_owned()),
        0 => Condition::Keyword(text.to_ascii_lowercase().into()),
        1 => Condition::Regex(Box::new(regex(text)?)),
        2 => Condition::Name(NameKind::Suffix, domain::name(text)?),
        3 => Condition::Name(NameKind::Exact, domain::name(text)?),
        _ => return Err(format!("type {kind} of a name is not known")),
    }))
}

/// A field of a protocol buffer: its number and what it holds.
enum Value<'a> {
    Number(u64, u64),
    Bytes(u64, &'a [u8]),
    Skipped,
}

fn value<'a>(bytes: &mut Bytes<'a>) -> Result<Value<'a>, BinaryError> {
    let tag = bytes.varint()?;
    match tag & 7 {
        0 => Ok(Value::Number(tag >> 3, bytes.varint()?)),
        2 => {
            let len = bytes.varint_count(1)?;
            Ok(Value::Bytes(tag >> 3, bytes.take(len)?))
        }
        1 => bytes.take(8).map(|_| Value::Skipped),
        5 => bytes.take(4).map(|_| Value::Skipped),
        kind => Err(bytes.wrong(format_args!("{kind} is no kind of field"))),
    }
}
