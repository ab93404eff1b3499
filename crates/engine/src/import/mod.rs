//! From a configuration of Clash or mihomo to one of oneway.
//!
//! What cannot be carried over is listed, and where that could let traffic out another way, its rules lead to `block`.

mod dns;
mod groups;
mod inline;
mod outbounds;
mod rules;
mod sniff;
#[cfg(test)]
mod tests;
mod tun;
mod yaml;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use crate::config::{ConfigError, Origin};
use outbounds::Outbounds;
use yaml::{Node, Value};

/// The configuration that comes of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The text of `oneway.toml`. What is not carried over stands in it as a comment.
    pub toml: String,
    /// By what traffic goes another way than with the source, or nowhere, each with its line there.
    pub warnings: Vec<ConfigError>,
    /// What else is not carried over, what is left for the user to do, and at last what has another name.
    pub notes: Vec<ConfigError>,
}

/// The sections that are read, by what they are. Clash refuses anything else, and to leave it out would be to do
/// without its rules or proxies.
const LISTS: &[&str] = &["proxies", "proxy-groups", "rules"];
const TABLES: &[&str] = &["rule-providers", "sub-rules", "dns", "sniffer", "tun", "hosts"];

/// Keys that say nothing about where traffic goes.
const MEANINGLESS: &[&str] =
    &["ipv6", "log-level", "profile", "unified-delay", "tcp-concurrent", "find-process-mode"];

/// Keys by which what is sent takes another way: at the top, and in proxies and groups.
const BY_ANOTHER_WAY: &[&str] = &["interface-name", "routing-mark", "dialer-proxy"];

/// Translates the configuration of Clash or mihomo in `text`; `file` names it in the notes.
///
/// # Errors
/// If it is no YAML, not a table, or has a section that is not what Clash reads there.
pub fn clash(file: &Path, text: &str) -> Result<Imported, ConfigError> {
    let mut notes = Notes { file: file.into(), warnings: Vec::new(), notes: Vec::new(), renamed: Vec::new() };
    let root = yaml::parse(text)
        .map_err(|broken| ConfigError::new(Some(notes.origin(broken.line, broken.column)), broken.message))?;
    if root.table().is_empty() {
        let origin = notes.origin(root.line, 1);
        return Err(ConfigError::new(Some(origin), "this is no configuration of Clash: a table is expected"));
    }
    check_sections(&root, &notes)?;
    let outbounds = Outbounds::read(&root, &mut notes);
    let rules = rules::Rules::read(&root, &outbounds, &mut notes);
    let dns = dns::Dns::read(&root, &mut notes);
    let sniff = sniff::Sniff::read(&root, &mut notes);
    let tun = tun::Tun::read(&root, &mut notes);
    other_keys(&root, &mut notes);

    let mut toml = format!("# From {}.\n", file.display().to_string().replace('\n', " "));
    notes.notes.append(&mut notes.renamed);
    for (title, notes) in [
        ("By which traffic goes another way than with Clash, or nowhere", &notes.warnings),
        ("What else is not carried over as it was", &notes.notes),
    ] {
        if !notes.is_empty() {
            let _ = writeln!(toml, "# {title}:");
        }
        for note in notes {
            // A note is one line: `ConfigError::new`.
            let _ = writeln!(toml, "#   {note}");
        }
    }
    tun.write(&mut toml);
    if let Some(dns) = dns {
        dns.write(&mut toml);
    }
    outbounds.write(&mut toml);
    rules.write(&mut toml);
    if let Some(sniff) = sniff {
        sniff.write(&mut toml);
    }
    Ok(Imported { toml, warnings: notes.warnings, notes: notes.notes })
}

/// Whether a file that is none of ours is, by its ending or its keys, one of Clash.
pub(crate) fn is_clash(file: &Path, text: &str) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let has = |root: &Node| {
        LISTS.iter().chain(TABLES).chain(&["mixed-port", "port"]).any(|key| root.get(key).is_some())
    };
    ["yaml", "yml"].iter().any(|yaml| yaml.eq_ignore_ascii_case(ending))
        || yaml::parse(text).is_ok_and(|root| has(&root))
}

fn check_sections(root: &Node, notes: &Notes) -> Result<(), ConfigError> {
    let wrong = |node: &Node, name: &str, wanted: &str| {
        let message = format!("`{name}` is no {wanted}: Clash refuses it, too");
        Err(ConfigError::new(Some(notes.origin(node.line, 1)), message))
    };
    let is_list = |node: &Node| node.is_nothing() || matches!(node.value, Value::List(_));
    for (key, node) in root.table() {
        if LISTS.contains(&key.as_str()) && !is_list(node) {
            return wrong(node, key, "list");
        }
        if TABLES.contains(&key.as_str()) && !node.is_nothing() && !matches!(node.value, Value::Table(_)) {
            return wrong(node, key, "table");
        }
    }
    for (name, node) in root.get("sub-rules").map_or(&[][..], Node::table) {
        if !is_list(node) {
            return wrong(node, &format!("sub-rules.{name}"), "list");
        }
    }
    Ok(())
}

fn other_keys(root: &Node, notes: &mut Notes) {
    for (key, node) in root.table() {
        let (key, line) = (key.as_str(), node.line);
        match key {
            "mode" => {
                if let Some(mode) = node.text().filter(|mode| !mode.eq_ignore_ascii_case("rule")) {
                    notes.warn(line, format!("`mode: {mode}` is not carried over: the rules decide"));
                }
            }
            // What programs are answered decides where they go.
            "hosts" => {
                for (name, value) in node.table() {
                    notes.warn(value.line, format!("{name:?} of `hosts` is not carried over"));
                }
            }
            _ if BY_ANOTHER_WAY.contains(&key) => notes.warn(line, format!("`{key}` is not carried over")),
            _ if LISTS.contains(&key) || TABLES.contains(&key) || MEANINGLESS.contains(&key) => {}
            _ => notes.add(line, format!("`{key}` is not carried over")),
        }
    }
}

/// What is to be told.
struct Notes {
    file: Arc<Path>,
    warnings: Vec<ConfigError>,
    notes: Vec<ConfigError>,
    renamed: Vec<ConfigError>,
}

impl Notes {
    fn origin(&self, line: usize, column: usize) -> Origin {
        Origin::File { file: Arc::clone(&self.file), line, column }
    }

    /// That something changes where traffic goes.
    fn warn(&mut self, line: usize, message: impl Into<String>) {
        let note = self.note(line, message);
        self.warnings.push(note);
    }

    fn add(&mut self, line: usize, message: impl Into<String>) {
        let note = self.note(line, message);
        self.notes.push(note);
    }

    /// That keys of `what` are not carried over: those that are not known and ask for something.
    fn other_keys(&mut self, node: &Node, what: &str, known: &[&[&str]]) {
        for (key, value) in node.table() {
            if !known.iter().any(|keys| keys.contains(&key.as_str())) && !value.is_off() {
                self.add(value.line, format!("`{key}` of {what} is not carried over"));
            }
        }
    }

    /// That `what` (a proxy, say) has another name, if it has.
    fn renamed(&mut self, line: usize, what: &str, theirs: &str, ours: &str) {
        if theirs != ours {
            let note = self.note(line, format!("the {what} {theirs:?} is called {ours:?}"));
            self.renamed.push(note);
        }
    }

    fn note(&self, line: usize, message: impl Into<String>) -> ConfigError {
        let message: String = message.into();
        let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        ConfigError::new(Some(self.origin(line, 1)), message)
    }
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A part of a key: as it is where it may be, quoted elsewhere.
fn key(text: &str) -> String {
    let bare =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if bare {
        return text.to_owned();
    }
    // A basic string: of what TOML has for texts, some cannot be keys.
    let mut key = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => key.extend(['\\', c]),
            _ if c.is_control() => {
                let _ = write!(key, "\\u{:04X}", u32::from(c));
            }
            _ => key.push(c),
        }
    }
    key.push('"');
    key
}

/// A name that rules can have: without commas, blanks and control characters. `taken` says which there are.
fn usable(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let plain: String = name
        .trim()
        .chars()
        .map(|c| if c == ',' || c.is_whitespace() || c.is_control() { '-' } else { c })
        .collect();
    let plain = if plain.is_empty() { "unnamed".to_owned() } else { plain };
    if !taken(&plain) {
        return plain;
    }
    // Among that many names one is free.
    (2u32..).map(|n| format!("{plain}-{n}")).find(|name| !taken(name)).unwrap_or(plain)
}
