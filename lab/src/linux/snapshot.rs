//! All of a namespace's network configuration as text, to be compared before and after.
//!
//! It reads raw netlink and `/proc/sys` by itself, so that a mistake in the program's own reading of the host cannot
//! hide here. What changes by itself is left out: counters, time stamps, neighbours.

mod sysctl;

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::LabError;
use crate::netlink::Raw;
use crate::nft::{self, attributes, message};
use crate::ns::NetNs;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETRULE: u16 = 34;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The configuration of a namespace at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: Vec<String>,
}

impl Snapshot {
    /// Reads links, addresses, routes of all tables, rules, nftables and the sysctls of IPv4 and IPv6.
    ///
    /// # Errors
    /// [`LabError::Netlink`] or [`LabError::Namespace`].
    pub fn take(namespace: &NetNs) -> Result<Self, LabError> {
        let mut lines = Vec::new();
        section(&mut lines, "link", links(namespace)?);
        for family in [AF_INET, AF_INET6] {
            let mut found = dump(namespace, RTM_GETADDR, family, 8, address)?;
            found.sort();
            section(&mut lines, "address", found);
        }
        for family in [AF_INET, AF_INET6] {
            let mut found = dump(namespace, RTM_GETROUTE, family, 12, route)?;
            found.sort();
            section(&mut lines, "route", found);
        }
        for family in [AF_INET, AF_INET6] {
            // The order among rules of the same priority matters.
            section(&mut lines, "rule", dump(namespace, RTM_GETRULE, family, 12, rule)?);
        }
        section(&mut lines, "nft", nftables(namespace)?);
        section(&mut lines, "sysctl", sysctl::all(namespace)?);
        Ok(Self { lines })
    }

    /// The lines, each beginning with the word `link`, `address`, `route`, `rule`, `nft` or `sysctl`.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The lines that `after` has not (with `-`) and those that only `after` has (with `+`); empty when they are equal.
    pub fn diff(&self, after: &Self) -> String {
        let mut out = String::new();
        let (mut gone, mut new) = (self.lines.iter().peekable(), after.lines.iter().peekable());
        // Both keep their order, so a line is where the other has it or it is missing there.
        loop {
            match (gone.peek(), new.peek()) {
                (None, None) => return out,
                (Some(a), Some(b)) if a == b => {
                    gone.next();
                    new.next();
                }
                (Some(a), other) if other.is_none() || !after.lines.contains(a) => {
                    let _ = writeln!(out, "-{a}");
                    gone.next();
                }
                (_, Some(b)) => {
                    let _ = writeln!(out, "+{b}");
                    new.next();
                }
                (Some(_), None) => {
                    gone.next();
                }
            }
        }
    }

    /// Compares with what the namespace is now.
    ///
    /// # Errors
    /// [`LabError::Changed`] with the differing lines; otherwise as of [`Snapshot::take`].
    pub fn expect_same(&self, namespace: &NetNs) -> Result<(), LabError> {
        let now = Self::take(namespace)?;
        if *self == now {
            return Ok(());
        }
        Err(LabError::Changed { name: namespace.name().to_owned(), diff: self.diff(&now) })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn section(lines: &mut Vec<String>, word: &str, found: Vec<String>) {
    lines.extend(found.into_iter().map(|line| format!("{word} {line}")));
}

fn dump(
    namespace: &NetNs,
    kind: u16,
    family: u8,
    header: usize,
    describe: impl Fn(&[u8]) -> Option<String>,
) -> Result<Vec<String>, LabError> {
    let mut body = vec![0; header];
    body[0] = family;
    let found = namespace.netlink(
        || format!("list what RTM {kind} lists of family {family}"),
        |netlink| netlink.dump_raw(kind, &body),
    )?;
    Ok(found.iter().filter_map(|raw| describe(&raw.body)).collect())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The value as what it most likely is: addresses and numbers by their length, all else in hexadecimal.
fn value(bytes: &[u8], form: Form) -> String {
    match form {
        Form::Number => u32_at(bytes, 0).map_or_else(|| hex(bytes), |number| number.to_string()),
        Form::Mark => u32_at(bytes, 0).map_or_else(|| hex(bytes), |number| format!("{number:#x}")),
        Form::Text => String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned(),
        Form::Address => ip(bytes).map_or_else(|| hex(bytes), |ip| ip.to_string()),
        Form::Hex => hex(bytes),
    }
}

#[derive(Clone, Copy)]
enum Form {
    Number,
    Mark,
    Text,
    Address,
    Hex,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("0x"), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// Writes every attribute but those in `without`; known ones by name, others by number.
fn describe(out: &mut String, bytes: &[u8], known: &[(u16, &str, Form)], without: &[u16]) {
    for (kind, content) in attributes(bytes) {
        if without.contains(&kind) {
            continue;
        }
        let _ = match known.iter().find(|(number, ..)| *number == kind) {
            Some((_, name, form)) => write!(out, " {name} {}", value(content, *form)),
            None => write!(out, " #{kind} {}", hex(content)),
        };
    }
}

fn links(namespace: &NetNs) -> Result<Vec<String>, LabError> {
    /// Statistics (7, 23), map (14), protocol specifics (26, repeated by the sysctls), counts of changes (30, 35, 47,
    /// 48), and the kind (18), which is written separately because its data hold timers.
    const WITHOUT: &[u16] = &[7, 14, 18, 23, 26, 30, 35, 47, 48];
    const KNOWN: &[(u16, &str, Form)] = &[
        (1, "address", Form::Hex),
        (3, "name", Form::Text),
        (4, "mtu", Form::Number),
        (5, "link", Form::Number),
        (6, "qdisc", Form::Text),
        (10, "master", Form::Number),
        (13, "txqlen", Form::Number),
        (20, "alias", Form::Text),
        (27, "group", Form::Number),
    ];
    dump(namespace, RTM_GETLINK, 0, 16, |body| {
        let mut out = format!("{} flags {:#x}", u32_at(body, 4)?, u32_at(body, 8)?);
        let rest = body.get(16..)?;
        let information = attributes(rest).find(|(kind, _)| *kind == 18).map_or(&[][..], |(_, value)| value);
        if let Some((_, kind)) = attributes(information).find(|(number, _)| *number == 1) {
            let _ = write!(out, " kind {}", value(kind, Form::Text));
        }
        describe(&mut out, rest, KNOWN, WITHOUT);
        Some(out)
    })
}

fn address(body: &[u8]) -> Option<String> {
    const KNOWN: &[(u16, &str, Form)] = &[
        (1, "address", Form::Address),
        (2, "local", Form::Address),
        (3, "label", Form::Text),
        (4, "broadcast", Form::Address),
        (8, "flags", Form::Mark),
        (9, "metric", Form::Number),
        (11, "protocol", Form::Hex),
    ];
    let mut out = format!("dev {} /{} scope {}", u32_at(body, 4)?, body.get(1)?, body.get(3)?);
    // IFA_CACHEINFO (6) holds time stamps and lifetimes that run down.
    describe(&mut out, body.get(8..)?, KNOWN, &[6]);
    Some(out)
}

fn route(body: &[u8]) -> Option<String> {
    const KNOWN: &[(u16, &str, Form)] = &[
        (1, "to", Form::Address),
        (2, "from", Form::Address),
        (3, "iif", Form::Number),
        (4, "dev", Form::Number),
        (5, "via", Form::Address),
        (6, "metric", Form::Number),
        (7, "src", Form::Address),
        (15, "table", Form::Number),
    ];
    /// `RTM_F_CLONED`: an entry of the cache.
    const CLONED: u32 = 0x200;
    /// The kernel says by them whether a next hop can be reached at the moment.
    const STATE: u32 = 0x1 | 0x10;
    let flags = u32_at(body, 8)?;
    if flags & CLONED != 0 {
        return None;
    }
    let header = body.get(..8)?;
    let mut out = format!(
        "IPv{} type {} /{} from /{} tos {} protocol {} scope {} flags {:#x}",
        if header[0] == AF_INET { 4 } else { 6 },
        header[7],
        header[1],
        header[2],
        header[3],
        header[5],
        header[6],
        flags & !STATE
    );
    // RTA_CACHEINFO (12) and RTA_EXPIRES (23) hold times.
    describe(&mut out, body.get(12..)?, KNOWN, &[12, 23]);
    Some(out)
}

fn rule(body: &[u8]) -> Option<String> {
    const KNOWN: &[(u16, &str, Form)] = &[
        (1, "to", Form::Address),
        (2, "from", Form::Address),
        (3, "iif", Form::Text),
        (4, "goto", Form::Number),
        (6, "priority", Form::Number),
        (10, "mark", Form::Mark),
        (14, "suppress-prefixlength", Form::Number),
        (15, "table", Form::Number),
        (16, "mask", Form::Mark),
        (17, "oif", Form::Text),
    ];
    let header = body.get(..8)?;
    let mut out = format!(
        "IPv{} action {} to /{} from /{} tos {} flags {:#x}",
        if header[0] == AF_INET { 4 } else { 6 },
        header[7],
        header[1],
        header[2],
        header[3],
        u32_at(body, 8)?
    );
    describe(&mut out, body.get(12..)?, KNOWN, &[]);
    Some(out)
}

fn nftables(namespace: &NetNs) -> Result<Vec<String>, LabError> {
    let found = nft::talk(namespace, "list the nftables", |netlink| {
        let mut all = Vec::new();
        for (name, kind) in [
            ("table", message::GET_TABLE),
            ("chain", message::GET_CHAIN),
            ("set", message::GET_SET),
            ("rule", message::GET_RULE),
        ] {
            all.extend(netlink.dump_raw(kind, &nft::general(0, 0))?.into_iter().map(|raw| (name, raw)));
        }
        Ok(all)
    })?;
    Ok(found.iter().filter_map(|(name, raw)| nft_object(name, raw)).collect())
}

fn nft_object(name: &str, raw: &Raw) -> Option<String> {
    const TABLE: &[(u16, &str, Form)] = &[(1, "name", Form::Text)];
    const CHAIN: &[(u16, &str, Form)] =
        &[(1, "table", Form::Text), (3, "name", Form::Text), (7, "type", Form::Text)];
    const SET: &[(u16, &str, Form)] = &[(1, "table", Form::Text), (2, "name", Form::Text)];
    const RULE: &[(u16, &str, Form)] = &[(1, "table", Form::Text), (2, "chain", Form::Text)];
    let (family, rest) = (raw.body.first()?, raw.body.get(4..)?);
    let mut out = format!("{name} family {family}");
    match name {
        "table" => describe(&mut out, rest, TABLE, &[]),
        // A chain's counters (8) run.
        "chain" => describe(&mut out, rest, CHAIN, &[8]),
        // How many elements it has (`NFTA_SET_COUNT`) goes up and down.
        "set" => describe(&mut out, rest, SET, &[20]),
        _ => {
            describe(&mut out, rest, RULE, &[4]);
            let expressions =
                attributes(rest).find(|(kind, _)| *kind == 4).map_or(&[][..], |(_, value)| value);
            for (_, expression) in attributes(expressions) {
                nft_expression(&mut out, expression);
            }
        }
    }
    Some(out)
}

fn nft_expression(out: &mut String, expression: &[u8]) {
    let part = |wanted| attributes(expression).find(|(kind, _)| *kind == wanted).map_or(&[][..], |(_, v)| v);
    let name = value(part(1), Form::Text);
    // What has been counted so far is not configuration.
    let data =
        if matches!(name.as_str(), "counter" | "quota" | "last") { String::new() } else { hex(part(2)) };
    let _ = write!(out, " [{name} {data}]");
}
