//! Which device and address a family leaves the host by.

use std::net::IpAddr;
use std::ops::Range;

use super::{PlanError, Uplink, Uplinks, choose};
use crate::host::{Address, Link, Route, Snapshot};
use crate::id::{Family, IfIndex, Table};
use crate::query::RouteKind;

/// The uplinks of both families. `pinned` restricts them to one device.
pub(super) fn uplinks(host: &Snapshot, tun: &str, pinned: Option<&str>) -> Result<Uplinks, PlanError> {
    if let Some(name) = pinned
        && host.link(name).is_none()
    {
        return Err(PlanError::NoInterface(name.into()));
    }
    let of = |family| uplink(host, family, tun, pinned);
    Ok(Uplinks { v4: of(Family::V4), v6: of(Family::V6) })
}

/// A way out of the host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) link: &'a Link,
    route: &'a Route,
    gateway: Option<IpAddr>,
}

impl Candidate<'_> {
    fn uplink(&self, host: &Snapshot) -> Uplink {
        Uplink {
            name: self.link.name.clone(),
            index: self.link.index,
            address: address(host, self),
            gateway: self.gateway,
        }
    }
}

/// The ways of all default routes of main, best first. A host may have none there, as everything is asked of other tables: then
/// those of the first of these that has some.
pub(super) fn candidates<'a>(host: &'a Snapshot, family: Family, tun: &str) -> Vec<Candidate<'a>> {
    let elsewhere = choose::everything_elsewhere(host, family).into_iter().map(|(_, table)| table);
    let tables = std::iter::once(Table::MAIN).chain(elsewhere);
    tables.map(|table| defaults(host, family, tun, table)).find(|found| !found.is_empty()).unwrap_or_default()
}

fn defaults<'a>(host: &'a Snapshot, family: Family, tun: &str, table: Table) -> Vec<Candidate<'a>> {
    let of_length = |length: Range<u32>| {
        let default = move |r: &&Route| {
            r.family() == family
                && r.table == table
                && length.contains(&u32::from(r.dst.prefix_len()))
                && r.kind == RouteKind::Unicast
                && r.src.is_none_or(|s| s.prefix_len() == 0)
        };
        let mut found: Vec<_> = host
            .routes
            .iter()
            .filter(default)
            .flat_map(|r| hops(r).into_iter().map(move |(oif, gateway)| (r, oif, gateway)))
            .filter_map(|(route, oif, gateway)| {
                let link = host.link_at(oif)?;
                // What leads nowhere is no uplink as long as there is another one, whatever its metric.
                let order = (tunnel(link), host.leads_nowhere(link), route.metric);
                let candidate = Candidate { link, route, gateway };
                (link.name != tun && !link.loopback && link.up).then_some((order, candidate))
            })
            .collect();
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, candidate)| candidate).collect::<Vec<_>>()
    };
    match of_length(0..1) {
        // In halves, or `2000::/3`.
        found if found.is_empty() => of_length(1..choose::default_length(host, family, table) + 1),
        found => found,
    }
}

/// The devices of the best default routes, whatever they are, and whatever table holds them.
pub(super) fn unguarded(host: &Snapshot) -> Uplinks {
    let of = |family: Family| {
        let default =
            |r: &&Route| r.family() == family && r.dst.prefix_len() == 0 && r.kind == RouteKind::Unicast;
        let found = host.routes.iter().filter(default).filter_map(|route| {
            let (oif, gateway) = hops(route).into_iter().next()?;
            let link =
                host.link_at(oif).filter(|link| link.up && !link.loopback && !host.leads_nowhere(link))?;
            Some(((route.table != Table::MAIN, route.metric), Candidate { link, route, gateway }))
        });
        found.min_by_key(|(order, _)| *order).map(|(_, candidate)| candidate.uplink(host))
    };
    Uplinks { v4: of(Family::V4), v6: of(Family::V6) }
}

fn hops(route: &Route) -> Vec<(IfIndex, Option<IpAddr>)> {
    match route.oif {
        Some(oif) => vec![(oif, route.gateway)],
        None => route.next_hops.iter().map(|h| (h.oif, h.gateway)).collect(),
    }
}

/// Whether the device is another tunnel's: it is an uplink only when there is nothing else.
fn tunnel(link: &Link) -> bool {
    let kind = link.kind.as_deref().unwrap_or_default();
    link.point_to_point && kind != "ppp"
        || matches!(kind, "tun" | "wireguard" | "dummy" | "ipip" | "sit" | "gre")
}

fn uplink(host: &Snapshot, family: Family, tun: &str, pinned: Option<&str>) -> Option<Uplink> {
    let is_pinned = |candidate: &Candidate<'_>| pinned.is_none_or(|name| candidate.link.name == name);
    Some(candidates(host, family, tun).into_iter().find(is_pinned)?.uplink(host))
}

/// The preferred source: that of the default route, else the first usable address that is not secondary: the kernel prefers one
/// of the gateway's network (`inet_select_addr`, net/ipv4/devinet.c), and none that is unique local for what is not (RFC 6724,
/// 5). Temporary IPv6 addresses (RFC 8981) are passed over because they do not last. A device without any borrows one of
/// loopback's.
fn address(host: &Snapshot, candidate: &Candidate<'_>) -> Option<IpAddr> {
    if let Some(address) = candidate.route.prefsrc {
        return Some(address);
    }
    let family = candidate.route.family();
    let is_lent = |a: &Address| host.link_at(a.index).is_some_and(|link| link.loopback);
    let is_own = |a: &Address| a.index == candidate.link.index;
    let mut all: Vec<_> = host
        .addresses
        .iter()
        .filter(|a| Family::of_net(a.net) == family && a.usable() && (is_own(a) || is_lent(a)))
        .collect();
    let is_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unique_local());
    let beside = |a: &Address| candidate.gateway.is_some_and(|gateway| a.net.contains(&gateway));
    all.sort_by_key(|a| (!is_own(a), a.secondary(), is_local(a.net.addr()), !beside(a)));
    all.first().map(|a| a.net.addr())
}
