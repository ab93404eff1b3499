//! `proxies`, and what their names and those of groups mean.

use std::collections::HashMap;
use std::fmt::Write;

use oneway_outbound::Method;

use super::groups::Group;
use super::yaml::Node;
use super::{BY_ANOTHER_WAY, Notes, key, quoted, usable};
use crate::config::{BLOCK, DIRECT, Server};

/// A proxy that is carried over.
struct Outbound {
    name: String,
    kind: &'static str,
    server: String,
    username: Option<String>,
    password: Option<String>,
    carries_udp: bool,
    /// Further lines.
    keys: Vec<String>,
}

/// Keys of proxies that are understood, or say nothing about where traffic goes.
const KNOWN: &[&str] = &[
    "name",
    "type",
    "server",
    "port",
    "username",
    "password",
    "udp",
    "network",
    "tls",
    "skip-cert-verify",
    "tfo",
    "mptcp",
];
const KNOWN_OF_SHADOWSOCKS: &[&str] =
    &["cipher", "plugin", "plugin-opts", "udp-over-tcp", "udp-over-tcp-version"];
const KNOWN_OF_TLS: &[&str] = &["sni", "servername", "alpn"];
/// By these a server is known or spoken to otherwise.
const UNAVAILABLE_OF_TLS: &[&str] = &["fingerprint", "reality-opts", "ss-opts", "ech-opts"];

/// Names that are written out where there are many.
const MOST_NAMES: usize = 5;

/// The outbounds that there will be, and what the names of the source mean.
pub(super) struct Outbounds {
    outbounds: Vec<Outbound>,
    pub(super) groups: Vec<Group>,
    /// From a name of the source to one of ours; none for what is not carried over.
    pub(super) names: HashMap<String, Option<String>>,
}

impl Outbounds {
    pub(super) fn read(root: &Node, notes: &mut Notes) -> Self {
        let mut this = Self { outbounds: Vec::new(), groups: Vec::new(), names: HashMap::new() };
        for (theirs, ours) in
            [("DIRECT", DIRECT), ("REJECT", BLOCK), ("REJECT-DROP", BLOCK), ("COMPATIBLE", DIRECT)]
        {
            this.names.insert(theirs.to_owned(), Some(ours.to_owned()));
        }
        let mut without_udp = Vec::new();
        for node in root.get("proxies").map_or(&[][..], Node::list) {
            let Some(name) = node.str("name") else {
                notes.warn(node.line, "a proxy without a name is left out");
                continue;
            };
            if this.names.contains_key(name) {
                notes.warn(node.line, format!("a second proxy {name:?} is left out"));
                continue;
            }
            let ours = usable(name, |name| this.is_taken(name));
            let known = match this.proxy(node, ours.clone(), notes) {
                Ok(outbound) => {
                    if outbound.carries_udp && !node.is("udp") {
                        without_udp.push((node.line, name));
                    }
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
        tell_of_udp(&without_udp, notes);
        this.read_groups(root.get("proxy-groups").map_or(&[][..], Node::list), notes);
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
            group.write(toml);
        }
    }

    fn proxy(&self, node: &Node, name: String, notes: &mut Notes) -> Result<Outbound, String> {
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
        if let Some(key) = node.first_of(BY_ANOTHER_WAY) {
            return Err(format!("`{key}` is not available"));
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
        let (keys, known) = match kind {
            "shadowsocks" => {
                (vec![cipher(node, password.as_deref().unwrap_or_default())?], KNOWN_OF_SHADOWSOCKS)
            }
            _ if kind == "trojan" || node.is("tls") => (tls(kind, node)?, KNOWN_OF_TLS),
            _ => (Vec::new(), &[][..]),
        };
        let theirs = node.str("name").unwrap_or_default();
        notes.other_keys(node, &format!("the proxy {theirs:?}"), &[KNOWN, known]);
        // SOCKS5 by TLS is without.
        let carries_udp = kind == "trojan" || kind == "shadowsocks" || kind == "socks5" && keys.is_empty();
        Ok(Outbound { name, kind, server, username, password, carries_udp, keys })
    }
}

/// Clash goes on with the next rule where a proxy is not to carry UDP.
fn tell_of_udp(proxies: &[(usize, &str)], notes: &mut Notes) {
    let Some((line, _)) = proxies.first() else { return };
    let mut names: Vec<String> =
        proxies.iter().take(MOST_NAMES).map(|(_, name)| format!("{name:?}")).collect();
    if proxies.len() > MOST_NAMES {
        names.push(format!("and {} more", proxies.len() - MOST_NAMES));
    }
    let message = format!(
        "Clash sends no UDP by proxies without `udp: true`, but by what the next rules say; here they get it: {}",
        names.join(", ")
    );
    notes.warn(*line, message);
}

/// The cipher of a Shadowsocks server, as a line of ours.
fn cipher(node: &Node, password: &str) -> Result<String, String> {
    if let Some(key) = node.first_of(&["plugin", "udp-over-tcp"]) {
        return Err(format!("`{key}` is not available"));
    }
    let method: Method = node.str("cipher").ok_or("it has no cipher")?.parse()?;
    method.check(password)?;
    Ok(format!("method = \"{method}\""))
}

/// The keys about TLS, as lines of ours.
fn tls(kind: &str, node: &Node) -> Result<Vec<String>, String> {
    if let Some(key) = node.first_of(UNAVAILABLE_OF_TLS) {
        return Err(format!("`{key}` is not available"));
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
