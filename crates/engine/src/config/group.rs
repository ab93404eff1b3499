//! Outbounds that choose among others.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use super::limits::Wait;
use super::outbound::{BLOCK, DIRECT, OutboundSpec};
use super::reader::{Reader, Section, Text};
use super::value::{InvalidValue, either, words};

/// An outbound that chooses among others, and how it finds out which of them work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// How it chooses.
    pub kind: GroupKind,
    /// Names of other outbounds, groups among them; at least one, each once.
    pub members: Vec<String>,
    /// How the members are checked.
    pub check: CheckSpec,
}

/// How a group chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// What the user has selected, at first the first member.
    Select,
    /// The member with the shortest check; another one only if it is faster by more than this.
    UrlTest {
        /// The advantage that it takes.
        tolerance: Duration,
    },
    /// The first member that works.
    Fallback,
    /// All members that work, in turn or by destination.
    LoadBalance(Balance),
    /// For each destination the first member that reaches it, found out by trying.
    Probe,
}

impl GroupKind {
    /// The word for the kind, as in `type = "fallback"`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::UrlTest { .. } => "url-test",
            Self::Fallback => "fallback",
            Self::LoadBalance(_) => "load-balance",
            Self::Probe => "probe",
        }
    }
}

words!(
    /// How flows are spread over the members of a group.
    Balance, "way to balance", {
        /// All flows to one destination take one member, as long as it works; so do all names of one site.
        ConsistentHash = "consistent-hash",
        /// One flow after the other.
        RoundRobin = "round-robin",
    }
);

/// How members are checked: by asking for a document through them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSpec {
    /// The document. An answer with a status of 200 to 399 is a success.
    pub url: CheckUrl,
    /// Between two checks, while the group is used. Of [`GroupKind::Probe`]: for how long it holds what was found.
    pub interval: Duration,
    /// For one check in all. Of [`GroupKind::Probe`]: for each member to connect, but the last.
    pub timeout: Duration,
}

impl Default for CheckSpec {
    fn default() -> Self {
        Self {
            url: CheckUrl {
                host: "www.gstatic.com".to_owned(),
                port: NonZeroU16::MIN.saturating_add(79),
                path: "/generate_204".to_owned(),
            },
            interval: Duration::from_secs(300),
            timeout: Duration::from_secs(5),
        }
    }
}

/// A URL of `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckUrl {
    /// A name in ASCII form, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: NonZeroU16,
    /// Path and query, with the slash.
    pub path: String,
}

impl CheckUrl {
    /// The address, if that is what the host is.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// As in the header `Host` (RFC 9112, 3.2).
    pub fn authority(&self) -> String {
        let host = if self.host.parse::<Ipv6Addr>().is_ok() {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port.get() == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for CheckUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

impl FromStr for CheckUrl {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wrong = |why: String| InvalidValue(format!("{text:?} cannot be checked: {why}"));
        let url = url::Url::parse(text).map_err(|error| wrong(error.to_string()))?;
        if url.scheme() != "http" {
            return Err(wrong("use an http:// URL; TLS would only tell of its own troubles".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("leave user and password out".to_owned()));
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) if name.len() <= 253 => name.to_owned(),
            Some(url::Host::Ipv4(ip)) => ip.to_string(),
            Some(url::Host::Ipv6(ip)) => ip.to_string(),
            _ => return Err(wrong("it has no host".to_owned())),
        };
        let port = url.port_or_known_default().and_then(NonZeroU16::new);
        let port = port.ok_or_else(|| wrong("port 0 is no port".to_owned()))?;
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self { host, port, path })
    }
}

/// The word in `type`, before the other keys are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupWord {
    Select,
    UrlTest,
    Fallback,
    LoadBalance,
    Probe,
}

impl GroupWord {
    pub(super) const WORDS: [&'static str; 5] = ["select", "url-test", "fallback", "load-balance", "probe"];

    pub(super) fn from_word(word: &str) -> Option<Self> {
        match word {
            "select" => Some(Self::Select),
            "url-test" => Some(Self::UrlTest),
            "fallback" => Some(Self::Fallback),
            "load-balance" => Some(Self::LoadBalance),
            "probe" => Some(Self::Probe),
            _ => None,
        }
    }
}

/// A faster member has to be so much faster, unless something else is configured: less is chance.
const TOLERANCE: Duration = Duration::from_millis(50);

/// A member that has not connected by then is given up for the next, unless something else is configured: as long as two
/// lost SYNs take (RFC 6298, 2.1 and 5.5).
const PATIENCE: Duration = Duration::from_secs(3);

/// Reads the keys of a group.
pub(super) fn read(
    word: GroupWord,
    section: &mut Section<'_, '_>,
    span: &Range<usize>,
    reader: &mut Reader<'_>,
) -> Option<GroupSpec> {
    let members: Option<Vec<String>> = section.read("members", reader);
    if section.raw("members").is_none() {
        reader
            .error(span, format!("[{}] has no `members`; list the names of other outbounds", section.name()));
    }
    let time = |section: &mut Section<'_, '_>, key, reader: &mut Reader<'_>| {
        section.read::<Text<Wait>>(key, reader).map(|wait| wait.0.get())
    };
    let kind = match word {
        GroupWord::Select => GroupKind::Select,
        GroupWord::Fallback => GroupKind::Fallback,
        GroupWord::Probe => GroupKind::Probe,
        GroupWord::UrlTest => {
            GroupKind::UrlTest { tolerance: time(section, "tolerance", reader).unwrap_or(TOLERANCE) }
        }
        GroupWord::LoadBalance => {
            let balance = section.read::<Text<Balance>>("strategy", reader).map(|text| text.0);
            GroupKind::LoadBalance(balance.unwrap_or(Balance::ConsistentHash))
        }
    };
    let mut check = CheckSpec::default();
    match word {
        // Nobody needs to know whether what the user has selected works: his choice stands.
        GroupWord::Select => {}
        // Each flow is a check of its own.
        GroupWord::Probe => check.timeout = PATIENCE,
        GroupWord::UrlTest | GroupWord::Fallback | GroupWord::LoadBalance => {
            if let Some(url) = section.read::<Text<CheckUrl>>("url", reader) {
                check.url = url.0;
            }
        }
    }
    if word != GroupWord::Select {
        check.interval = time(section, "interval", reader).unwrap_or(check.interval);
        check.timeout = time(section, "timeout", reader).unwrap_or(check.timeout);
    }
    let members = members?;
    if members.is_empty() {
        reader.error(span, format!("[{}] has no members; list at least one", section.name()));
        return None;
    }
    if let Some(twice) = members.iter().enumerate().find(|(n, name)| members[..*n].contains(name)) {
        reader.error(span, format!("[{}] has the member {:?} twice", section.name(), twice.1));
        return None;
    }
    Some(GroupSpec { kind, members, check })
}

/// Finds groups that have nobody to choose from, members that do not exist, and groups that lead to themselves.
pub(super) fn check(outbounds: &BTreeMap<String, OutboundSpec>, wrong: &mut dyn FnMut(&str, String)) {
    let members = |name: &str| match outbounds.get(name) {
        Some(OutboundSpec::Group(group)) => group.members.as_slice(),
        _ => &[],
    };
    let meant = |name: &str| match outbounds.get_key_value(name) {
        Some((name, _)) => Some(name.as_str()),
        None => canonical(name),
    };
    for (name, spec) in outbounds {
        let OutboundSpec::Group(group) = spec else { continue };
        if group.members.is_empty() {
            wrong(name, "it has no members; list at least one".to_owned());
        }
        if group.check.interval.is_zero() || group.check.timeout.is_zero() {
            wrong(name, "its checks have no time; give an interval and a timeout".to_owned());
        }
        // Subscriptions have groups of a thousand.
        let mut taken = BTreeMap::new();
        for member in &group.members {
            match meant(member).map(|meant| taken.entry(meant)) {
                None => wrong(name, format!("no outbound is named {member:?}")),
                Some(Entry::Occupied(first)) => {
                    wrong(name, format!("{:?} and {member:?} are the same member", first.get()));
                }
                Some(Entry::Vacant(free)) => drop(free.insert(member)),
            }
        }
        if let Some(circle) = circle(name, &members) {
            wrong(name, format!("it leads back to itself: {}", circle.join(" -> ")));
        }
    }
}

/// The name of an outbound that always exists, in our words or those of Clash.
pub fn canonical(name: &str) -> Option<&'static str> {
    match name {
        DIRECT | "DIRECT" => Some(DIRECT),
        BLOCK | "REJECT" | "REJECT-DROP" => Some(BLOCK),
        _ => None,
    }
}

/// The way from a group back to itself, if there is one.
fn circle<'a>(start: &'a str, members: &impl Fn(&str) -> &'a [String]) -> Option<Vec<&'a str>> {
    let mut seen = vec![start];
    let mut ways: Vec<Vec<&str>> = vec![vec![start]];
    while let Some(way) = ways.pop() {
        let last = way.last().copied().unwrap_or(start);
        for member in members(last) {
            let mut longer = way.clone();
            longer.push(member);
            if member == start {
                return Some(longer);
            }
            if !seen.contains(&member.as_str()) {
                seen.push(member);
                ways.push(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_http_and_nothing_else() {
        for (text, host, port, path, authority) in [
            ("http://a.example", "a.example", 80, "/", "a.example"),
            ("http://A.example:8080/x?y=1", "a.example", 8080, "/x?y=1", "a.example:8080"),
            ("http://[2001:db8::1]:81/", "2001:db8::1", 81, "/", "[2001:db8::1]:81"),
            ("http://192.0.2.1/x", "192.0.2.1", 80, "/x", "192.0.2.1"),
        ] {
            let url: CheckUrl = text.parse().unwrap();
            assert_eq!((url.host.as_str(), url.port.get(), url.path.as_str()), (host, port, path), "{text}");
            assert_eq!(url.authority(), authority);
        }
        for text in ["", "a.example", "https://a.example", "http://", "http://u:p@a.example", "http://a:0/"] {
            assert!(text.parse::<CheckUrl>().is_err(), "{text}");
        }
    }
}
