//! `proxies` and `proxy-groups`.

use std::collections::HashMap;
use std::fmt::Write;

use super::yaml::Node;
use super::{Notes, key, quoted, usable};
use crate::config::{BLOCK, DIRECT, Server};

/// A proxy that is carried over.
struct Outbound {
    name: String,
    kind: &'static str,
    server: String,
    username: Option<String>,
    password: Option<String>,
}

/// The outbounds that there will be, and what the names of the source mean.
pub(super) struct Outbounds {
    outbounds: Vec<Outbound>,
    /// From a name of the source to one of ours; none for what is not carried over.
    names: HashMap<String, Option<String>>,
}

impl Outbounds {
    pub(super) fn read(root: &Node, notes: &mut Notes) -> Self {
        let mut this = Self { outbounds: Vec::new(), names: HashMap::new() };
        for (theirs, ours) in
            [("DIRECT", DIRECT), ("REJECT", BLOCK), ("REJECT-DROP", BLOCK), ("COMPATIBLE", DIRECT)]
        {
            this.names.insert(theirs.to_owned(), Some(ours.to_owned()));
        }
        for node in root.get("proxies").map_or(&[][..], Node::list) {
            let Some(name) = node.str("name") else {
                notes.add(node.line, "a proxy without a name is left out");
                continue;
            };
            let ours = usable(name, |name| this.is_taken(name));
            let known = match this.proxy(node, ours.clone()) {
                Ok(outbound) => {
                    if ours != name {
                        notes.add(node.line, format!("the proxy {name:?} is called {ours:?}"));
                    }
                    this.outbounds.push(outbound);
                    Some(ours)
                }
                Err(why) => {
                    notes.add(
                        node.line,
                        format!("the proxy {name:?} is left out: {why}; rules to it lead to block"),
                    );
                    None
                }
            };
            this.names.insert(name.to_owned(), known);
        }
        this.groups(root.get("proxy-groups").map_or(&[][..], Node::list), notes);
        this
    }

    /// What a name of the source is called. Outer none: nobody has that name; inner none: it is not carried over.
    pub(super) fn ours(&self, theirs: &str) -> Option<Option<&str>> {
        self.names.get(theirs).map(Option::as_deref)
    }

    /// Whether an outbound of ours has this name.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        name == DIRECT || name == BLOCK || self.outbounds.iter().any(|outbound| outbound.name == name)
    }

    pub(super) fn write(&self, toml: &mut String) {
        for outbound in &self.outbounds {
            let _ = write!(toml, "\n[outbound.{}]\ntype = \"{}\"\n", key(&outbound.name), outbound.kind);
            let _ = writeln!(toml, "server = {}", quoted(&outbound.server));
            if let Some(username) = &outbound.username {
                let _ = writeln!(toml, "username = {}", quoted(username));
            }
            if let Some(password) = &outbound.password {
                let _ = writeln!(toml, "password = {}", quoted(password));
            }
        }
    }

    fn proxy(&self, node: &Node, name: String) -> Result<Outbound, String> {
        let kind = match node.str("type") {
            Some("socks5") => "socks5",
            Some("http") => "http",
            Some(other) => return Err(format!("proxies of type {other} are not available")),
            None => return Err("it has no type".to_owned()),
        };
        if node.is("tls") {
            return Err("TLS to the proxy is not available".to_owned());
        }
        let (Some(host), Some(port)) = (node.str("server"), node.str("port")) else {
            return Err("it has no server or no port".to_owned());
        };
        let server = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        server.parse::<Server>().map_err(|e| e.to_string())?;
        let given = |key: &str| node.str(key).filter(|text| !text.is_empty()).map(str::to_owned);
        let (username, password) = (given("username"), given("password"));
        crate::config::check_credentials(kind, username.clone(), password.clone())?;
        Ok(Outbound { name, kind, server, username, password })
    }

    /// Groups are not available: each becomes its first member that is. Members may be groups, also later ones.
    fn groups(&mut self, groups: &[Node], notes: &mut Notes) {
        let named: Vec<(&str, &Node)> =
            groups.iter().filter_map(|group| Some((group.str("name")?, group))).collect();
        // Each round decides at least one group more, unless none is left that can be decided.
        loop {
            let mut changed = false;
            for (name, group) in &named {
                if self.names.contains_key(*name) {
                    continue;
                }
                let members = group.get("proxies").map_or(&[][..], Node::list);
                let mut members = members.iter().filter_map(Node::text);
                // A member that is not decided yet is waited for.
                let first = members.find_map(|member| match self.names.get(member) {
                    Some(Some(ours)) => Some(Some(ours.clone())),
                    Some(None) => None,
                    None => named.iter().any(|(other, _)| *other == member).then_some(None),
                });
                if let Some(Some(ours)) = first {
                    let kind = group.str("type").unwrap_or("unknown");
                    notes.add(
                        group.line,
                        format!(
                            "groups of type {kind} are not available: {name:?} stands for its member {ours:?}"
                        ),
                    );
                    self.names.insert((*name).to_owned(), Some(ours));
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        for (name, group) in named {
            if !self.names.contains_key(name) {
                let message = format!(
                    "the group {name:?} has no member that is carried over; rules to it lead to block"
                );
                notes.add(group.line, message);
                self.names.insert(name.to_owned(), None);
            }
        }
    }
}
