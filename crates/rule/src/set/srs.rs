//! Rule sets compiled by sing-box (`.srs`).
//!
//! `SRS`, a version, and a zlib stream (RFC 1950) of rules. A rule is a list of items, each a kind and its values, or a
//! joint of rules. Learned from `common/srs` of github.com/SagerNet/sing-box and `common/domain` of
//! github.com/SagerNet/sing. What a rule means is in sing-box' documentation of headless rules: of items about the
//! destination's name or address one must match, of those about its port one, and so on; the groups all must.

use std::net::IpAddr;

use oneway_flow::Network;

use super::mrs::add_range;
use super::succinct::Trie;
use super::{ANY_DESTINATION, SetData};
use crate::MAX_UNPACKED;
use crate::bytes::Bytes;
use crate::condition::{Address, Condition, NameKind, Program, Side, regex};
use crate::domain;
use crate::error::BinaryError;
use crate::ranges::Ranges;

/// The versions that the layout below is of.
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=4;

/// How deep joints may nest: reading and matching recurse.
const MAX_DEPTH: usize = 32;

pub(super) fn parse(file: &[u8]) -> Result<SetData, BinaryError> {
    let mut head = Bytes::new(file);
    if head.array()? != *b"SRS" {
        return Err(BinaryError::new("this is no rule set of sing-box: SRS is expected at its start"));
    }
    let version = head.u8()?;
    if !VERSIONS.contains(&version) {
        return Err(head.wrong(format_args!("version {version} is not known; 1 to 4 are")));
    }
    let packed = file.get(head.position()..).unwrap_or_default();
    let unpacked = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(packed, MAX_UNPACKED)
        .map_err(|e| BinaryError::new(format!("this is no zlib stream: {e}")))?;
    let mut bytes = Bytes::new(&unpacked);
    let count = bytes.varint_count(2)?;
    let mut set = SetData::default();
    for _ in 0..count {
        match rule(&mut bytes, 0)? {
            // The usual file is one long list of names or networks: it joins the set's own.
            Rule::Destination(part) => merge(&mut set, part).map_err(|why| bytes.wrong(why))?,
            Rule::Other(condition) => set.add(condition).map_err(|why| bytes.wrong(why))?,
        }
    }
    if !bytes.is_empty() {
        return Err(bytes.wrong("something follows the last rule"));
    }
    Ok(set)
}

enum Rule {
    /// Names and addresses, of which one must match, and nothing else.
    Destination(SetData),
    Other(Condition),
}

impl Rule {
    fn into_condition(self) -> Condition {
        match self {
            Self::Destination(set) => any(conditions(set)),
            Self::Other(condition) => condition,
        }
    }
}

fn merge(set: &mut SetData, part: SetData) -> Result<(), String> {
    if set.is_empty() {
        *set = part;
        return Ok(());
    }
    conditions(part).into_iter().try_for_each(|condition| set.add(condition))
}

fn conditions(set: SetData) -> Vec<Condition> {
    let mut all: Vec<_> = set.names().map(|(name, kind)| Condition::Name(kind, name.into())).collect();
    all.extend(set.nets.iter().map(|net| Condition::Net(*net, ANY_DESTINATION)));
    all.extend(set.others);
    all
}

fn any(mut conditions: Vec<Condition>) -> Condition {
    match conditions.len() {
        1 => conditions.pop().unwrap_or(Condition::Never),
        _ => Condition::Any(conditions.into()),
    }
}

fn rule(bytes: &mut Bytes<'_>, depth: usize) -> Result<Rule, BinaryError> {
    if depth > MAX_DEPTH {
        return Err(bytes.wrong(format_args!("rules nest more than {MAX_DEPTH} deep")));
    }
    match bytes.u8()? {
        0 => items(bytes),
        1 => {
            let mode = bytes.u8()?;
            let count = bytes.varint_count(2)?;
            let mut inner = Vec::new();
            for _ in 0..count {
                inner.push(rule(bytes, depth + 1)?.into_condition());
            }
            let joint = match mode {
                0 => Condition::All(inner.into()),
                1 => Condition::Any(inner.into()),
                _ => return Err(bytes.wrong(format_args!("joint {mode} is neither and (0) nor or (1)"))),
            };
            Ok(Rule::Other(if bytes.bool()? { Condition::Not(Box::new(joint)) } else { joint }))
        }
        kind => Err(bytes.wrong(format_args!("rule type {kind} is neither plain (0) nor a joint (1)"))),
    }
}

/// The groups of a rule: one of each that is not empty must match.
#[derive(Default)]
struct Groups {
    destination: SetData,
    source: Vec<Condition>,
    ports: Vec<(u16, u16)>,
    source_ports: Vec<(u16, u16)>,
    others: Vec<Condition>,
}

fn items(bytes: &mut Bytes<'_>) -> Result<Rule, BinaryError> {
    let mut groups = Groups::default();
    let invert = loop {
        let kind = bytes.u8()?;
        if kind == 0xff {
            break bytes.bool()?;
        }
        item(kind, &mut groups, bytes)?;
    };
    let Groups { destination, source, ports, source_ports, mut others } = groups;
    let port = |side, ranges| Ranges::new(ranges).map(|ranges| Condition::Port(side, ranges));
    others.extend((!source.is_empty()).then(|| any(source)));
    others.extend(port(Side::Destination, ports));
    others.extend(port(Side::Source, source_ports));
    if others.is_empty() && !invert {
        return Ok(Rule::Destination(destination));
    }
    if !destination.is_empty() {
        others.push(any(conditions(destination)));
    }
    let all = Condition::All(others.into());
    Ok(Rule::Other(if invert { Condition::Not(Box::new(all)) } else { all }))
}

/// Reads one item. The numbers are those of `common/srs/binary.go`.
fn item(kind: u8, groups: &mut Groups, bytes: &mut Bytes<'_>) -> Result<(), BinaryError> {
    match kind {
        // Only questions to the DNS have a type; what this carries are flows.
        0 => {
            numbers(bytes)?;
            groups.others.push(Condition::Never);
        }
        1 => {
            let words = strings(bytes)?;
            let networks = words.iter().map(|word| match *word {
                "tcp" => Ok(Condition::Network(Network::Tcp)),
                "udp" => Ok(Condition::Network(Network::Udp)),
                "icmp" => Ok(Condition::Network(Network::Icmp)),
                _ => Err(bytes.wrong(format_args!("{word:?} is no network"))),
            });
            let networks: Vec<_> = networks.collect::<Result<_, _>>()?;
            groups.others.push(any(networks));
        }
        2 => names(bytes, &mut groups.destination)?,
        3 => {
            for word in strings(bytes)? {
                let keyword = Condition::Keyword(word.to_ascii_lowercase().into());
                if word.is_empty() {
                    return Err(bytes.wrong("a part of a name is empty"));
                }
                groups.destination.add(keyword).map_err(|why| bytes.wrong(why))?;
            }
        }
        4 => {
            for word in strings(bytes)? {
                let regex = regex(word).map_err(|why| bytes.wrong(why))?;
                let condition = Condition::Regex(Box::new(regex));
                groups.destination.add(condition).map_err(|why| bytes.wrong(why))?;
            }
        }
        5 => {
            let mut set = SetData::default();
            networks(bytes, &mut set)?;
            let source = Address { side: Side::Source, resolve: false };
            groups.source.extend(set.nets.into_iter().map(|net| Condition::Net(net, source)));
        }
        6 => networks(bytes, &mut groups.destination)?,
        7 => groups.source_ports.extend(numbers(bytes)?.into_iter().map(|port| (port, port))),
        8 => port_ranges(bytes, &mut groups.source_ports)?,
        9 => groups.ports.extend(numbers(bytes)?.into_iter().map(|port| (port, port))),
        10 => port_ranges(bytes, &mut groups.ports)?,
        11 => groups.others.push(programs(bytes, Program::Name)?),
        12 => groups.others.push(programs(bytes, Program::Path)?),
        17 => {
            let mut regexes = Vec::new();
            for word in strings(bytes)? {
                let regex = regex(word).map_err(|why| bytes.wrong(why))?;
                regexes.push(Condition::ProgramRegex(Program::Path, Box::new(regex)));
            }
            groups.others.push(any(regexes));
        }
        _ => {
            let name = match kind {
                13 => "package_name",
                14 => "wifi_ssid",
                15 => "wifi_bssid",
                16 => "adguard_domain",
                18 => "network_type",
                19 => "network_is_expensive",
                20 => "network_is_constrained",
                21 => "network_interface_address",
                22 => "default_interface_address",
                _ => return Err(bytes.wrong(format_args!("item {kind} is not known"))),
            };
            return Err(bytes.wrong(format_args!("{name} is not supported; leave it out of the rule set")));
        }
    }
    Ok(())
}

fn strings<'a>(bytes: &mut Bytes<'a>) -> Result<Vec<&'a str>, BinaryError> {
    let count = bytes.varint_count(1)?;
    let mut strings = Vec::new();
    for _ in 0..count {
        let len = bytes.varint_count(1)?;
        let text = std::str::from_utf8(bytes.take(len)?);
        strings.push(text.map_err(|_| bytes.wrong("a text is not UTF-8"))?);
    }
    Ok(strings)
}

fn numbers(bytes: &mut Bytes<'_>) -> Result<Vec<u16>, BinaryError> {
    let count = bytes.varint_count(2)?;
    let raw = bytes.take(count * 2)?;
    Ok(raw.chunks_exact(2).map(|pair| pair.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte))).collect())
}

fn programs(bytes: &mut Bytes<'_>, program: Program) -> Result<Condition, BinaryError> {
    let names = strings(bytes)?;
    Ok(any(names.iter().map(|name| Condition::Program(program, name.to_lowercase().into())).collect()))
}

/// `1000:2000`, `:2000` or `1000:`.
fn port_ranges(bytes: &mut Bytes<'_>, into: &mut Vec<(u16, u16)>) -> Result<(), BinaryError> {
    for text in strings(bytes)? {
        let port = |text: &str, open: u16| if text.is_empty() { Some(open) } else { text.parse().ok() };
        let range =
            text.split_once(':').and_then(|(first, last)| Some((port(first, 0)?, port(last, u16::MAX)?)));
        match range {
            Some((first, last)) if first <= last => into.push((first, last)),
            _ => return Err(bytes.wrong(format_args!("{text:?} is no range of ports"))),
        }
    }
    Ok(())
}

/// Version 1, then ranges of addresses.
fn networks(bytes: &mut Bytes<'_>, set: &mut SetData) -> Result<(), BinaryError> {
    if bytes.u8()? != 1 {
        return Err(bytes.wrong("the networks are of a version other than 1"));
    }
    let count = bytes.u64_be()?;
    let count = bytes.count(count, 2)?;
    for _ in 0..count {
        let (first, last) = (address(bytes)?, address(bytes)?);
        add_range(set, first, last).map_err(|why| bytes.wrong(why))?;
    }
    Ok(())
}

fn address(bytes: &mut Bytes<'_>) -> Result<IpAddr, BinaryError> {
    match bytes.varint()? {
        4 => Ok(IpAddr::from(bytes.array::<4>()?)),
        16 => Ok(IpAddr::from(bytes.array::<16>()?).to_canonical()),
        len => Err(bytes.wrong(format_args!("an address has 4 or 16 bytes, not {len}"))),
    }
}

/// What stands before a name: a carriage return for "whatever stands before this", a line feed for "this and all
/// below".
fn names(bytes: &mut Bytes<'_>, set: &mut SetData) -> Result<(), BinaryError> {
    bytes.u8()?;
    let mut words = || {
        let count = bytes.varint_count(8)?;
        bytes.take(count * 8)
    };
    let (leaves, bitmap) = (words()?, words()?);
    let count = bytes.varint_count(1)?;
    let labels = bytes.take(count)?;
    // A trie without labels has only its root, which ends no name that could be asked for.
    Trie { leaves, bitmap, labels }.names(bytes, |raw| {
        let text = std::str::from_utf8(raw).map_err(|_| bytes.wrong("a name is not UTF-8"))?;
        let condition = match text.as_bytes() {
            [] => return Ok(()),
            [b'\n', ..] => domain::name(&text[1..]).map(|name| Condition::Name(NameKind::Suffix, name)),
            [b'\r', b'.', ..] => domain::name(&text[2..]).map(|name| Condition::Name(NameKind::Below, name)),
            // Any name that ends so, in the middle of a label or not.
            [b'\r', ..] => {
                domain::name(&text[1..]).map(|name| Condition::Wildcard(format!("*{name}").into()))
            }
            _ => domain::name(text).map(|name| Condition::Name(NameKind::Exact, name)),
        };
        set.add(condition.map_err(|why| bytes.wrong(why))?).map_err(|why| bytes.wrong(why))
    })
}
