//! `dns`.

use std::collections::HashSet;
use std::fmt::Write;

use ipnet::Ipv4Net;

use super::yaml::Node;
use super::{Notes, quoted};
use crate::config::{DnsMode, DnsUpstream, FakePoolV4, FakePoolV6, NamePattern};

/// Keys that say nothing about who is asked or what is answered.
const MEANINGLESS: &[&str] = &["prefer-h3", "cache-algorithm", "cache-max-size", "ipv6-timeout"];

/// What is said about DNS.
pub(super) struct Dns {
    mode: DnsMode,
    upstream: Vec<String>,
    domains: Vec<(String, Vec<String>)>,
    v4: Option<String>,
    v6: Option<String>,
    exclude: Vec<String>,
}

impl Dns {
    /// None if the source says nothing about it.
    pub(super) fn read(root: &Node, notes: &mut Notes) -> Option<Self> {
        let node = root.get("dns")?;
        if node.table().is_empty() {
            return None;
        }
        let mut this = Self {
            mode: DnsMode::Off,
            upstream: Vec::new(),
            domains: Vec::new(),
            v4: None,
            v6: None,
            exclude: Vec::new(),
        };
        // Clash answers nothing then, and asks the system.
        if !node.is("enable") {
            let message = "`dns.enable` is not true: DNS is carried like other traffic, so that rules on names know none, and \
                           the rest of `dns` is not carried over";
            notes.warn(node.line, message);
            return Some(this);
        }
        this.mode = DnsMode::Real;
        for (key, value) in node.table() {
            this.key(key, value, node, notes);
        }
        this.find_resolvers_by_name(node, notes);
        Some(this)
    }

    pub(super) fn write(&self, toml: &mut String) {
        let _ = write!(toml, "\n[dns]\nmode = \"{}\"\n", self.mode.as_str());
        if !self.upstream.is_empty() {
            let _ = writeln!(toml, "upstream = {}", list(&self.upstream));
        }
        let ranges = [("v4", &self.v4), ("v6", &self.v6)];
        for (key, range) in ranges.iter().filter_map(|(key, range)| Some((key, range.as_ref()?))) {
            let _ = writeln!(toml, "fake-ip.{key} = {}", quoted(range));
        }
        if !self.exclude.is_empty() {
            let _ = writeln!(toml, "fake-ip.exclude = {}", list(&self.exclude));
        }
        if !self.domains.is_empty() {
            toml.push_str("\n[dns.domains]\n");
            for (pattern, upstreams) in &self.domains {
                let _ = writeln!(toml, "{} = {}", quoted(pattern), list(upstreams));
            }
        }
    }

    fn key(&mut self, key: &str, value: &Node, dns: &Node, notes: &mut Notes) {
        let line = value.line;
        match key {
            "enable" => {}
            "enhanced-mode" => match value.text().unwrap_or_default() {
                "fake-ip" => self.mode = DnsMode::FakeIp,
                "redir-host" | "normal" => self.mode = DnsMode::Real,
                other => notes.add(line, format!("`dns.enhanced-mode` {other:?} is not known: DNS is real")),
            },
            "nameserver" => {
                for (line, text) in texts(key, value, notes) {
                    self.upstream.extend(
                        upstream(text, line, notes)
                            .map(|found| found.to_string())
                            .filter(|found| !self.upstream.contains(found)),
                    );
                }
            }
            // Asked where a resolver is given by name: `find_resolvers_by_name`.
            "default-nameserver" => {}
            "nameserver-policy" => self.policy(value, notes),
            "fake-ip-range" => match value.text().and_then(|text| text.parse::<Ipv4Net>().ok()) {
                Some(net) => self.v4 = range::<FakePoolV4>(key, &net.trunc().to_string(), line, notes),
                None => notes.add(line, format!("`dns.{key}` is no range of IPv4 addresses and left out")),
            },
            "fake-ip-range6" => match value.text().and_then(|text| text.parse::<ipnet::Ipv6Net>().ok()) {
                Some(net) => self.v6 = range::<FakePoolV6>(key, &net.trunc().to_string(), line, notes),
                None => notes.add(line, format!("`dns.{key}` is no range of IPv6 addresses and left out")),
            },
            "fake-ip-filter" => match dns.str("fake-ip-filter-mode") {
                None | Some("blacklist") => {
                    for (line, text) in texts(key, value, notes) {
                        match text.parse::<NamePattern>() {
                            Ok(_) => self.exclude.push(text.to_owned()),
                            Err(why) => {
                                notes.add(line, format!("{text:?} of `dns.{key}` is left out: {why}"))
                            }
                        }
                    }
                }
                Some(mode) => {
                    let message =
                        format!("`dns.{key}` is not carried over: the mode {mode:?} is not available");
                    notes.add(line, message);
                }
            },
            "fake-ip-filter-mode" if dns.get("fake-ip-filter").is_some() => {}
            "ipv6" if value.is_true() => {}
            "ipv6" => notes.add(line, "`dns.ipv6` is not carried over: IPv6 addresses are answered, too"),
            "listen" => {
                notes.add(
                    line,
                    "`dns.listen` is not carried over: captured queries are answered, no port is opened",
                );
            }
            "use-hosts" | "use-system-hosts" | "respect-rules" if value.is_false() => {}
            "respect-rules" => {
                notes.warn(line, "`dns.respect-rules` is not carried over: resolvers are asked directly");
            }
            _ if MEANINGLESS.contains(&key) => {}
            _ => notes.add(line, format!("`dns.{key}` is not carried over")),
        }
    }

    /// `nameserver-policy`: whom to ask for which names. What cannot be carried over is asked for like any other name.
    fn policy(&mut self, policy: &Node, notes: &mut Notes) {
        if policy.table().is_empty() && !policy.is_nothing() {
            notes.add(policy.line, "`dns.nameserver-policy` is no table and left out");
        }
        let mut known = HashSet::new();
        for (patterns, resolvers) in policy.table() {
            let mut upstreams = Vec::new();
            for (line, text) in texts("nameserver-policy", resolvers, notes) {
                match upstream(text, line, notes) {
                    Some(named) if named.name().is_some() => notes.add(
                        line,
                        format!(
                            "the resolver {text:?} of `dns.nameserver-policy` is left out: give its address"
                        ),
                    ),
                    Some(found) => upstreams.push(found.to_string()),
                    None => {}
                }
            }
            let line = resolvers.line;
            let leave_out = |notes: &mut Notes, pattern: &str, why: &str| {
                notes.warn(line, format!("{pattern:?} of `dns.nameserver-policy` is left out: {why}"));
            };
            // `geosite:a,b` is one thing, `a.example,b.example` two.
            let is_set = patterns.contains(':');
            for pattern in patterns.split(',').map(str::trim).filter(|_| !is_set) {
                if let Err(why) = pattern.parse::<NamePattern>() {
                    leave_out(notes, pattern, &why.to_string());
                } else if upstreams.is_empty() {
                    leave_out(notes, pattern, "none of its resolvers is carried over");
                } else if !known.insert(pattern) {
                    leave_out(notes, pattern, "it is there already");
                } else {
                    self.domains.push((pattern.to_owned(), upstreams.clone()));
                }
            }
            if is_set {
                leave_out(notes, patterns, "only names and patterns of names are available");
            }
        }
    }

    /// Resolvers that are given by name need one that is not: those of `default-nameserver`, and else the system's.
    fn find_resolvers_by_name(&mut self, dns: &Node, notes: &mut Notes) {
        let by_address =
            |text: &String| text.parse::<DnsUpstream>().is_ok_and(|upstream| upstream.name().is_none());
        let default = dns.get("default-nameserver");
        let line = default.or_else(|| dns.get("nameserver")).map_or(dns.line, |node| node.line);
        let mut found: Vec<String> = Vec::new();
        for (line, text) in default.map(|node| texts("default-nameserver", node, notes)).unwrap_or_default() {
            found.extend(upstream(text, line, notes).map(|upstream| upstream.to_string()).filter(by_address));
        }
        if self.upstream.is_empty() {
            if dns.get("nameserver").is_some() {
                notes.add(
                    line,
                    "no resolver of `dns.nameserver` is carried over: those that programs name are asked",
                );
            }
        } else if !self.upstream.iter().any(by_address) {
            if found.is_empty() {
                found.push(DnsUpstream::System.to_string());
            }
            let asked = found.join(", ");
            let message = format!(
                "all of `dns.nameserver` are given by name: {asked} will be asked for these, and for other names as well; \
                 give the address of one, and its name behind it as in tls://192.0.2.53#dns.example, and leave out the former"
            );
            notes.add(line, message);
            self.upstream.extend(found);
        }
    }
}

/// A resolver of Clash as one of ours. What stands behind `#` there is a proxy, or options.
fn upstream(text: &str, line: usize, notes: &mut Notes) -> Option<DnsUpstream> {
    let (place, beside) = text.trim().split_once('#').unwrap_or((text.trim(), ""));
    let ours = match place {
        "system" | "system://" => "system".to_owned(),
        _ if place.contains("://") => place.to_owned(),
        _ if place.parse::<std::net::Ipv6Addr>().is_ok() => format!("udp://[{place}]"),
        _ => format!("udp://{place}"),
    };
    match ours.parse::<DnsUpstream>() {
        Ok(upstream) => {
            if !beside.is_empty() {
                notes.warn(line, format!("the resolver {upstream} is asked directly, without {beside:?}"));
            }
            Some(upstream)
        }
        Err(why) => {
            notes.add(line, format!("the resolver {text:?} is left out: {why}"));
            None
        }
    }
}

/// The texts of a list, or a single one, each with its line.
fn texts<'a>(key: &str, node: &'a Node, notes: &mut Notes) -> Vec<(usize, &'a str)> {
    if node.is_nothing() {
        return Vec::new();
    }
    let entries = if node.text().is_some() { std::slice::from_ref(node) } else { node.list() };
    if entries.is_empty() && !node.table().is_empty() {
        notes.add(node.line, format!("`dns.{key}` is no list and left out"));
    }
    let mut texts = Vec::new();
    for entry in entries {
        match entry.text() {
            Some(text) => texts.push((entry.line, text)),
            None => notes.add(entry.line, format!("an entry of `dns.{key}` is no text and left out")),
        }
    }
    texts
}

/// A range of fake addresses, if there is room for names in it.
fn range<T: std::str::FromStr>(key: &str, text: &str, line: usize, notes: &mut Notes) -> Option<String>
where
    T::Err: std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(_) => Some(text.to_owned()),
        Err(why) => {
            notes.add(line, format!("`dns.{key}` is left out: {why}"));
            None
        }
    }
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}
