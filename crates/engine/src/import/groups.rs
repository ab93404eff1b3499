//! `proxy-groups`.

use std::collections::HashSet;
use std::fmt::Write;

use super::outbounds::Outbounds;
use super::yaml::Node;
use super::{BY_ANOTHER_WAY, Notes, key, quoted, usable};
use crate::config::{BLOCK, CheckUrl, DIRECT, Wait};

/// A group that is carried over.
pub(super) struct Group {
    pub(super) name: String,
    kind: &'static str,
    members: Vec<String>,
    /// Whether what it carries may leave directly though nobody selects that.
    direct: bool,
    /// Further lines.
    keys: Vec<String>,
}

/// Keys that are understood, that mean nothing for some types, or say nothing about where traffic goes.
const KNOWN: &[&str] =
    &["name", "type", "proxies", "url", "interval", "timeout", "tolerance", "lazy", "hidden", "icon"];

/// Keys by which a group has members that are not listed in it.
const ELSEWHERE: &[&str] = &["use", "include-all", "include-all-proxies", "include-all-providers"];

impl Group {
    pub(super) fn write(&self, toml: &mut String) {
        let members: Vec<_> = self.members.iter().map(|member| quoted(member)).collect();
        let _ = write!(toml, "\n[outbound.{}]\ntype = \"{}\"\n", key(&self.name), self.kind);
        let _ = writeln!(toml, "members = [{}]", members.join(", "));
        for line in &self.keys {
            let _ = writeln!(toml, "{line}");
        }
    }
}

impl Outbounds {
    /// Groups of the types that there are. Members may be groups, also later ones.
    pub(super) fn read_groups(&mut self, groups: &[Node], notes: &mut Notes) {
        let mut named: Vec<(&str, &Node)> = Vec::new();
        let mut seen = HashSet::new();
        for group in groups {
            match group.str("name") {
                None => notes.warn(group.line, "a group without a name is left out"),
                Some(name) if self.names.contains_key(name) || !seen.insert(name) => {
                    notes.warn(group.line, format!("a second {name:?} is left out"));
                }
                Some(name) => named.push((name, group)),
            }
        }
        // Each round decides at least one group more, unless none is left that can be decided: those lead in circles.
        loop {
            let mut changed = false;
            for (name, node) in &named {
                if self.names.contains_key(*name) {
                    continue;
                }
                let members = listed(node);
                let waits = |member: &&str| {
                    !self.names.contains_key(*member) && named.iter().any(|(other, _)| other == member)
                };
                if members.iter().any(waits) {
                    continue;
                }
                let known = match self.group(name, node, &members, notes) {
                    Ok(group) => {
                        notes.renamed(node.line, "group", name, &group.name);
                        let called = group.name.clone();
                        self.groups.push(group);
                        Some(called)
                    }
                    Err(why) => {
                        notes.warn(node.line, format!("{why}; rules to it lead to block"));
                        None
                    }
                };
                self.names.insert((*name).to_owned(), known);
                changed = true;
            }
            if !changed {
                break;
            }
        }
        for (name, group) in named {
            if !self.names.contains_key(name) {
                let message = format!("the group {name:?} leads back to itself; rules to it lead to block");
                notes.warn(group.line, message);
                self.names.insert(name.to_owned(), None);
            }
        }
    }

    /// A group all of whose members are decided. What the members would carry that it has lost must not leave directly.
    fn group(&self, name: &str, node: &Node, members: &[&str], notes: &mut Notes) -> Result<Group, String> {
        let word = node.str("type").unwrap_or("unknown").to_ascii_lowercase();
        let kind = match word.as_str() {
            "select" => "select",
            "url-test" => "url-test",
            "fallback" => "fallback",
            "load-balance" => "load-balance",
            "relay" => {
                return Err(format!(
                    "the group {name:?} is left out: proxies behind proxies are not available"
                ));
            }
            other => {
                return Err(format!(
                    "the group {name:?} is left out: groups of type {other} are not available"
                ));
            }
        };
        if let Some(key) = node.first_of(BY_ANOTHER_WAY) {
            return Err(format!("the group {name:?} is left out: `{key}` is not available"));
        }
        let members = self.members(name, kind, node, members, notes);
        if members.is_empty() {
            return Err(format!("the group {name:?} has no member that is carried over"));
        }
        let of_kind = if kind == "load-balance" { &["strategy"][..] } else { &[] };
        notes.other_keys(node, &format!("the group {name:?}"), &[KNOWN, ELSEWHERE, of_kind]);
        let taken = if kind == "select" { 1 } else { members.len() };
        let direct = members.iter().take(taken).any(|member| self.is_direct(member));
        let called = usable(name, |name| self.is_taken(name));
        let keys = if kind == "select" { Vec::new() } else { checks(name, kind, node, notes) };
        Ok(Group { name: called, kind, members, direct, keys })
    }

    /// The members of a group by our names, none if all are lost. Where the user selects, `block` takes the place of those
    /// that are lost. No check would find that it works, so that other groups are without them, and without what would
    /// carry directly instead of them.
    fn members(
        &self,
        name: &str,
        kind: &str,
        node: &Node,
        members: &[&str],
        notes: &mut Notes,
    ) -> Vec<String> {
        // Which of these was selected nobody knows, and so they are the first.
        let elsewhere = ELSEWHERE
            .iter()
            .filter(|key| node.get(key).is_some_and(|value| !value.is_off()))
            .map(|key| Err(format!("the members of `{key}`")));
        let listed = members.iter().map(|member| match self.names.get(*member) {
            Some(Some(known)) => Ok(known.clone()),
            _ => Err(format!("its member {member:?}")),
        });
        let all: Vec<Result<String, String>> = elsewhere.chain(listed).collect();
        let mut lost = matches!(kind, "url-test" | "load-balance") && all.iter().any(Result::is_err);
        let mut ours: Vec<String> = Vec::new();
        let mut carried = false;
        for member in all {
            let member = match member {
                Ok(member) if lost && self.is_direct(&member) => {
                    let message = format!(
                        "the group {name:?} is without {member:?}, too, which would carry directly what those carried"
                    );
                    notes.warn(node.line, message);
                    continue;
                }
                Ok(member) => {
                    carried = true;
                    member
                }
                Err(what) if kind == "select" => {
                    notes.warn(node.line, format!("the group {name:?} has block in place of {what}"));
                    BLOCK.to_owned()
                }
                Err(what) => {
                    notes.warn(node.line, format!("the group {name:?} is without {what}"));
                    lost = true;
                    continue;
                }
            };
            if !ours.contains(&member) {
                ours.push(member);
            }
        }
        if carried { ours } else { Vec::new() }
    }

    fn is_direct(&self, ours: &str) -> bool {
        ours == DIRECT || self.groups.iter().any(|group| group.name == ours && group.direct)
    }
}

/// The members that are listed in a group; empty for what is no text.
fn listed(group: &Node) -> Vec<&str> {
    let entries = group.get("proxies").map_or(&[][..], Node::list);
    entries.iter().map(|entry| entry.text().unwrap_or_default()).collect()
}

/// The keys that say how a group checks and balances, as lines of ours.
fn checks(name: &str, kind: &str, node: &Node, notes: &mut Notes) -> Vec<String> {
    let mut keys = Vec::new();
    if let Some(url) = node.str("url") {
        // What is asked for over TLS there is nearly always to be had without.
        let plain = url.replacen("https://", "http://", 1);
        match plain.parse::<CheckUrl>() {
            Ok(_) => {
                if plain != url {
                    notes.add(node.line, format!("the group {name:?} is checked by {plain:?}, without TLS"));
                }
                keys.push(format!("url = {}", quoted(&plain)));
            }
            Err(why) => notes.add(node.line, format!("the group {name:?} is checked by another URL: {why}")),
        }
    }
    let mut time = |theirs: &str, ours: &str, unit: &str, wanted: bool| {
        if let Some(text) = node.str(theirs).filter(|text| wanted && *text != "0") {
            let text = format!("{text}{unit}");
            match text.parse::<Wait>() {
                Ok(_) => keys.push(format!("{ours} = {}", quoted(&text))),
                Err(why) => notes.add(node.line, format!("the group {name:?} is without {theirs}: {why}")),
            }
        }
    };
    time("interval", "interval", "s", true);
    time("timeout", "timeout", "ms", true);
    time("tolerance", "tolerance", "ms", kind == "url-test");
    if kind == "load-balance" {
        match node.str("strategy") {
            Some("round-robin") => keys.push("strategy = \"round-robin\"".to_owned()),
            None | Some("consistent-hashing") => {}
            Some(other) => {
                let message =
                    format!("the group {name:?} balances by destination: {other:?} is not available");
                notes.add(node.line, message);
            }
        }
    }
    keys
}
