//! IPv4: `fib_table_lookup` (net/ipv4/fib_trie.c) and `ip_route_output_key_hash_rcu` (net/ipv4/route.c).

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr};

use super::source::{self, HOST, LINK};
use super::{Found, Model, Outcome, Packet, Ruled, Verdict, hops, loopback, name, nowhere, rules};
use crate::host::Snapshot;
use crate::id::{IfIndex, Table};
use crate::query::{RouteAnswer, RouteKind};

pub(super) fn decide(host: &Model<'_>, packet: &Packet) -> Vec<Outcome> {
    let IpAddr::V4(dst) = packet.dst else { return Vec::new() };
    if packet.iif.is_some() {
        return rules::ask(host, packet, lookup).into_iter().flat_map(|r| received(host, r)).collect();
    }
    if let Some(early) = before_rules(host, packet, dst) {
        return vec![Outcome { answer: early, rule: None, route: None, assumed: Vec::new() }];
    }
    // A source is chosen before the look-up for what goes to a group by a socket's device.
    let group = packet.oif.filter(|_| dst.is_multicast() && packet.src.is_none());
    let Some(source) = group.and_then(|oif| source::select(host, oif, None, 0)) else {
        return rules::ask(host, packet, lookup)
            .into_iter()
            .flat_map(|r| sent(host, packet, dst, r))
            .collect();
    };
    let packet = Packet { src: Some(source), ..*packet };
    let mut outcomes: Vec<_> =
        rules::ask(host, &packet, lookup).into_iter().flat_map(|r| sent(host, &packet, dst, r)).collect();
    for answer in outcomes.iter_mut().map(|o| &mut o.answer).filter(|a| a.oif.is_some()) {
        answer.prefsrc = Some(source);
    }
    outcomes
}

/// What is decided without a look at the rules.
fn before_rules(host: &Model<'_>, packet: &Packet, dst: Ipv4Addr) -> Option<RouteAnswer> {
    let many = dst.is_multicast() || dst.is_broadcast();
    if let Some(IpAddr::V4(src)) = packet.src {
        if src.is_multicast() || src.is_broadcast() || src.is_unspecified() {
            return Some(nowhere(RouteKind::Blackhole, None));
        }
        let Some(dev) = owner(host, src) else { return Some(nowhere(RouteKind::Unreachable, None)) };
        if packet.oif.is_none() && many {
            return Some(one_to_many(host, packet, dst, dev));
        }
    }
    if let Some(oif) = packet.oif {
        if host.link_at(oif).is_none_or(|l| !l.up) {
            return Some(nowhere(RouteKind::Unreachable, None));
        }
        // 224.0.0.0/24
        if dst.is_broadcast() || dst.octets()[..3] == [224, 0, 0] {
            return Some(one_to_many(host, packet, dst, oif));
        }
    }
    if dst.is_unspecified() {
        let lo = loopback(host);
        let of_device = packet.oif.and_then(|oif| source::select(host, oif, None, HOST));
        let source = of_device.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let prefsrc = packet.src.is_none().then_some(source);
        let kind = RouteKind::Local;
        return Some(RouteAnswer { oif: Some(lo), oif_name: name(host, lo), prefsrc, ..nowhere(kind, None) });
    }
    None
}

/// `__ip_dev_find`: the device that has an address, or the loopback device for all of its network.
fn owner(host: &Model<'_>, address: Ipv4Addr) -> Option<IfIndex> {
    let own = host.addresses.iter().find(|a| a.net.addr() == address).map(|a| a.index);
    own.or_else(|| {
        let probe = Packet {
            dst: address.into(),
            src: None,
            mark: 0,
            oif: None,
            iif: None,
            uid: 0,
            sport: None,
            dport: None,
            socket: false,
        };
        let found = lookup(host, &probe, Table::LOCAL)?;
        found.hops.first().filter(|_| found.route.kind == RouteKind::Local).map(|(oif, _)| *oif)
    })
}

fn one_to_many(host: &Snapshot, packet: &Packet, dst: Ipv4Addr, dev: IfIndex) -> RouteAnswer {
    let kind = if dst.is_broadcast() { RouteKind::Broadcast } else { RouteKind::Multicast };
    let prefsrc = if packet.src.is_some() { None } else { source::select(host, dev, None, LINK) };
    let answer = RouteAnswer { oif: Some(dev), oif_name: name(host, dev), prefsrc, ..nowhere(kind, None) };
    checked(host, packet, dst, answer)
}

/// The longest prefix that is of use, and of these the lowest metric. A route that refuses is always of use; of
/// the others one next hop must lead to the socket's device (`fib_lookup_good_nhc`).
pub(super) fn lookup<'a>(host: &Model<'a>, packet: &Packet, table: Table) -> Option<Found<'a>> {
    let mut routes = host.routes_to(table, packet.dst);
    routes.retain(|(_, route)| route.tos == 0);
    routes.sort_by_key(|(_, r)| (Reverse(r.dst.prefix_len()), r.metric));
    for (index, route) in routes {
        match route.kind {
            // -EAGAIN ends the look-up in this table.
            RouteKind::Throw => return None,
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
                return Some(Found { index, route, hops: Vec::new() });
            }
            _ => {}
        }
        let mut hops = hops(route);
        hops.retain(|(oif, _)| packet.oif.is_none_or(|wanted| wanted == *oif));
        if !hops.is_empty() {
            return Some(Found { index, route, hops });
        }
    }
    None
}

/// What becomes of a packet of this host.
fn sent(host: &Snapshot, packet: &Packet, dst: Ipv4Addr, ruled: Ruled<'_>) -> Vec<Outcome> {
    let Ruled { verdict, rule, assumed } = ruled;
    let outcome = |answer, route| Outcome { answer, rule, route, assumed: assumed.clone() };
    let (refused, index) = match verdict {
        Verdict::Route(found, table) if !found.refuses() => {
            let index = Some(found.index);
            if found.route.kind == RouteKind::Local {
                let lo = loopback(host);
                let prefsrc = found.route.prefsrc.unwrap_or(packet.dst);
                let answer = RouteAnswer {
                    oif: Some(lo),
                    oif_name: name(host, lo),
                    prefsrc: packet.src.is_none().then_some(prefsrc),
                    ..nowhere(RouteKind::Local, Some(table))
                };
                return vec![outcome(answer, index)];
            }
            return found
                .hops
                .iter()
                .map(|hop| outcome(output(host, packet, dst, &found, *hop, table), index))
                .collect();
        }
        Verdict::Route(found, _) => (found.route.kind, Some(found.index)),
        Verdict::Refused(kind) => (kind, None),
        Verdict::Nothing => (RouteKind::Unreachable, None),
    };
    // "Apparently, routing tables are wrong. Assume, that the destination is on link": whatever refused a packet
    // of a bound socket is overruled (K2).
    let answer = match packet.oif {
        Some(oif) => {
            let prefsrc = if packet.src.is_some() { None } else { source::select(host, oif, None, LINK) };
            let kind = kind_of(dst, RouteKind::Unicast);
            let guess =
                RouteAnswer { oif: Some(oif), oif_name: name(host, oif), prefsrc, ..nowhere(kind, None) };
            checked(host, packet, dst, guess)
        }
        None => nowhere(refused, None),
    };
    let rule_stands = packet.oif.is_none();
    vec![Outcome {
        rule: rule.filter(|_| rule_stands),
        route: index.filter(|_| rule_stands),
        ..outcome(answer, None)
    }]
}

/// `__mkroute_output`
fn output(
    host: &Snapshot,
    packet: &Packet,
    dst: Ipv4Addr,
    found: &Found<'_>,
    (oif, gateway): (IfIndex, Option<IpAddr>),
    table: Table,
) -> RouteAnswer {
    let route = found.route;
    let kind = kind_of(dst, route.kind);
    let prefsrc = if packet.src.is_some() {
        None
    } else {
        route.prefsrc.or_else(|| source::select(host, oif, gateway, route.scope))
    };
    let gateway = match kind {
        RouteKind::Broadcast => None,
        RouteKind::Multicast if route.dst.prefix_len() < 4 => None,
        _ => gateway,
    };
    let answer =
        RouteAnswer { oif: Some(oif), oif_name: name(host, oif), prefsrc, gateway, table: Some(table), kind };
    checked(host, packet, dst, answer)
}

fn kind_of(dst: Ipv4Addr, kind: RouteKind) -> RouteKind {
    match dst {
        dst if dst.is_broadcast() => RouteKind::Broadcast,
        dst if dst.is_multicast() => RouteKind::Multicast,
        _ => kind,
    }
}

/// What must not leave is refused as `-EINVAL`: to nowhere, and from loopback by another device.
fn checked(host: &Snapshot, packet: &Packet, dst: Ipv4Addr, answer: RouteAnswer) -> RouteAnswer {
    let source = packet.src.or(answer.prefsrc);
    let by_loopback = answer.oif.and_then(|i| host.link_at(i)).is_some_and(|l| l.loopback);
    if source.is_some_and(|s| s.is_loopback()) && !by_loopback || dst.is_unspecified() {
        return nowhere(RouteKind::Blackhole, None);
    }
    answer
}

/// What becomes of a packet that came in, on a host that forwards and accepts its source.
fn received(host: &Snapshot, ruled: Ruled<'_>) -> Vec<Outcome> {
    let Ruled { verdict, rule, assumed } = ruled;
    let outcome = |answer, route| Outcome { answer, rule, route, assumed: assumed.clone() };
    match verdict {
        Verdict::Route(found, table) if !found.refuses() => {
            let kind = found.route.kind;
            let here = matches!(kind, RouteKind::Local | RouteKind::Broadcast);
            let to = |(oif, gateway): &(IfIndex, Option<IpAddr>)| {
                let (oif, gateway) = if here { (loopback(host), None) } else { (*oif, *gateway) };
                let name = name(host, oif);
                let answer = RouteAnswer {
                    oif: Some(oif),
                    oif_name: name,
                    prefsrc: None,
                    gateway,
                    table: Some(table),
                    kind,
                };
                outcome(answer, Some(found.index))
            };
            found.hops.iter().map(to).collect()
        }
        Verdict::Route(found, _) => vec![outcome(nowhere(found.route.kind, None), Some(found.index))],
        Verdict::Refused(kind) => vec![outcome(nowhere(kind, None), None)],
        Verdict::Nothing => vec![outcome(nowhere(RouteKind::Unreachable, None), None)],
    }
}
