//! Which device and address a family leaves the host by.

use std::net::IpAddr;

use super::{PlanError, Uplink, Uplinks};
use crate::host::{Link, Route, Snapshot};
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

/// The devices of all default routes of main, best first.
pub(super) fn candidates<'a>(
    host: &'a Snapshot,
    family: Family,
    tun: &str,
) -> Vec<(&'a Link, Option<IpAddr>)> {
    let mut found: Vec<_> = host
        .routes
        .iter()
        .filter(|r| {
            r.family() == family
                && r.table == Table::MAIN
                && r.dst.prefix_len() == 0
                && r.kind == RouteKind::Unicast
                && r.src.is_none_or(|s| s.prefix_len() == 0)
        })
        .flat_map(|r| hops(r).into_iter().map(move |(oif, gateway)| (r.metric, oif, gateway)))
        .filter_map(|(metric, oif, gateway)| {
            let link = host.link_at(oif)?;
            // What leads nowhere is no uplink as long as there is another one, whatever its metric.
            let order = (tunnel(link), host.leads_nowhere(link), metric);
            (link.name != tun && !link.loopback && link.up).then_some((order, link, gateway))
        })
        .collect();
    found.sort_by_key(|(order, ..)| *order);
    found.into_iter().map(|(_, link, gateway)| (link, gateway)).collect()
}

/// The devices of the best default routes, whatever they are, and whatever table holds them.
pub(super) fn unguarded(host: &Snapshot) -> Uplinks {
    let of = |family: Family| {
        let default =
            |r: &&Route| r.family() == family && r.dst.prefix_len() == 0 && r.kind == RouteKind::Unicast;
        let found = host.routes.iter().filter(default).filter_map(|r| {
            let (oif, gateway) = hops(r).into_iter().next()?;
            let link =
                host.link_at(oif).filter(|link| link.up && !link.loopback && !host.leads_nowhere(link))?;
            Some(((r.table != Table::MAIN, r.metric), link, gateway))
        });
        found.min_by_key(|(order, ..)| *order).map(|(_, link, gateway)| Uplink {
            name: link.name.clone(),
            index: link.index,
            address: address(host, family, link.index, gateway),
            gateway,
        })
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
    let (link, gateway) = candidates(host, family, tun)
        .into_iter()
        .find(|(link, _)| pinned.is_none_or(|name| link.name == name))?;
    Some(Uplink {
        name: link.name.clone(),
        index: link.index,
        address: address(host, family, link.index, gateway),
        gateway,
    })
}

/// The preferred source: that of the default route, else the first usable address that is not secondary: the kernel prefers one
/// of the gateway's network (`inet_select_addr`, net/ipv4/devinet.c), and none that is unique local for what is not (RFC 6724,
/// 5). Temporary IPv6 addresses (RFC 8981) are passed over because they do not last.
fn address(host: &Snapshot, family: Family, index: IfIndex, gateway: Option<IpAddr>) -> Option<IpAddr> {
    let routed = host.routes.iter().find(|r| {
        r.family() == family && r.table == Table::MAIN && r.dst.prefix_len() == 0 && r.oif == Some(index)
    });
    if let Some(address) = routed.and_then(|r| r.prefsrc) {
        return Some(address);
    }
    let usable =
        |a: &&crate::host::Address| a.index == index && Family::of_net(a.net) == family && a.usable();
    let mut all: Vec<_> = host.addresses.iter().filter(usable).collect();
    let is_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unique_local());
    let beside = |a: &crate::host::Address| gateway.is_some_and(|gateway| a.net.contains(&gateway));
    all.sort_by_key(|a| (a.secondary(), is_local(a.net.addr()), !beside(a)));
    all.first().map(|a| a.net.addr())
}
