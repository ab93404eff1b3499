//! `proxies` and `proxy-groups`.

use std::collections::HashMap;
use std::fmt::Write;

use oneway_outbound::Method;

use super::yaml::Node;
use super::{Notes, key, quoted, usable};
use crate::config::{BLOCK, CheckUrl, DIRECT, Server, Wait};

/// A proxy that is carried over.
struct Outbound {
    name: String,
    kind: &'static str,
    server: String,
    username: Option<String>,
    password: Option<String>,
    /// Further lines.
    keys: Vec<String>,
}

/// A group that is carried over.
struct Group {
    name: String,
    kind: &'static str,
    members: Vec<String>,
    /// Further lines.
    keys: Vec<String>,
}

/// The outbounds that there will be, and what the names of the source mean.
pub(super) struct Outbounds {
    outbounds: Vec<Outbound>,
    groups: Vec<Group>,
    /// From a name of the source to one of ours; none for what is not carried over.
    names: HashMap<String, Option<String>>,
}

impl Outbounds {
    pub(super) fn read(root: &Node, notes: &mut Notes) -> Self {
        let mut this = Self { outbounds: Vec::new(), groups: Vec::new(), names: HashMap::new() };
        for (theirs, ours) in
            [("DIRECT", DIRECT), ("REJECT", BLOCK), ("REJECT-DROP", BLOCK), ("COMPATIBLE", DIRECT)]
        {
            this.names.insert(theirs.to_owned(), Some(ours.to_owned()));
        }
        for node in root.get("proxies").map_or(&[][..], Node::list) {
            let Some(name) = node.str("name") else {
                notes.warn(node.line, "a proxy without a name is left out");
                continue;
            };
            let ours = usable(name, |name| this.is_taken(name));
            let known = match this.proxy(node, ours.clone()) {
                Ok(outbound) => {
                    notes.renamed(node.line, "proxy", name, &ours);
                    this.outbounds.push(outbound);
                    Some(ours)
                }
                Err(why) => {
                    notes.warn(
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
        name == DIRECT
            || name == BLOCK
            || self.outbounds.iter().any(|outbound| outbound.name == name)
            || self.groups.iter().any(|group| group.name == name)
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
            for line in &outbound.keys {
                let _ = writeln!(toml, "{line}");
            }
        }
        for group in &self.groups {
            let members: Vec<_> = group.members.iter().map(|member| quoted(member)).collect();
            let _ = write!(toml, "\n[outbound.{}]\ntype = \"{}\"\n", key(&group.name), group.kind);
            let _ = writeln!(toml, "members = [{}]", members.join(", "));
            for line in &group.keys {
                let _ = writeln!(toml, "{line}");
            }
        }
    }

    fn proxy(&self, node: &Node, name: String) -> Result<Outbound, String> {
        let kind = match node.str("type") {
            Some("socks5") => "socks5",
            Some("http") => "http",
            Some("trojan") => "trojan",
            Some("ss") => "shadowsocks",
            Some(other) => return Err(format!("proxies of type {other} are not available")),
            None => return Err("it has no type".to_owned()),
        };
        if let Some(network) = node.str("network").filter(|network| *network != "tcp") {
            return Err(format!("{network} around the protocol is not available"));
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
        let keys = match kind {
            "shadowsocks" => vec![cipher(node, password.as_deref().unwrap_or_default())?],
            _ if kind == "trojan" || node.is("tls") => tls(kind, node)?,
            _ => Vec::new(),
        };
        Ok(Outbound { name, kind, server, username, password, keys })
    }

    /// Groups of the types that there are become groups; of others, their first member that is carried over. Members may
    /// be groups, also later ones.
    fn groups(&mut self, groups: &[Node], notes: &mut Notes) {
        let named: Vec<(&str, &Node)> =
            groups.iter().filter_map(|group| Some((group.str("name")?, group))).collect();
        // Each round decides at least one group more, unless none is left that can be decided: those lead in circles.
        loop {
            let mut changed = false;
            for (name, node) in &named {
                if self.names.contains_key(*name) {
                    continue;
                }
                let members: Vec<&str> =
                    node.get("proxies").map_or(&[][..], Node::list).iter().filter_map(Node::text).collect();
                let waits = |member: &&str| {
                    !self.names.contains_key(*member) && named.iter().any(|(other, _)| other == member)
                };
                if members.iter().any(waits) {
                    continue;
                }
                let known = self.group(name, node, &members, notes);
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

    /// What a group is called that is carried over, all of whose members are decided.
    fn group(&mut self, name: &str, node: &Node, members: &[&str], notes: &mut Notes) -> Option<String> {
        let mut ours: Vec<String> = Vec::new();
        for member in members {
            match self.names.get(*member) {
                Some(Some(known)) if !ours.contains(known) => ours.push(known.clone()),
                Some(Some(_)) => {}
                _ => notes.warn(node.line, format!("the group {name:?} is without its member {member:?}")),
            }
        }
        for key in ["use", "include-all", "include-all-proxies", "include-all-providers"] {
            if node.get(key).is_some() {
                notes.warn(node.line, format!("the group {name:?} is without the members of `{key}`"));
            }
        }
        let Some(first) = ours.first().cloned() else {
            let message =
                format!("the group {name:?} has no member that is carried over; rules to it lead to block");
            notes.warn(node.line, message);
            return None;
        };
        let kind = match node.str("type").unwrap_or("unknown") {
            "select" => "select",
            "url-test" => "url-test",
            "fallback" => "fallback",
            "load-balance" => "load-balance",
            other => {
                let message = format!(
                    "groups of type {other} are not available: {name:?} stands for its member {first:?}"
                );
                notes.warn(node.line, message);
                return Some(first);
            }
        };
        let called = usable(name, |name| self.is_taken(name));
        notes.renamed(node.line, "group", name, &called);
        let keys = if kind == "select" { Vec::new() } else { checks(name, kind, node, notes) };
        self.groups.push(Group { name: called.clone(), kind, members: ours, keys });
        Some(called)
    }
}

/// The cipher of a Shadowsocks server, as a line of ours.
fn cipher(node: &Node, password: &str) -> Result<String, String> {
    if node.get("plugin").is_some() {
        return Err("`plugin` is not available".to_owned());
    }
    if node.is("udp-over-tcp") {
        return Err("`udp-over-tcp` is not available".to_owned());
    }
    let method: Method = node.str("cipher").ok_or("it has no cipher")?.parse()?;
    method.check(password)?;
    Ok(format!("method = \"{method}\""))
}

/// The keys about TLS, as lines of ours.
fn tls(kind: &str, node: &Node) -> Result<Vec<String>, String> {
    for key in ["fingerprint", "reality-opts", "ss-opts", "ech-opts"] {
        if node.get(key).is_some() {
            return Err(format!("`{key}` is not available"));
        }
    }
    let mut keys = Vec::new();
    if kind != "trojan" {
        keys.push("tls = true".to_owned());
    }
    if let Some(name) = node.str("sni").or_else(|| node.str("servername")).filter(|name| !name.is_empty()) {
        oneway_tls::check_name(name).map_err(|error| error.to_string())?;
        keys.push(format!("server-name = {}", quoted(name)));
    }
    let words: Vec<String> =
        node.get("alpn").map_or(&[][..], Node::list).iter().filter_map(Node::text).map(quoted).collect();
    if !words.is_empty() {
        keys.push(format!("alpn = [{}]", words.join(", ")));
    }
    if node.is("skip-cert-verify") {
        keys.push("skip-verify = true".to_owned());
    }
    Ok(keys)
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
