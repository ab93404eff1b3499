//! The kernel's routing decision as a pure function of a [`Snapshot`]: which rule, which route, which device.
//!
//! It answers what `RTM_GETROUTE` cannot: which rule decided, what would happen on a host that does not exist
//! (after a plan, after a link is lost), and the same for every destination there is. What the model says is
//! compared with the running kernel on random hosts (`tests/netns/model.rs`).
//!
//! Where a decision rests on what a snapshot does not show (a rule by port, one of several next hops), every
//! possible outcome is returned: what holds for all of them holds.
//!
//! Not in it: neighbours that do not answer, by which IPv6 without forwarding passes over a router (RFC 4861,
//! section 6.3.6), exceptions learned from ICMP, expired routes, VRFs. A VRF's outcome says that it is not sure.

mod classes;
mod exclude;
mod foreign;
mod index;
mod ipv4;
mod ipv6;
mod planned;
mod rules;
mod source;
mod words;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::host::{NextHop, Route, Snapshot};
use crate::id::{Family, IfIndex, Table};
use crate::query::{RouteAnswer, RouteKind, RouteQuery};

pub use classes::classes;
pub use exclude::marked_by;
pub use foreign::foreign_ways;
pub use index::Model;
pub use planned::planned;
pub use words::{route_words, rule_words};

/// A packet that is decided about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Its destination.
    pub dst: IpAddr,
    /// Its source, or the address that its socket is bound to; `None` lets the kernel choose.
    pub src: Option<IpAddr>,
    /// Its mark.
    pub mark: u32,
    /// The device that its socket is bound to.
    pub oif: Option<IfIndex>,
    /// The device that it came in by; `None` for what this host sends.
    pub iif: Option<IfIndex>,
    /// Who sends it; root for what is forwarded (`ip_route_input_slow`, net/ipv4/route.c).
    pub uid: u32,
    /// Its source port, if that is known.
    pub sport: Option<u16>,
    /// Its protocol, by its number, and its destination port, if they are known.
    pub dport: Option<(u8, u16)>,
    /// Whether it is of a real socket. `RTM_GETROUTE` has none, and then IPv6 takes a device that is named
    /// together with a source for a wish only (`ip6_route_output_flags`, net/ipv6/route.c).
    pub socket: bool,
}

impl Packet {
    /// The packet that [`query`](crate::query) asks about, of user `uid` if the query does not name one.
    pub fn of(query: &RouteQuery, uid: u32) -> Self {
        Self {
            dst: query.dst,
            src: query.src,
            mark: query.mark.map_or(0, |m| m.0),
            oif: query.oif,
            iif: None,
            uid: query.uid.unwrap_or(uid),
            sport: query.sport,
            dport: query.dport,
            socket: false,
        }
    }

    /// The same from a real socket.
    pub fn of_socket(query: &RouteQuery, uid: u32) -> Self {
        Self { socket: true, ..Self::of(query, uid) }
    }

    fn family(&self) -> Family {
        Family::of(self.dst)
    }
}

/// What becomes of a packet, and what decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// As the kernel answers. The source of IPv6 is there only if a route names it: RFC 6724 is not in the model.
    pub answer: RouteAnswer,
    /// The rule that decided, as an index into [`Snapshot::rules`]. `None` when none did.
    pub rule: Option<usize>,
    /// The route that decided, as an index into [`Snapshot::routes`].
    pub route: Option<usize>,
    /// What was assumed, in words; empty when everything is known.
    pub assumed: Vec<String>,
}

/// Every possible outcome for a packet, at least one. Several when something is not known, or chosen per flow.
pub fn decide(host: &Snapshot, packet: &Packet) -> Vec<Outcome> {
    decide_in(&Model::for_one(host), packet)
}

fn decide_in(host: &Model<'_>, packet: &Packet) -> Vec<Outcome> {
    match packet.family() {
        Family::V4 => ipv4::decide(host, packet),
        Family::V6 => ipv6::decide(host, packet),
    }
}

/// Every possible outcome for the packets of a socket's whole life. The first is sent without a source; a TCP
/// connection, and every socket after a change of the routes, is decided about again with the source that it got
/// (`ip_route_connect`, include/net/route.h; `inet6_csk_route_socket`, net/ipv6/inet6_connection_sock.c).
pub fn decide_socket(host: &Snapshot, packet: &Packet) -> Vec<Outcome> {
    decide_socket_in(&Model::for_one(host), packet)
}

fn decide_socket_in(host: &Model<'_>, packet: &Packet) -> Vec<Outcome> {
    let packet = Packet { socket: true, ..*packet };
    let mut outcomes = decide_in(host, &packet);
    if packet.src.is_some() {
        return outcomes;
    }
    let mut sources: Vec<IpAddr> = Vec::new();
    for outcome in outcomes.iter().filter(|o| o.answer.oif.is_some()) {
        match (packet.family(), outcome.answer.prefsrc) {
            (_, Some(source)) => sources.push(source),
            // It may become any address of the host.
            (Family::V6, None) => {
                sources
                    .extend(host.addresses.iter().filter(|a| a.net.addr().is_ipv6()).map(|a| a.net.addr()));
            }
            (Family::V4, None) => {}
        }
    }
    sources.sort();
    sources.dedup();
    for source in sources {
        for outcome in decide_in(host, &Packet { src: Some(source), ..packet }) {
            if !outcomes.contains(&outcome) {
                outcomes.push(outcome);
            }
        }
    }
    outcomes
}

/// What one table answered.
struct Found<'a> {
    index: usize,
    route: &'a Route,
    /// Where it leads; several of a multipath route, none for a route that refuses.
    hops: Vec<(IfIndex, Option<IpAddr>)>,
}

impl Found<'_> {
    /// Whether it refuses the packet (`fib_props`, net/ipv4/fib_semantics.c). Such a route is never suppressed.
    fn refuses(&self) -> bool {
        matches!(self.route.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit)
    }
}

/// What the rules answered, and which of them did.
struct Ruled<'a> {
    verdict: Verdict<'a>,
    rule: Option<usize>,
    assumed: Vec<String>,
}

enum Verdict<'a> {
    /// A table had an answer.
    Route(Found<'a>, Table),
    /// A rule refuses.
    Refused(RouteKind),
    /// No rule led to an answer.
    Nothing,
}

/// The next hops of a route.
fn hops(route: &Route) -> Vec<(IfIndex, Option<IpAddr>)> {
    match route.oif {
        Some(oif) => vec![(oif, route.gateway)],
        None => route.next_hops.iter().map(|NextHop { oif, gateway, .. }| (*oif, *gateway)).collect(),
    }
}

/// The loopback device; index 1 in every namespace (`LOOPBACK_IFINDEX`).
fn loopback(host: &Snapshot) -> IfIndex {
    host.links.iter().find(|l| l.loopback).map_or(IfIndex(1), |l| l.index)
}

/// An answer that leads nowhere.
fn nowhere(kind: RouteKind, table: Option<Table>) -> RouteAnswer {
    RouteAnswer { oif: None, oif_name: String::new(), prefsrc: None, gateway: None, table, kind }
}

fn name(host: &Snapshot, index: IfIndex) -> String {
    host.link_at(index).map(|l| l.name.clone()).unwrap_or_default()
}
