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
        return wrong(match ascii.starts_with('.') {
            true => "it begins with a dot",
            false => "two dots have nothing between them",
        });
    }
    Ok(ascii.into())
}

/// The longest label (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// Why no flow has this name, if none can: what DNS and the first bytes of flows are taken for names of hosts has letters,
/// digits, `-` and `_` alone. `wild` are the characters that stand for others.
pub(crate) fn never(name: &str, wild: &str) -> Option<String> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || wild.contains(c);
    if let Some(other) = name.chars().find(|c| !known(*c)) {
        let instead = match other {
            '*' | '?' => "; DOMAIN-WILDCARD knows it",
            '+' => "; DOMAIN-SUFFIX takes a name with all below it",
            _ => "",
        };
        return Some(format!("no host name has {other:?} in it{instead}"));
    }
    let length = |label: &str| label.chars().filter(|c| !wild.contains(*c)).count();
    let long = name.split('.').any(|label| length(label) > MAX_LABEL);
    (long || length(name) > MAX_NAME).then(|| "no host name has as many characters (RFC 1035)".to_owned())
}

/// A part of names, as in `DOMAIN-KEYWORD`.
pub(crate) fn keyword(text: &str) -> Result<Box<str>, String> {
    if !text.is_ascii() {
        return Err("names have xn-- and ASCII in its place (RFC 5890)".to_owned());
    }
    let text = text.to_ascii_lowercase();
    match never(&text, "") {
        Some(why) => Err(why),
        None if text.contains("..") => Err("two dots have nothing between them".to_owned()),
        None => Ok(text.into()),
    }
}

/// A pattern of names, as in `DOMAIN-WILDCARD`. What is not ASCII is written as the DNS has it, where nothing unknown is in the
/// same label.
pub(crate) fn wildcard(text: &str) -> Result<Box<str>, String> {
    const WILD: &str = "*?";
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = text.split('.').map(|label| match label {
        label if label.is_ascii() => Ok(label.to_ascii_lowercase()),
        label if label.contains(['*', '?']) => {
            Err(format!("names have xn-- and ASCII in the place of {label:?} (RFC 5890)"))
        }
        label => idna::domain_to_ascii(label)
            .map_err(|_| format!("{label:?} has characters that no name has (RFC 5890)")),
    });
    let labels = labels.collect::<Result<Vec<_>, _>>()?;
    if labels.iter().any(String::is_empty) {
        return Err("no host name has nothing between two dots, or before the first".to_owned());
    }
    let text = labels.join(".");
    match never(&text, WILD) {
        Some(why) => Err(why),
        None => Ok(text.into()),
    }
}

/// An entry of a list of domains: `a.example`, `+.example` (it and all below), `.example` (all below), and `*` for
/// exactly one label anywhere. Besides why it never matches, if so.
pub(crate) fn entry(text: &str) -> Result<(Condition, Option<String>), String> {
    let (rest, kind) = match (text.strip_prefix("+."), text.strip_prefix('.')) {
        (Some(rest), _) => (rest, NameKind::Suffix),
        (None, Some(rest)) => (rest, NameKind::Below),
        (None, None) => (text, NameKind::Exact),
    };
    let condition = pattern(rest, kind)?;
    let never = match &condition {
        Condition::Name(_, name) => never(name, ""),
        Condition::Labels(labels) => {
            labels.pattern.split('.').filter(|label| *label != "*").find_map(|label| never(label, ""))
        }
        _ => None,
    };
    Ok((condition, never))
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
    fn what_is_asked_of_names_can_be_in_one() {
        let long = "a".repeat(64);
        for text in ["Example.", "-ads", "_tcp", "a.b", ".", ".a."] {
            assert_eq!(keyword(text).as_deref(), Ok(text.to_ascii_lowercase().as_str()));
        }
        for text in ["*ads*", "a b", "a..b", "bücher", "a:1", "http://", &long] {
            assert!(keyword(text).is_err(), "{text}");
        }
        for (text, read) in [
            ("*.Example.COM.", "*.example.com"),
            ("*.bücher.example", "*.xn--bcher-kva.example"),
            ("a?c*", "a?c*"),
            ("*", "*"),
        ] {
            assert_eq!(wildcard(text).as_deref(), Ok(read));
        }
        wildcard(&format!("*{}.example", &long[1..])).unwrap();
        for text in [".example", "+.example", "*..example", "*bücher.example", "*.example:443", &long] {
            assert!(wildcard(text).is_err(), "{text}");
        }
        for text in ["a*b.example", "a.example:443", "*.a+b.example", &format!("+.{long}")] {
            assert!(entry(text).unwrap().1.is_some(), "{text}");
        }
        for text in ["+.*.example", "*.example", "_a.-b", "*"] {
            assert_eq!(entry(text).unwrap().1, None, "{text}");
        }
    }

    #[test]
    fn stars_are_single_labels() {
        let matches = |pattern: &str, host: &str| match entry(pattern).unwrap().0 {
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
