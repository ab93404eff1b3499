//! Host names in rules and in queries: one form for both.

use std::borrow::Cow;

use crate::condition::{Condition, NameKind};

/// The longest name of the DNS, written with dots (RFC 1035, 2.3.4).
pub(crate) const MAX_NAME: usize = 253;

/// The form that names are compared in: ASCII lower case, without the dot of the root. `None` if the name is too
/// long to exist.
pub(crate) fn canonical(name: &str) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_NAME {
        return None;
    }
    Some(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// A name of a rule. What is not ASCII is written as the DNS has it (RFC 5890); punycode stays as given.
pub(crate) fn name(text: &str) -> Result<Box<str>, String> {
    let wrong = |why: &str| Err(format!("{text:?} is no host name: {why}"));
    let ascii: Cow<'_, str> = if text.is_ascii() {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        match idna::domain_to_ascii(text) {
            Ok(ascii) => Cow::Owned(ascii),
            Err(_) => return wrong("it has characters that no name has (RFC 5890)"),
        }
    };
    let ascii = ascii.strip_suffix('.').unwrap_or(&ascii);
    if ascii.is_empty() {
        return wrong("it is empty");
    }
    if ascii.len() > MAX_NAME {
        return wrong("it has more than 253 characters (RFC 1035)");
    }
    if ascii.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control() || byte == b'/') {
        return wrong("it has a blank, a slash or a control character");
    }
    if ascii.split('.').any(str::is_empty) {
        return wrong("two dots have nothing between them");
    }
    Ok(ascii.into())
}

/// An entry of a list of domains: `a.example`, `+.example` (it and all below), `.example` (all below), and `*` for
/// exactly one label anywhere.
pub(crate) fn entry(text: &str) -> Result<Condition, String> {
    if let Some(rest) = text.strip_prefix("+.") {
        return pattern(rest, NameKind::Suffix);
    }
    if let Some(rest) = text.strip_prefix('.') {
        return pattern(rest, NameKind::Below);
    }
    pattern(text, NameKind::Exact)
}

/// A key of a compiled list of mihomo: there `+.` stands for all below alone, and the name itself is another key.
pub(crate) fn compiled_entry(text: &str) -> Result<Condition, String> {
    match text.strip_prefix("+.") {
        Some(rest) => pattern(rest, NameKind::Below),
        None => pattern(text, NameKind::Exact),
    }
}

fn pattern(text: &str, kind: NameKind) -> Result<Condition, String> {
    if text == "+" {
        return Err("\"+\" stands before a name, such as +.example.com".to_owned());
    }
    if !text.split('.').any(|label| label == "*") {
        return Ok(Condition::Name(kind, name(text)?));
    }
    if kind == NameKind::Exact
        && let Some(rest) = text.strip_prefix("*.")
        && !rest.split('.').any(|label| label == "*")
    {
        return Ok(Condition::Name(NameKind::Star, name(rest)?));
    }
    let text = name(text)?;
    Ok(Condition::Labels(Box::new(Labels { kind, pattern: text })))
}

/// A name with `*` for single labels somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    /// `Exact`, `Suffix` or `Below`.
    kind: NameKind,
    pattern: Box<str>,
}

impl Labels {
    pub(crate) fn matches(&self, host: &str) -> bool {
        let mut host = host.rsplit('.');
        for label in self.pattern.rsplit('.') {
            match host.next() {
                Some(found) if label == "*" || label == found => {}
                _ => return false,
            }
        }
        match self.kind {
            NameKind::Suffix => true,
            NameKind::Below => host.next().is_some(),
            NameKind::Exact | NameKind::Star => host.next().is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_one_form() {
        assert_eq!(name("WWW.Example.COM.").unwrap().as_ref(), "www.example.com");
        assert_eq!(name("bücher.example").unwrap().as_ref(), "xn--bcher-kva.example");
        assert_eq!(name("xn--bcher-kva.example").unwrap().as_ref(), "xn--bcher-kva.example");
        assert_eq!(name("_dmarc.example").unwrap().as_ref(), "_dmarc.example");
        for bad in ["", ".", "a..b", "a b", "a/b", &"a".repeat(254)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(canonical("A.b.").as_deref(), Some("a.b"));
        assert_eq!(canonical(&"a".repeat(255)), None);
    }

    #[test]
    fn stars_are_single_labels() {
        let matches = |pattern: &str, host: &str| match entry(pattern).unwrap() {
            Condition::Labels(labels) => labels.matches(host),
            other => panic!("{other:?}"),
        };
        assert!(matches("a.*.c", "a.b.c"));
        assert!(!matches("a.*.c", "a.b.b.c"));
        assert!(!matches("a.*.c", "x.a.b.c"));
        assert!(matches("+.*.c", "b.c") && matches("+.*.c", "a.b.c") && !matches("+.*.c", "c"));
        assert!(matches(".*.c", "a.b.c") && !matches(".*.c", "b.c"));
        assert!(matches("*", "localhost") && !matches("*", "a.b"));
        assert!(entry("+").is_err() && entry("+.").is_err());
    }
}
