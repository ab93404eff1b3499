//! `rules`, `rule-providers` and `sub-rules`.

use std::collections::HashMap;
use std::fmt::Write;

use oneway_rule::{Context, OutboundId, RuleList, SetId, SubId};

use super::outbounds::Outbounds;
use super::yaml::Node;
use super::{Notes, key, quoted, usable};
use crate::config::BLOCK;

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
    subs: HashMap<String, String>,
}

impl Rules {
    pub(super) fn read(root: &Node, outbounds: &Outbounds, notes: &mut Notes) -> Self {
        let mut names = Names { outbounds, sets: HashMap::new(), subs: HashMap::new() };
        let mut sets: Vec<Set> = Vec::new();
        for (name, node) in root.get("rule-providers").map_or(&[][..], Node::table) {
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
    if node.str("type") == Some("inline") {
        return Err("sets without a file are not available; put its payload into a file".to_owned());
    }
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
            let (text, problem) = self.translate(text.trim(), node.line, notes);
            if let Some(problem) = &problem {
                notes.warn(node.line, format!("the rule {text:?} is left out: {problem}"));
            }
            lines.push(Line { text, left_out: problem.is_some() });
        }
        lines
    }

    /// Replaces the name of a rule set, behind which brackets may be closed that were opened before it.
    fn rename_set(&self, part: &mut String) {
        let mut open = 0_usize;
        let end = part.bytes().position(|byte| match byte {
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
        let (name, behind) = part.split_at(end.unwrap_or(part.len()));
        if let Some(known) = self.sets.get(name.trim()) {
            *part = format!("{known}{behind}");
        }
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
        // Conditions in brackets name sets, too.
        for (before, part) in parts.iter().zip(ours.iter_mut().skip(1)) {
            if before.trim_start_matches(['(', ' ']).eq_ignore_ascii_case("RULE-SET") {
                self.rename_set(part);
            }
        }
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
