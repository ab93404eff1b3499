//! From one kind and its payload to a condition.

use std::net::IpAddr;

use ipnet::IpNet;
use oneway_flow::Network;

use super::{Context, Field};
use crate::condition::{Address, Condition, Inbounds, IpSuffix, NameKind, Program, Side, regex};
use crate::domain;
use crate::error::Wrong;
use crate::ranges::Ranges;
use oneway_flow::Inbound;

/// How deep `AND`, `OR` and `NOT` may nest: parsing and matching recurse.
const MAX_DEPTH: usize = 32;

/// How many conditions one rule may join.
const MAX_JOINED: usize = 4096;

/// Where a condition stands, which decides what it may refer to.
pub(crate) enum Dialect<'a> {
    /// In the rules.
    Rules(&'a Context<'a>),
    /// In a rule set, which refers to nothing outside.
    Set,
}

/// Options that other programs have, which change how a name is resolved or when a rule is tried, and which list
/// makers write. They mean nothing here.
const WITHOUT_EFFECT: &[&str] = &["extended-matching", "enhanced-mode", "force-remote-dns", "pre-matching"];

/// Kinds of other programs, or that ask about listeners that this program has none of. mihomo leaves those that it
/// does not know out of a rule set.
pub(crate) const FOREIGN: &[&str] = &[
    "IN-PORT",
    "IN-USER",
    "IN-NAME",
    "USER-AGENT",
    "URL-REGEX",
    "PROTOCOL",
    "SUBNET",
    "DEVICE-NAME",
    "HOSTNAME-TYPE",
    "CELLULAR-RADIO",
    "SCRIPT",
    "SRC-MAC",
    "DEST-PORT-SET",
];

/// Whether the payload of a kind may have commas, so that it has no options.
pub(crate) fn takes_commas(kind: &str) -> bool {
    matches!(
        kind,
        "AND" | "OR" | "NOT" | "DOMAIN-REGEX" | "PROCESS-NAME-REGEX" | "PROCESS-PATH-REGEX" | "SUB-RULE"
    )
}

/// Parses a kind with its payload and options.
pub(crate) fn parse_condition(
    kind: Field<'_>,
    payload: Field<'_>,
    options: Option<Field<'_>>,
    dialect: &Dialect<'_>,
) -> Result<Condition, Wrong> {
    nested(kind, payload, options, dialect, 0)
}

/// Parses the one condition in brackets of a `SUB-RULE`.
pub(super) fn single(payload: Field<'_>, context: &Context<'_>) -> Result<Condition, Wrong> {
    bracketed(payload, &Dialect::Rules(context), 1)
}

fn nested(
    kind: Field<'_>,
    payload: Field<'_>,
    options: Option<Field<'_>>,
    dialect: &Dialect<'_>,
    depth: usize,
) -> Result<Condition, Wrong> {
    let word = kind.text.to_ascii_uppercase();
    let options = Options::parse(options)?;
    let destination = Address { side: Side::Destination, resolve: !options.no_resolve };
    let source = Address { side: Side::Source, resolve: false };
    let either = if options.src { source } else { destination };
    let condition = match word.as_str() {
        "DOMAIN" => Condition::Name(NameKind::Exact, name(payload)?),
        "DOMAIN-SUFFIX" => {
            let (kind, dots) = match payload.text.as_bytes() {
                // As lists of names have it.
                [b'+', b'.', ..] => (NameKind::Suffix, 2),
                [b'.', ..] => (NameKind::Below, 1),
                _ => (NameKind::Suffix, 0),
            };
            let (_, text) = payload.text.split_at(dots);
            Condition::Name(kind, name(Field { text, at: payload.at + dots })?)
        }
        "DOMAIN-KEYWORD" => Condition::Keyword(part(payload, "a part of a name", domain::keyword)?),
        "DOMAIN-WILDCARD" => {
            Condition::Wildcard(part(payload, "a pattern such as *.example.com", domain::wildcard)?)
        }
        "DOMAIN-REGEX" => Condition::Regex(expression(payload)?),
        "GEOSITE" => geosite(payload, dialect)?,
        "IP-CIDR" | "IP-CIDR6" => Condition::Net(net(payload)?, either),
        "SRC-IP-CIDR" | "SRC-IP-CIDR6" => Condition::Net(net(payload)?, source),
        "IP-SUFFIX" => Condition::IpSuffix(ip_suffix(payload)?, either),
        "SRC-IP-SUFFIX" => Condition::IpSuffix(ip_suffix(payload)?, source),
        "GEOIP" => Condition::GeoIp(country(kind, payload, dialect)?, either),
        "SRC-GEOIP" => Condition::GeoIp(country(kind, payload, dialect)?, source),
        "IP-ASN" => Condition::Asn(asn(kind, payload, dialect)?, either),
        "SRC-IP-ASN" => Condition::Asn(asn(kind, payload, dialect)?, source),
        "DST-PORT" => Condition::Port(Side::Destination, ports(payload)?),
        "SRC-PORT" => Condition::Port(Side::Source, ports(payload)?),
        "NETWORK" => Condition::Network(network(payload)?),
        "PROCESS-NAME" => Condition::Program(Program::Name, program(payload)?),
        "PROCESS-PATH" => Condition::Program(Program::Path, program(payload)?),
        "PROCESS-NAME-WILDCARD" => Condition::ProgramWildcard(Program::Name, program(payload)?),
        "PROCESS-PATH-WILDCARD" => Condition::ProgramWildcard(Program::Path, program(payload)?),
        "PROCESS-NAME-REGEX" => Condition::ProgramRegex(Program::Name, expression(payload)?),
        "PROCESS-PATH-REGEX" => Condition::ProgramRegex(Program::Path, expression(payload)?),
        "UID" => Condition::Uid(ranges(payload, u32::MAX, "a user number such as 1000 or 1000-1999")?),
        "DSCP" => Condition::Dscp(ranges(payload, 63, "a code point from 0 to 63 such as 46 or 8-15")?),
        "IN-TYPE" => Condition::Inbound(inbounds(payload)?),
        "RULE-SET" => rule_set(kind, payload, either, dialect)?,
        "AND" => Condition::All(joined(payload, dialect, depth)?.into()),
        "OR" => Condition::Any(joined(payload, dialect, depth)?.into()),
        "NOT" => {
            let mut inner = joined(payload, dialect, depth)?;
            match (inner.pop(), inner.is_empty()) {
                (Some(only), true) => Condition::Not(Box::new(only)),
                _ => return Err(payload.wrong("NOT takes one condition, such as NOT,((DOMAIN,example.com))")),
            }
        }
        _ => return Err(unknown(kind, &word, dialect, depth)),
    };
    let addressed = matches!(
        condition,
        Condition::Net(..)
            | Condition::IpSuffix(..)
            | Condition::GeoIp(..)
            | Condition::Asn(..)
            | Condition::RuleSet(..)
    );
    match options.src_at {
        Some(option) if options.src && !addressed => {
            Err(option.wrong(format!("{word} has no option src; rules on addresses have")))
        }
        _ => Ok(condition),
    }
}

fn unknown(kind: Field<'_>, word: &str, dialect: &Dialect<'_>, depth: usize) -> Wrong {
    match (word, dialect) {
        ("", _) => kind.wrong("a kind of rule is missing here, such as DOMAIN-SUFFIX or MATCH"),
        ("MATCH" | "FINAL" | "SUB-RULE", _) if depth > 0 => {
            kind.wrong(format!("{word} cannot stand inside another rule"))
        }
        ("MATCH" | "FINAL" | "SUB-RULE", _) => kind.wrong(format!("{word} cannot stand in a rule set")),
        (foreign, _) if FOREIGN.contains(&foreign) => {
            kind.wrong(format!("{foreign} is not supported: there is nothing here that it could ask about"))
        }
        _ => kind
            .wrong(format!("unknown kind of rule {:?}; see the README for those that there are", kind.text)),
    }
}

/// What may follow the outbound.
#[derive(Default)]
struct Options<'a> {
    no_resolve: bool,
    src: bool,
    src_at: Option<Field<'a>>,
}

impl<'a> Options<'a> {
    fn parse(mut rest: Option<Field<'a>>) -> Result<Self, Wrong> {
        let mut options = Self::default();
        while let Some(field) = rest {
            let (option, others) = field.split_first();
            rest = others;
            match option.text.to_ascii_lowercase().as_str() {
                "no-resolve" => options.no_resolve = true,
                "src" => (options.src, options.src_at) = (true, Some(option)),
                "" => {}
                known if WITHOUT_EFFECT.contains(&known) => {}
                _ => {
                    let message = format!("unknown option {:?}; no-resolve and src may follow", option.text);
                    return Err(option.wrong(message));
                }
            }
        }
        Ok(options)
    }
}

/// The conditions of `((…),(…))`.
fn joined(payload: Field<'_>, dialect: &Dialect<'_>, depth: usize) -> Result<Vec<Condition>, Wrong> {
    let inner = payload.unwrap_brackets().ok_or_else(|| {
        payload
            .wrong("conditions in brackets are expected here, such as ((DOMAIN,example.com),(NETWORK,udp))")
    })?;
    let parts = inner.split_outside_brackets()?;
    if parts.len() > MAX_JOINED {
        return Err(inner.wrong(format!("one rule joins at most {MAX_JOINED} conditions")));
    }
    parts.into_iter().map(|part| bracketed(part, dialect, depth + 1)).collect()
}

/// The condition of `(KIND,PAYLOAD)`.
fn bracketed(part: Field<'_>, dialect: &Dialect<'_>, depth: usize) -> Result<Condition, Wrong> {
    let Some(inner) = part.unwrap_brackets() else {
        return Err(part.wrong("a condition in brackets is expected here, such as (DOMAIN,example.com)"));
    };
    if depth > MAX_DEPTH {
        return Err(part.wrong(format!("conditions nest at most {MAX_DEPTH} deep")));
    }
    let (kind, rest) = inner.split_first();
    let rest = rest.unwrap_or(inner.end());
    let (payload, options) =
        if takes_commas(&kind.text.to_ascii_uppercase()) { (rest, None) } else { rest.split_first() };
    // What never matches may decide the whole all the same, within NOT.
    nested(kind, payload, options, dialect, depth).map_err(|wrong| Wrong { never: false, ..wrong })
}

fn missing(field: Field<'_>, what: &str) -> Wrong {
    field.wrong(format!("{what} is missing here"))
}

fn name(field: Field<'_>) -> Result<Box<str>, Wrong> {
    if field.text.is_empty() {
        return Err(missing(field, "a host name"));
    }
    let name = domain::name(field.text).map_err(|why| field.wrong(why))?;
    match domain::never(&name, "") {
        Some(why) => {
            Err(Wrong { never: true, ..field.wrong(format!("{:?} never matches: {why}", field.text)) })
        }
        None => Ok(name),
    }
}

/// What is to be found in names.
fn part(
    field: Field<'_>,
    what: &str,
    read: impl FnOnce(&str) -> Result<Box<str>, String>,
) -> Result<Box<str>, Wrong> {
    match field.text {
        "" => Err(missing(field, what)),
        text => read(text)
            .map_err(|why| Wrong { never: true, ..field.wrong(format!("{text:?} never matches: {why}")) }),
    }
}

fn program(field: Field<'_>) -> Result<Box<str>, Wrong> {
    match field.text {
        "" => Err(missing(field, "the name of a program")),
        text => Ok(text.to_lowercase().into()),
    }
}

fn expression(field: Field<'_>) -> Result<Box<regex::Regex>, Wrong> {
    match field.text {
        "" => Err(missing(field, "a regular expression")),
        text => regex(text).map(Box::new).map_err(|why| field.wrong(why)),
    }
}

/// A network; an address alone is a network of one. Bits behind the prefix are cleared, as Clash does.
pub(crate) fn net(field: Field<'_>) -> Result<IpNet, Wrong> {
    if let Ok(net) = field.text.parse::<IpNet>() {
        return Ok(net.trunc());
    }
    if let Ok(ip) = field.text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    Err(match field.text {
        "" => missing(field, "a network, such as 10.0.0.0/8,"),
        text => field
            .wrong(format!("{text:?} is not a network; one such as 10.0.0.0/8 or 2001:db8::/32 is expected")),
    })
}

fn ip_suffix(field: Field<'_>) -> Result<Box<IpSuffix>, Wrong> {
    match field.text.parse::<IpNet>() {
        Ok(net) => Ok(Box::new(IpSuffix { ip: net.addr(), bits: net.prefix_len() })),
        Err(_) => Err(field.wrong(format!(
            "{:?} is no suffix of addresses; one such as 8.8.8.8/24, the last 24 bits, is expected",
            field.text
        ))),
    }
}

fn ports(field: Field<'_>) -> Result<Ranges<u16>, Wrong> {
    ranges(field, u16::MAX, "a port such as 443, 80/443 or 8000-8999")
}

fn ranges<T>(field: Field<'_>, max: T, what: &str) -> Result<Ranges<T>, Wrong>
where
    T: Copy + Ord + std::str::FromStr + std::fmt::Display,
{
    if field.text.is_empty() {
        return Err(missing(field, what));
    }
    Ranges::parse(field.text, max).map_err(|part| {
        let at = field.text.find(part).unwrap_or(0);
        Wrong::new(field.at + at, format!("{part:?} is not {what}"))
    })
}

fn network(field: Field<'_>) -> Result<Network, Wrong> {
    match field.text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Network::Tcp),
        "udp" => Ok(Network::Udp),
        "icmp" => Ok(Network::Icmp),
        _ => Err(field.wrong(format!("{:?} is no network; use tcp, udp or icmp", field.text))),
    }
}

/// The inbounds of Clash that there are here, and those that there are not, which then never match.
fn inbounds(field: Field<'_>) -> Result<Inbounds, Wrong> {
    let mut inbounds = Inbounds::default();
    for part in field.text.split('/').map(str::trim) {
        match part.to_ascii_uppercase().as_str() {
            "TUN" => inbounds.insert(Inbound::Tun),
            "REDIR" => inbounds.insert(Inbound::Redirect),
            "TPROXY" => inbounds.insert(Inbound::Tproxy),
            "HTTP" | "HTTPS" | "SOCKS" | "SOCKS4" | "SOCKS5" | "SHADOWSOCKS" | "SNELL" | "VMESS"
            | "VLESS" | "TROJAN" | "TUIC" | "TUNNEL" | "HYSTERIA2" | "ANYTLS" | "MIERU" | "SUDOKU"
            | "INNER" => {}
            _ => {
                let at = field.at + field.text.find(part).unwrap_or(0);
                let message = format!("{part:?} is no type of inbound; use TUN, REDIR or TPROXY");
                return Err(Wrong::new(at, message));
            }
        }
    }
    Ok(inbounds)
}

fn country(kind: Field<'_>, field: Field<'_>, dialect: &Dialect<'_>) -> Result<Box<str>, Wrong> {
    let code = field.text;
    if code.is_empty() {
        return Err(missing(field, "the code of a country"));
    }
    if code.len() > 64 || !code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_!".contains(&byte)) {
        return Err(field.wrong(format!("{code:?} is no code of a country; use one such as DE, or LAN")));
    }
    let code: Box<str> = code.to_ascii_lowercase().into();
    if let Dialect::Rules(context) = dialect
        && context.check_databases
        && !context.geoip
        && &*code != "lan"
    {
        return Err(
            kind.wrong("GEOIP needs a database of countries; give its file by the key geoip in [rules]")
        );
    }
    Ok(code)
}

fn asn(kind: Field<'_>, field: Field<'_>, dialect: &Dialect<'_>) -> Result<u32, Wrong> {
    let digits = field.text.strip_prefix("AS").unwrap_or(field.text);
    let number = digits.parse().map_err(|_| {
        field.wrong(format!("{:?} is no number of an autonomous system; use one such as 64496", field.text))
    })?;
    if let Dialect::Rules(context) = dialect
        && context.check_databases
        && !context.asn
    {
        return Err(
            kind.wrong("IP-ASN needs a database of networks; give its file by the key asn in [rules]")
        );
    }
    Ok(number)
}

fn geosite(field: Field<'_>, dialect: &Dialect<'_>) -> Result<Condition, Wrong> {
    let text = field.text.to_ascii_lowercase();
    let (not, text) = text.strip_prefix('!').map_or((false, text.as_str()), |rest| (true, rest));
    let (category, attribute) = match text.split_once('@') {
        Some((category, attribute)) => (category, Some(attribute)),
        None => (text, None),
    };
    if category.is_empty() || attribute == Some("") {
        return Err(missing(field, "a category such as cn or google@ads"));
    }
    if let Dialect::Rules(context) = dialect
        && context.check_databases
    {
        let Some(geosite) = context.geosite else {
            return Err(
                field.wrong("GEOSITE needs a database of names; give its file by the key geosite in [rules]")
            );
        };
        if !geosite.has(category) {
            return Err(field.wrong(format!("the database of names has no category {category:?}")));
        }
    }
    let condition = Condition::GeoSite(Box::new((category.into(), attribute.map(Into::into))));
    Ok(if not { Condition::Not(Box::new(condition)) } else { condition })
}

fn rule_set(
    kind: Field<'_>,
    field: Field<'_>,
    address: Address,
    dialect: &Dialect<'_>,
) -> Result<Condition, Wrong> {
    let Dialect::Rules(context) = dialect else {
        return Err(kind.wrong("RULE-SET cannot stand in a rule set"));
    };
    match (context.rule_set)(field.text) {
        Some(set) => Ok(Condition::RuleSet(set, address)),
        None if field.text.is_empty() => Err(missing(field, "the name of a rule set")),
        None => Err(field.wrong(format!(
            "there is no rule set named {:?}; it is defined by [rule-set.{}]",
            field.text, field.text
        ))),
    }
}
