//! One condition after the other, where no index helps.

use std::net::IpAddr;

use super::index::{Index, address};
use super::{Databases, Evaluation, Verdict};
use crate::condition::{Address, Condition, Program, Side};
use crate::geo::ip::is_lan;
use crate::query::{Answer, Fact};
use crate::wildcard;

impl Evaluation<'_> {
    /// Whether a condition of the rule at `order` holds.
    pub(super) fn test(&self, order: u32, condition: &Condition) -> Verdict {
        let query = self.query;
        let host = |test: &dyn Fn(&str) -> bool| Verdict::from(self.host.is_some_and(test));
        match condition {
            Condition::Always => Verdict::Yes,
            // Rule sets and categories were compiled: `super::Compiler`.
            Condition::Never | Condition::RuleSet(..) | Condition::GeoSite(..) => Verdict::No,
            Condition::Name(kind, name) => host(&|host| kind.matches(name, host)),
            Condition::Labels(labels) => host(&|host| labels.matches(host)),
            Condition::Keyword(keyword) => host(&|host| host.contains(&**keyword)),
            Condition::Wildcard(pattern) => {
                host(&|host| wildcard::matches(pattern.as_bytes(), host.as_bytes()))
            }
            Condition::Regex(regex) => host(&|host| regex.is_match(host)),
            Condition::Net(net, at) => self.ip(order, *at, |ip| net.contains(&ip)),
            Condition::IpSuffix(suffix, at) => self.ip(order, *at, |ip| suffix.matches(ip)),
            Condition::GeoIp(code, at) => self.ip(order, *at, |ip| country(self.databases, code, ip)),
            Condition::Asn(number, at) => self.ip(order, *at, |ip| {
                self.databases.asn.as_ref().and_then(|asn| asn.number(ip)) == Some(*number)
            }),
            Condition::Port(Side::Destination, ports) => ports.contains(query.port).into(),
            Condition::Port(Side::Source, ports) => {
                query.source.is_some_and(|source| ports.contains(source.port())).into()
            }
            Condition::Network(network) => (query.network == *network).into(),
            Condition::Program(program, text) => {
                self.program(*program, |found| found.to_lowercase() == **text)
            }
            Condition::ProgramWildcard(program, pattern) => self.program(*program, |found| {
                wildcard::matches(pattern.as_bytes(), found.to_lowercase().as_bytes())
            }),
            Condition::ProgramRegex(program, regex) => self.program(*program, |found| regex.is_match(found)),
            Condition::Uid(uids) => match query.uid {
                Answer::Known(uid) => uids.contains(uid).into(),
                Answer::Unasked => Verdict::Needs(Fact::Uid),
                Answer::Unknown => Verdict::No,
            },
            Condition::Inbound(inbounds) => inbounds.contains(query.inbound).into(),
            Condition::Dscp(points) => query.dscp.is_some_and(|point| points.contains(point)).into(),
            Condition::Compiled(set) => match self.sets.get(*set as usize) {
                Some(set) => self.set(order, set),
                None => Verdict::No,
            },
            // Left to right, and no further than needed: what stands behind is not asked for facts.
            Condition::All(inner) => {
                let verdicts = inner.iter().map(|condition| self.test(order, condition));
                verdicts.into_iter().find(|verdict| *verdict != Verdict::Yes).unwrap_or(Verdict::Yes)
            }
            Condition::Any(inner) => {
                let verdicts = inner.iter().map(|condition| self.test(order, condition));
                verdicts.into_iter().find(|verdict| *verdict != Verdict::No).unwrap_or(Verdict::No)
            }
            Condition::Not(inner) => match self.test(order, inner) {
                Verdict::Yes => Verdict::No,
                Verdict::No => Verdict::Yes,
                needs => needs,
            },
        }
    }

    /// A set inside a condition: all its entries belong to the rule at `order`.
    fn set(&self, order: u32, set: &Index) -> Verdict {
        match set.find(self, self.asked_within(order), |_, condition| self.test(order, condition)) {
            None => Verdict::No,
            Some(found) => found.missing.map_or(Verdict::Yes, Verdict::Needs),
        }
    }

    /// Which of the positions inside the rule at `order` do without an address: all, if an address was found out for a
    /// later rule, or none.
    pub(super) fn asked_within(&self, order: u32) -> u32 {
        if order < self.query.asked_at { u32::MAX } else { 0 }
    }

    fn ip(&self, order: u32, at: Address, test: impl Fn(IpAddr) -> bool) -> Verdict {
        match address(self.query, at.side) {
            Answer::Known(ip) => {
                // Found out for a later rule, and this one does without.
                let early = at.side == Side::Destination && !at.resolve && order < self.query.asked_at;
                (!early && test(ip)).into()
            }
            Answer::Unasked if at.resolve && self.host.is_some() => Verdict::Needs(Fact::Address),
            Answer::Unasked | Answer::Unknown => Verdict::No,
        }
    }

    fn program(&self, program: Program, test: impl Fn(&str) -> bool) -> Verdict {
        match (self.query.process, program) {
            (Answer::Known(process), Program::Name) => test(&process.name).into(),
            (Answer::Known(process), Program::Path) => {
                (!process.path.is_empty() && test(&process.path)).into()
            }
            (Answer::Unasked, _) => Verdict::Needs(Fact::Process),
            (Answer::Unknown, _) => Verdict::No,
        }
    }
}

impl crate::condition::NameKind {
    /// Whether a host name is among those that `name` stands for.
    pub(crate) fn matches(self, name: &str, host: &str) -> bool {
        let Some(before) = host.strip_suffix(name) else { return false };
        let label = before.strip_suffix('.');
        match self {
            Self::Exact => before.is_empty(),
            Self::Suffix => before.is_empty() || label.is_some(),
            Self::Below => label.is_some(),
            Self::Star => label.is_some_and(|label| !label.contains('.')),
        }
    }
}

fn country(databases: &Databases, code: &str, ip: IpAddr) -> bool {
    if code == "lan" {
        return is_lan(ip);
    }
    databases.geoip.as_ref().is_some_and(|geoip| geoip.any(ip, |found| found.eq_ignore_ascii_case(code)))
}
