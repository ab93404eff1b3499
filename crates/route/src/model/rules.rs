//! Which rules match a packet, and in which order they are asked (`fib_rules_lookup`, net/core/fib_rules.c).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Found, Model, Packet, Ruled, Verdict};
use crate::host::{Rule, RuleAction, Snapshot};
use crate::id::{IfIndex, Table};
use crate::query::RouteKind;

/// More ways through rules that are not understood are not followed; the last says that it is not sure.
const WAYS: usize = 64;

/// Asks a table of the packet's family.
pub(super) type Lookup<'a> = fn(&Model<'a>, &Packet, Table) -> Option<Found<'a>>;

/// Everything that the rules may answer.
pub(super) fn ask<'a>(host: &Model<'a>, packet: &Packet, lookup: Lookup<'a>) -> Vec<Ruled<'a>> {
    let mut rules: Vec<_> =
        host.host().rules.iter().enumerate().filter(|(_, r)| r.family == packet.family()).collect();
    rules.sort_by_key(|(_, r)| r.priority);
    let mut walk = Walk { host, packet, lookup, rules, out: Vec::new() };
    walk.from(0, Vec::new());
    walk.out
}

struct Walk<'a, 'p> {
    host: &'p Model<'a>,
    packet: &'p Packet,
    lookup: Lookup<'a>,
    rules: Vec<(usize, &'a Rule)>,
    out: Vec<Ruled<'a>>,
}

impl<'a> Walk<'a, '_> {
    fn from(&mut self, mut at: usize, mut assumed: Vec<String>) {
        while let Some((index, rule)) = self.rules.get(at).copied() {
            match matches(self.host, rule, self.packet) {
                Match::No => {
                    at += 1;
                    continue;
                }
                Match::Yes => {}
                Match::Perhaps(what) => {
                    if self.out.len() >= WAYS {
                        assumed.push("too many rules that are not understood".to_owned());
                    } else {
                        let mut without = assumed.clone();
                        without.push(format!("rule {} does not match ({what})", rule.priority));
                        self.from(at + 1, without);
                    }
                    assumed.push(format!("rule {} matches ({what})", rule.priority));
                }
            }
            let verdict = match rule.action {
                // The kernel refuses a target that is not behind the rule, and skips one that is not there.
                RuleAction::Goto(target) => {
                    let to = self.rules.iter().position(|(_, r)| r.priority == target);
                    at = to.filter(|to| *to > at).unwrap_or(at + 1);
                    continue;
                }
                RuleAction::Nop => None,
                RuleAction::Lookup(table) => (self.lookup)(self.host, self.packet, table)
                    .filter(|found| !self.suppressed(rule, found))
                    .map(|found| Verdict::Route(found, table)),
                RuleAction::Unreachable => Some(Verdict::Refused(RouteKind::Unreachable)),
                RuleAction::Prohibit => Some(Verdict::Refused(RouteKind::Prohibit)),
                RuleAction::Blackhole | RuleAction::Other(_) => Some(Verdict::Refused(RouteKind::Blackhole)),
            };
            if let Some(verdict) = verdict {
                self.out.push(Ruled { verdict, rule: Some(index), assumed });
                return;
            }
            at += 1;
        }
        self.out.push(Ruled { verdict: Verdict::Nothing, rule: None, assumed });
    }

    /// `fib4_rule_suppress`, `fib6_rule_suppress`: a refusal is an error already and is not looked at.
    fn suppressed(&self, rule: &Rule, found: &Found<'_>) -> bool {
        if found.refuses() {
            return false;
        }
        let short = rule.suppress_prefixlength.is_some_and(|n| u32::from(found.route.dst.prefix_len()) <= n);
        let group = |index: &IfIndex| self.host.link_at(*index).map_or(0, |l| l.group);
        let of_group = found.hops.first().map(|(oif, _)| group(oif));
        short || rule.suppress_ifgroup.is_some_and(|g| of_group == Some(g))
    }
}

enum Match {
    Yes,
    No,
    /// It looks at what is not known.
    Perhaps(String),
}

/// `fib_rule_match`, and `fib4_rule_match` and `fib6_rule_match` of net/ipv{4,6}/fib{,6}_rules.c.
fn matches(host: &Snapshot, rule: &Rule, packet: &Packet) -> Match {
    // What this host sends comes in by the loopback device. A device that is not there matches nothing.
    let device = |name: &str, index: Option<IfIndex>| {
        host.link(name).map(|l| l.index).is_some_and(|found| Some(found) == index)
    };
    let iif = packet.iif.or_else(|| Some(super::loopback(host)));
    let mark = rule.fwmark.is_none_or(|(mark, mask)| (mark.0 ^ packet.mark) & mask == 0);
    // A source that is not chosen yet is 0.0.0.0 to IPv4, and to IPv6 none at all, which only ::/0 has in it.
    let source = match packet.dst {
        IpAddr::V4(_) => Some(packet.src.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
        IpAddr::V6(_) => packet.src,
    };
    let within = |net: Option<IpNet>, address: Option<IpAddr>| {
        net.is_none_or(|net| address.map_or(net.prefix_len() == 0, |a| net.contains(&a)))
    };
    let known = rule.iif.as_deref().is_none_or(|name| device(name, iif))
        && rule.oif.as_deref().is_none_or(|name| device(name, packet.oif))
        && mark
        && rule.uids.is_none_or(|(first, last)| (first..=last).contains(&packet.uid))
        && within(rule.src, source)
        && within(rule.dst, Some(packet.dst))
        && rule.tos == 0;
    if let Some((first, last)) = rule.sports.filter(|_| known) {
        match packet.sport {
            Some(port) if (first..=last).contains(&port) => {}
            Some(_) => return if rule.invert { Match::Yes } else { Match::No },
            None => return Match::Perhaps(format!("sport {first}-{last}")),
        }
    }
    let known = match (rule.ip_protocol, rule.dports.filter(|_| known)) {
        (None, None) => known,
        (protocol, ports) => match packet.dport {
            Some((number, port)) => {
                known
                    && protocol.is_none_or(|protocol| protocol == number)
                    && ports.is_none_or(|(first, last)| (first..=last).contains(&port))
            }
            None if known => return Match::Perhaps("its protocol and port".to_owned()),
            None => false,
        },
    };
    if known && !rule.other.is_empty() {
        let l3mdev = rule.other.iter().any(|o| o.contains("L3MDev"));
        if l3mdev && !host.links.iter().any(|l| l.kind.as_deref() == Some("vrf")) {
            // `l3mdev_fib_rule_match`: a device of a VRF, and there is none.
            return if rule.invert { Match::Yes } else { Match::No };
        }
        return Match::Perhaps(rule.other.join(", "));
    }
    if known != rule.invert { Match::Yes } else { Match::No }
}
