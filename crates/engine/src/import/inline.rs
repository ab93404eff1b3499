//! Rule sets without a file: their entries stand where the set is used.

use super::Notes;
use super::yaml::Node;

/// A condition, with the options that go behind the outbound.
pub(super) struct Entry {
    condition: String,
    options: Vec<String>,
    /// Whether its payload may have commas, so that the outbound ends the rule.
    joined: bool,
}

impl Entry {
    /// A rule of it, by what follows the name of the set.
    pub(super) fn rule(&self, target: &str, options: &[&str]) -> String {
        let mut rule = format!("{},{target}", self.condition);
        if !self.joined {
            for option in self.options.iter().map(String::as_str).chain(options.iter().copied()) {
                rule.push(',');
                rule.push_str(option);
            }
        }
        rule
    }

    /// As one of several conditions.
    pub(super) fn nested(&self) -> String {
        let options: String = self.options.iter().map(|option| format!(",{option}")).collect();
        format!("({}{options})", self.condition)
    }
}

/// Reads the entries of a set.
pub(super) fn read(name: &str, node: &Node, notes: &mut Notes) -> Result<Vec<Entry>, String> {
    let read: fn(&str) -> Option<Entry> = match node.str("behavior") {
        Some("domain") => |text| plain(text).then(|| Entry::new(domain(text))),
        Some("ipcidr") => |text| plain(text).then(|| Entry::new(format!("IP-CIDR,{text}"))),
        Some("classical") => |text| Some(classical(text)),
        other => {
            let behavior = other.unwrap_or_default();
            return Err(format!("its behavior is {behavior:?}; domain, ipcidr and classical are known"));
        }
    };
    let mut entries = Vec::new();
    for entry in node.get("payload").map_or(&[][..], Node::list) {
        match entry.text().map(str::trim).and_then(read) {
            Some(found) => entries.push(found),
            None => notes.warn(entry.line, format!("an entry of the rule set {name:?} is left out")),
        }
    }
    Ok(entries)
}

impl Entry {
    fn new(condition: String) -> Self {
        Self { condition, options: Vec::new(), joined: false }
    }
}

/// Whether it stays one part of a rule.
fn plain(text: &str) -> bool {
    !text.is_empty() && !text.contains([',', '(', ')'])
}

fn classical(text: &str) -> Entry {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let kind = parts.first().map(|kind| kind.to_ascii_uppercase()).unwrap_or_default();
    if matches!(kind.as_str(), "AND" | "OR" | "NOT") || kind.ends_with("-REGEX") {
        return Entry { condition: text.to_owned(), options: Vec::new(), joined: true };
    }
    let condition: Vec<&str> = parts.iter().take(2).copied().collect();
    let options = parts.iter().skip(2).map(|option| (*option).to_owned()).collect();
    Entry { condition: condition.join(","), options, joined: false }
}

/// `a.example`, `+.example` (it and all below), `.example` (all below), and `*` for one label.
fn domain(text: &str) -> String {
    let (begin, name) = match (text.strip_prefix("+."), text.strip_prefix('.')) {
        (Some(name), _) => (r"(.+\.)?", name),
        (_, Some(name)) => (r".+\.", name),
        _ => ("", text),
    };
    if !name.contains('*') {
        let (kind, name) = match begin {
            "" => ("DOMAIN", text),
            ".+\\." => ("DOMAIN-SUFFIX", text),
            _ => ("DOMAIN-SUFFIX", name),
        };
        return format!("{kind},{name}");
    }
    let labels: Vec<String> = name.split('.').map(label).collect();
    format!("DOMAIN-REGEX,^{begin}{}$", labels.join(r"\."))
}

/// A label as a regular expression.
fn label(label: &str) -> String {
    if label == "*" {
        return "[^.]+".to_owned();
    }
    let mut escaped = String::new();
    for c in label.to_lowercase().chars() {
        if c.is_ascii_punctuation() && !"-_".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
