//! `rules`, `rule-providers` and `sub-rules`.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::Write;

use oneway_rule::{Context, OutboundId, RuleList, SetId, SubId};

use super::inline::{self, Entry};
use super::outbounds::Outbounds;
use super::yaml::Node;
use super::{Notes, key, quoted, usable};
use crate::config::BLOCK;

/// Entries of rule sets without a file that are written out, each as often as it is used.
const MOST_ENTRIES: usize = 200_000;

/// A rule set that is carried over.
struct Set {
    name: String,
    path: String,
    format: &'static str,
    behavior: &'static str,
}

/// A rule, and why it is only a comment.
struct Line {
    text: String,
    left_out: bool,
}

/// What is said about rules.
pub(super) struct Rules {
    sets: Vec<Set>,
    subs: Vec<(String, Vec<Line>)>,
    lines: Vec<Line>,
    geoip: bool,
    asn: bool,
    geosite: bool,
}

/// What the names in the source's rules mean.
struct Names<'a> {
    outbounds: &'a Outbounds,
    sets: HashMap<String, String>,
    /// Those without a file, by their names in the source.
    inline: HashMap<String, Vec<Entry>>,
    /// How many entries of these may still be written out.
    room: Cell<usize>,
    subs: HashMap<String, String>,
}

impl Rules {
    pub(super) fn read(root: &Node, outbounds: &Outbounds, notes: &mut Notes) -> Self {
        let mut names = Names {
            outbounds,
            sets: HashMap::new(),
            inline: HashMap::new(),
            room: Cell::new(MOST_ENTRIES),
            subs: HashMap::new(),
        };
        let mut sets: Vec<Set> = Vec::new();
        for (name, node) in root.get("rule-providers").map_or(&[][..], Node::table) {
            if node.str("type") == Some("inline") {
                match inline::read(name, node, notes) {
                    Ok(entries) => {
                        names.inline.insert(name.clone(), entries);
                    }
                    Err(why) => notes.warn(node.line, format!("the rule set {name:?} is left out: {why}")),
                }
                continue;
            }
            let ours = usable(name, |name| sets.iter().any(|set| set.name == name));
            match provider(node, &ours) {
                Ok(set) => {
                    if let Some(url) = node.str("url") {
                        let message = format!(
                            "the rule set {name:?} is not loaded by itself: put {url} at {:?}",
                            set.path
                        );
                        notes.add(node.line, message);
                    }
                    names.sets.insert(name.clone(), ours);
                    sets.push(set);
                }
                Err(why) => notes.warn(node.line, format!("the rule set {name:?} is left out: {why}")),
            }
        }
        let listed = root.get("sub-rules").map_or(&[][..], Node::table);
        for (name, _) in listed {
            let ours = usable(name, |name| names.subs.values().any(|known| known == name));
            names.subs.insert(name.clone(), ours);
        }
        let subs = listed
            .iter()
            .map(|(name, list)| {
                let ours = names.subs.get(name).cloned().unwrap_or_default();
                (ours, names.lines(list.list(), notes))
            })
            .collect();
        let lines = names.lines(root.get("rules").map_or(&[][..], Node::list), notes);
        let mut this = Self { sets, subs, lines, geoip: false, asn: false, geosite: false };
        this.databases(notes);
        this
    }

    /// Notes which databases the rules need, which Clash loads by itself.
    fn databases(&mut self, notes: &mut Notes) {
        let all = self.lines.iter().chain(self.subs.iter().flat_map(|(_, lines)| lines));
        let used: Vec<&str> = all.filter(|line| !line.left_out).map(|line| line.text.as_str()).collect();
        let uses = |kinds: &[&str], but: &str| {
            used.iter().any(|text| {
                let words: Vec<&str> = text.split(['(', ',', ')']).map(str::trim).collect();
                words.windows(2).any(|pair| match pair {
                    [kind, what] => {
                        kinds.iter().any(|known| known.eq_ignore_ascii_case(kind))
                            && !what.eq_ignore_ascii_case(but)
                    }
                    _ => false,
                })
            })
        };
        let country = uses(&["GEOIP", "SRC-GEOIP"], "LAN");
        let asn = uses(&["IP-ASN", "SRC-IP-ASN"], "");
        let geosite = uses(&["GEOSITE"], "");
        for (needed, what, file) in [
            (country, "GEOIP", "country.mmdb"),
            (asn, "IP-ASN", "asn.mmdb"),
            (geosite, "GEOSITE", "geosite.dat"),
        ] {
            if needed {
                notes.add(1, format!("the database of {what} is not loaded by itself: put it at {file:?}"));
            }
        }
        (self.geoip, self.asn, self.geosite) = (country, asn, geosite);
    }

    pub(super) fn write(&self, toml: &mut String) {
        for set in &self.sets {
            let Set { name, path, format, behavior } = set;
            let _ = write!(toml, "\n[rule-set.{}]\npath = {}\n", key(name), quoted(path));
            let _ = write!(toml, "format = \"{format}\"\nbehavior = \"{behavior}\"\n");
        }
        if !self.subs.is_empty() {
            toml.push_str("\n[sub-rules]\n");
            for (name, lines) in &self.subs {
                let _ = write!(toml, "{} = ", key(name));
                write_list(toml, lines);
            }
        }
        toml.push_str("\n[rules]\n");
        for (used, key, file) in [
            (self.geoip, "geoip", "country.mmdb"),
            (self.asn, "asn", "asn.mmdb"),
            (self.geosite, "geosite", "geosite.dat"),
        ] {
            if used {
                let _ = writeln!(toml, "{key} = \"{file}\"");
            }
        }
        toml.push_str("list = ");
        write_list(toml, &self.lines);
    }
}

fn write_list(toml: &mut String, lines: &[Line]) {
    toml.push_str("[\n");
    for line in lines {
        let _ = writeln!(
            toml,
            "  {}{},",
            if line.left_out { "# " } else { "" },
            quoted(&line.text).replace('\n', " ")
        );
    }
    toml.push_str("]\n");
}

fn provider(node: &Node, name: &str) -> Result<Set, String> {
    let behavior = match node.str("behavior") {
        Some("domain") => "domain",
        Some("ipcidr") => "ipcidr",
        Some("classical") => "classical",
        other => return Err(format!("its behavior is {other:?}; domain, ipcidr and classical are known")),
    };
    let format = match node.str("format").unwrap_or("yaml") {
        "yaml" => "yaml",
        "text" => "text",
        "mrs" => "mrs",
        other => return Err(format!("its format is {other:?}; yaml, text and mrs are known")),
    };
    let ending = if format == "text" { "txt" } else { format };
    let path =
        node.str("path").map_or_else(|| format!("rules/{}.{ending}", name.replace('/', "-")), str::to_owned);
    Ok(Set { name: name.to_owned(), path, format, behavior })
}

impl Names<'_> {
    fn lines(&self, nodes: &[Node], notes: &mut Notes) -> Vec<Line> {
        let mut lines = Vec::new();
        for node in nodes {
            let Some(text) = node.text() else {
                notes.warn(node.line, "a rule that is no text is left out");
                continue;
            };
            for text in self.unfolded(text.trim()) {
                let (text, problem) = self.translate(&text, node.line, notes);
                if let Some(problem) = &problem {
                    notes.warn(node.line, format!("the rule {text:?} is left out: {problem}"));
                }
                lines.push(Line { text, left_out: problem.is_some() });
            }
        }
        lines
    }

    /// Replaces the names of rule sets, which conditions in brackets have, too; those without a file by their entries.
    fn name_sets(&self, parts: &[&str], ours: &mut [String]) {
        for (at, before) in parts.iter().enumerate() {
            let kind = before.trim_start_matches(['(', ' ']);
            let Some(part) = ours.get_mut(at + 1).filter(|_| kind.eq_ignore_ascii_case("RULE-SET")) else {
                continue;
            };
            let (name, behind) = part.split_at(closing(part));
            if let Some(known) = self.sets.get(name.trim()) {
                *part = format!("{known}{behind}");
            } else if let Some(entries) = self.entries(name.trim()) {
                let entries: Vec<String> = entries.iter().map(Entry::nested).collect();
                *part = format!("({}){behind}", entries.join(","));
                if let Some(word) = ours.get_mut(at) {
                    word.truncate(word.len() - kind.len());
                    word.push_str("OR");
                }
            }
        }
    }

    /// The entries of a rule set without a file, as long as there is room for them.
    fn entries(&self, set: &str) -> Option<&[Entry]> {
        let entries = self.inline.get(set)?;
        self.room.set(self.room.get().checked_sub(entries.len())?);
        Some(entries)
    }

    /// The rules that a rule stands for: itself, or one for each entry of a set without a file.
    fn unfolded(&self, text: &str) -> Vec<String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if let [kind, set, target, options @ ..] = parts.as_slice()
            && kind.eq_ignore_ascii_case("RULE-SET")
            && let Some(entries) = self.entries(set)
        {
            return entries.iter().map(|entry| entry.rule(target, options)).collect();
        }
        vec![text.to_owned()]
    }

    /// A rule with the names of ours, and what is wrong with it.
    fn translate(&self, text: &str, line: usize, notes: &mut Notes) -> (String, Option<String>) {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let kind = parts.first().map(|kind| kind.to_ascii_uppercase()).unwrap_or_default();
        let joined = matches!(kind.as_str(), "AND" | "OR" | "NOT" | "SUB-RULE") || kind.ends_with("-REGEX");
        let at = match kind.as_str() {
            "MATCH" => 1,
            _ if joined => parts.len().saturating_sub(1),
            _ => 2,
        };
        let mut ours: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
        let mut nobody = false;
        let theirs = parts.get(at).copied().unwrap_or_default();
        if let Some(target) = ours.get_mut(at) {
            if kind == "SUB-RULE" {
                if let Some(sub) = self.subs.get(theirs) {
                    target.clone_from(sub);
                }
            } else if let Some(known) = self.outbounds.ours(theirs) {
                // What is not carried over leads nowhere, not somewhere else.
                known.unwrap_or(BLOCK).clone_into(target);
            } else if !theirs.is_empty() {
                nobody = true;
                BLOCK.clone_into(target);
            }
        }
        self.name_sets(&parts, &mut ours);
        let text = ours.join(",");
        let outbound = |name: &str| self.outbounds.is_taken(name).then_some(OutboundId(0));
        let rule_set = |name: &str| self.sets.values().any(|known| known == name).then_some(SetId(0));
        let sub_rule = |name: &str| self.subs.values().any(|known| known == name).then_some(SubId(0));
        let context = Context {
            rule_set: &rule_set,
            sub_rule: &sub_rule,
            // Their files come later.
            check_databases: false,
            ..Context::new(&outbound)
        };
        let problem = RuleList::default().push(&text, 1, &context).err().map(|error| error.message);
        if nobody && problem.is_none() {
            notes.warn(line, format!("there is no proxy {theirs:?}: its rule leads to block"));
        }
        (text, problem)
    }
}

/// Where a bracket is closed that was opened before; else the end.
fn closing(part: &str) -> usize {
    let mut open = 0_usize;
    let at = part.bytes().position(|byte| match byte {
        b'(' => {
            open += 1;
            false
        }
        b')' if open == 0 => true,
        b')' => {
            open -= 1;
            false
        }
        _ => false,
    });
    at.unwrap_or(part.len())
}
