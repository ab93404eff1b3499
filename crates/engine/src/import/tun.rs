//! `tun`, and `ipv6`, which says whether it takes in IPv6.

use std::fmt::Write;

use super::yaml::Node;
use super::{Notes, quoted};
use crate::config::{InterfaceName, Mtu, Prefix, StackKind, Uid};

/// Keys that say how the device captures, which here is found out, and those that are for other systems alone.
const MEANINGLESS: &[&str] = &[
    "enable",
    "auto-detect-interface",
    "gso",
    "gso-max-size",
    "iproute2-table-index",
    "iproute2-rule-index",
    "auto-redirect-input-mark",
    "auto-redirect-output-mark",
    "endpoint-independent-nat",
];

/// Keys that say who is captured: what they leave out would be, and the other way round.
const WHO: &[&str] = &[
    "include-uid",
    "include-uid-range",
    "exclude-uid-range",
    "include-interface",
    "exclude-interface",
    "include-android-user",
    "include-package",
    "exclude-package",
    "include-mac-address",
    "exclude-mac-address",
    "route-address-set",
    "route-exclude-address-set",
    "exclude-src-port",
    "exclude-src-port-range",
    "exclude-dst-port",
    "exclude-dst-port-range",
];

/// What is said about the capture and its device.
#[derive(Default)]
pub(super) struct Tun {
    stack: Option<StackKind>,
    include: Vec<String>,
    exclude: Vec<String>,
    exclude_uid: Vec<u32>,
    strict: bool,
    without_ipv6: bool,
    name: Option<String>,
    mtu: Option<u16>,
}

impl Tun {
    pub(super) fn read(root: &Node, notes: &mut Notes) -> Self {
        let mut this = Self::default();
        match root.get("tun").filter(|tun| !tun.is_nothing()) {
            Some(tun) if !tun.is("enable") => {
                notes.warn(tun.line, "`tun.enable` is not true: traffic is captured all the same");
            }
            Some(tun) => {
                for (key, value) in tun.table() {
                    this.key(key, value, notes);
                }
            }
            None => {}
        }
        if let Some(ipv6) = root.get("ipv6").filter(|ipv6| ipv6.is_false()) {
            // Clash makes IPv6 unreachable then. Otherwise it goes past it, and programs are told no addresses, which
            // they are here.
            this.without_ipv6 = this.strict;
            if !this.strict {
                let message =
                    "`ipv6: false` is not carried over: IPv6 is captured, too, and goes by the rules";
                notes.warn(ipv6.line, message);
            }
        }
        this
    }

    pub(super) fn write(&self, toml: &mut String) {
        let mut capture = String::new();
        if let Some(stack) = self.stack {
            let _ = writeln!(capture, "stack = \"{stack}\"");
        }
        for (key, prefixes) in [("include", &self.include), ("exclude", &self.exclude)] {
            if !prefixes.is_empty() {
                let prefixes: Vec<String> = prefixes.iter().map(|prefix| quoted(prefix)).collect();
                let _ = writeln!(capture, "{key} = [{}]", prefixes.join(", "));
            }
        }
        if !self.exclude_uid.is_empty() {
            let uids: Vec<String> = self.exclude_uid.iter().map(u32::to_string).collect();
            let _ = writeln!(capture, "exclude-uid = [{}]", uids.join(", "));
        }
        if self.without_ipv6 {
            capture.push_str("ipv6 = false\n");
        }
        if self.strict {
            capture.push_str("strict = true\n");
        }
        let mut tun = String::new();
        if let Some(name) = &self.name {
            let _ = writeln!(tun, "name = {}", quoted(name));
        }
        if let Some(mtu) = self.mtu {
            let _ = writeln!(tun, "mtu = {mtu}");
        }
        for (section, keys) in [("capture", capture), ("tun", tun)] {
            if !keys.is_empty() {
                let _ = write!(toml, "\n[{section}]\n{keys}");
            }
        }
    }

    fn key(&mut self, key: &str, value: &Node, notes: &mut Notes) {
        let text = value.text().unwrap_or_default();
        let mut left_out = |why: &str| notes.add(value.line, format!("`tun.{key}` is left out: {why}"));
        match key {
            "stack" => match text.to_ascii_lowercase().as_str() {
                "gvisor" => self.stack = Some(StackKind::User),
                // They differ in UDP, which both stacks carry alike here.
                "system" | "mixed" => self.stack = Some(StackKind::System),
                _ => left_out(&format!("{text:?} is no stack; gvisor, system and mixed are known")),
            },
            "device" if value.is_nothing() => {}
            "device" => match text.parse::<InterfaceName>() {
                Ok(name) => self.name = Some(name.to_string()),
                Err(why) => left_out(&why.to_string()),
            },
            "mtu" if text == "0" => {}
            "mtu" => match text.parse::<Mtu>() {
                Ok(mtu) => self.mtu = Some(mtu.get()),
                Err(why) => left_out(&why.to_string()),
            },
            "strict-route" => self.strict = value.is_true(),
            "auto-route" if value.is_true() => {}
            "auto-route" => {
                notes.warn(
                    value.line,
                    "`tun.auto-route` is not true: routes into the device are made all the same",
                );
            }
            "route-address" | "inet4-route-address" | "inet6-route-address" => {
                prefixes(key, value, &mut self.include, notes);
            }
            "route-exclude-address" | "inet4-route-exclude-address" | "inet6-route-exclude-address" => {
                prefixes(key, value, &mut self.exclude, notes);
            }
            "exclude-uid" => {
                for (line, text) in entries(value) {
                    match text.parse::<Uid>() {
                        Ok(uid) => self.exclude_uid.push(uid.get()),
                        Err(why) => notes.warn(line, format!("an entry of `tun.{key}` is left out: {why}")),
                    }
                }
            }
            // What every captured query for port 53 meets.
            "dns-hijack"
                if entries(value).all(|(_, text)| {
                    let server = text.rsplit_once("://").map_or(text, |(_, server)| server);
                    matches!(server, "any:53" | "0.0.0.0:53" | "[::]:53")
                }) => {}
            _ if MEANINGLESS.contains(&key) || value.is_off() => {}
            _ if WHO.contains(&key) => notes.warn(value.line, format!("`tun.{key}` is not carried over")),
            _ => notes.add(value.line, format!("`tun.{key}` is not carried over")),
        }
    }
}

/// The texts of a list, or a single one, each with its line; empty for what is no text.
fn entries(node: &Node) -> impl Iterator<Item = (usize, &str)> {
    let single = node.text().filter(|_| !node.is_nothing()).map(|_| std::slice::from_ref(node));
    single.unwrap_or(node.list()).iter().map(|entry| (entry.line, entry.text().unwrap_or_default()))
}

/// Networks; bits behind the prefix are cleared, as Clash does.
fn prefixes(key: &str, value: &Node, into: &mut Vec<String>, notes: &mut Notes) {
    for (line, text) in entries(value) {
        let net =
            text.parse::<ipnet::IpNet>().map_or_else(|_| text.to_owned(), |net| net.trunc().to_string());
        match net.parse::<Prefix>() {
            Ok(prefix) => into.push(prefix.to_string()),
            Err(why) => notes.warn(line, format!("an entry of `tun.{key}` is left out: {why}")),
        }
    }
}
