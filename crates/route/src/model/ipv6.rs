//! IPv6: `fib6_table_lookup`, `find_rr_leaf` and `rt6_score_route` of net/ipv6/route.c.
//!
//! Two things differ from IPv4. A socket's device and a route's preference are a score, so that with equal metric a
//! route to another device can be chosen where the device is a wish only. And a route that refuses leads to the
//! loopback device: for a bound socket it is not there.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Found, Model, Outcome, Packet, Ruled, Verdict, hops, loopback, name, nowhere, rules};
use crate::host::{Route, Snapshot};
use crate::id::{IfIndex, Table};
use crate::query::{RouteAnswer, RouteKind};

pub(super) fn decide(host: &Model<'_>, packet: &Packet) -> Vec<Outcome> {
    rules::ask(host, packet, lookup).into_iter().flat_map(|r| outcomes(host, r)).collect()
}

/// Whether only routes by the packet's device count (`RT6_LOOKUP_F_IFACE`).
fn strict(packet: &Packet) -> bool {
    let IpAddr::V6(dst) = packet.dst else { return false };
    let need = dst.is_multicast() || dst.is_unicast_link_local() || dst.is_loopback();
    need || packet.iif.is_none() && (packet.socket || packet.src.is_none())
}

pub(super) fn lookup<'a>(host: &Model<'a>, packet: &Packet, table: Table) -> Option<Found<'a>> {
    let of_use = |net: IpNet| net.prefix_len() == 0 || packet.src.is_some_and(|src| net.contains(&src));
    let mut routes = host.routes_to(table, packet.dst);
    routes.retain(|(_, route)| route.src.is_none_or(of_use));
    // Of routes to the same network, those of a narrower source are asked first (`CONFIG_IPV6_SUBTREES`).
    let source = |route: &Route| route.src.map_or(0, |net| net.prefix_len());
    routes.sort_by_key(|(_, r)| (Reverse(r.dst.prefix_len()), Reverse(source(r)), r.metric));
    let same_node = |a: &(usize, &Route), b: &(usize, &Route)| {
        a.1.dst.prefix_len() == b.1.dst.prefix_len() && source(a.1) == source(b.1)
    };
    for node in routes.chunk_by(same_node) {
        let lowest = node.iter().take_while(|(_, r)| node.first().is_some_and(|f| f.1.metric == r.metric));
        // Beyond the lowest metric the score alone counts, not the metric.
        let found = best(host, packet, lowest.copied()).or_else(|| best(host, packet, node.iter().copied()));
        if let Some(found) = found {
            return (found.route.kind != RouteKind::Throw).then_some(found);
        }
    }
    None
}

/// The first of the routes with the highest score.
fn best<'a>(
    host: &Snapshot,
    packet: &Packet,
    routes: impl Iterator<Item = (usize, &'a Route)>,
) -> Option<Found<'a>> {
    let mut best: Option<(u8, Found<'a>)> = None;
    for (index, route) in routes {
        let mut hops = match refuses(route.kind) {
            // `ip6_route_info_create` gives them the loopback device, whatever they were made with.
            true => vec![(loopback(host), None)],
            false => hops(route),
        };
        // What came in would rather go out where it came from (`ip6_pol_route_input`).
        let on = |oif: IfIndex| packet.oif.or(packet.iif).is_none_or(|wanted| wanted == oif);
        let matching = hops.iter().any(|(oif, _)| on(*oif));
        if matching {
            hops.retain(|(oif, _)| on(*oif));
        } else if strict(packet) {
            continue;
        }
        let score = preference(route) << 2 | if matching { 2 } else { 0 };
        if best.as_ref().is_none_or(|(most, _)| score > *most) {
            best = Some((score, Found { index, route, hops }));
        }
    }
    best.map(|(_, found)| found)
}

fn refuses(kind: RouteKind) -> bool {
    matches!(kind, RouteKind::Throw | RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit)
}

/// RFC 4191, section 2.1, as `IPV6_DECODE_PREF` orders it.
fn preference(route: &Route) -> u8 {
    let says = |word: &str| route.other.iter().any(|o| o.starts_with("Preference") && o.contains(word));
    match () {
        () if says("High") => 3,
        () if says("Low") => 1,
        () => 2,
    }
}

fn outcomes(host: &Snapshot, ruled: Ruled<'_>) -> Vec<Outcome> {
    let Ruled { verdict, rule, assumed } = ruled;
    let outcome = |answer, route| Outcome { answer, rule, route, assumed: assumed.clone() };
    match verdict {
        Verdict::Route(found, table) if found.refuses() => {
            vec![outcome(nowhere(found.route.kind, Some(table)), Some(found.index))]
        }
        Verdict::Route(found, table) => {
            // `ip6_rt_get_dev_rcu`
            let here = matches!(found.route.kind, RouteKind::Local | RouteKind::Anycast);
            let to = |(oif, gateway): &(IfIndex, Option<IpAddr>)| {
                let (oif, gateway) = if here { (loopback(host), None) } else { (*oif, *gateway) };
                let answer = RouteAnswer {
                    oif: Some(oif),
                    oif_name: name(host, oif),
                    prefsrc: found.route.prefsrc,
                    gateway,
                    table: Some(table),
                    kind: found.route.kind,
                };
                outcome(answer, Some(found.index))
            };
            found.hops.iter().map(to).collect()
        }
        Verdict::Refused(kind) => vec![outcome(nowhere(kind, None), None)],
        Verdict::Nothing => vec![outcome(nowhere(RouteKind::Unreachable, None), None)],
    }
}
