//! Packets of ours that leave by another program's tunnel come back if what that tunnel sends is captured.

use std::collections::BTreeSet;
use std::net::IpAddr;

use oneway_route::{Family, IfIndex, Link, Mark, Model, PROTOCOL, Packet, RouteQuery, Snapshot, classes};

use super::scene::MOST;
use crate::control::LoopFree;

/// What is to be said about packets of a family that leave by these devices; `None` when no tunnel is among them, or those there
/// are known to be exempt: their marks are not captured.
pub(super) fn by_tunnels(
    host: &Model<'_>,
    tun: IfIndex,
    family: Family,
    via: &BTreeSet<String>,
) -> Option<(LoopFree, String)> {
    let tunnel = via.iter().find(|name| host.link(name).is_some_and(|l| is_tunnel(l, tun)))?;
    let marks = marks(host);
    if marks.is_empty() {
        let why = format!(
            "some of it leaves by {tunnel}, a tunnel without a mark: whether what carries it on is captured is not known; \
             exclude its server with --exclude, or its user with --exclude-uid"
        );
        return Some((LoopFree::NotProven, why));
    }
    // What carries it on in the other family comes to us, too, but need not go back into the tunnel.
    for (carrier, verdict) in
        [(family, LoopFree::Loops), (Family::V4, LoopFree::NotProven), (Family::V6, LoopFree::NotProven)]
    {
        let Some(destinations) = destinations(host, tun, carrier) else {
            let why = format!(
                "some of it leaves by {tunnel}, and this host's routes tell more than {MOST} classes of destinations apart by \
                 {carrier}: whether what carries the tunnel on is captured is not known"
            );
            return Some((LoopFree::NotProven, why));
        };
        if let Some(mark) = marks.iter().find(|mark| is_captured(host, tun, **mark, &destinations)) {
            let why = format!(
                "some of it leaves by {tunnel}, and what another program marks with {mark} to carry it on by {carrier} \
                 is captured; start oneway again, it will exempt that mark"
            );
            return Some((verdict, why));
        }
    }
    None
}

/// The same of a namespace that only our own sockets are of: what carries a tunnel on may be sent in this one, as WireGuard
/// does when its device was moved there.
pub(super) fn by_tunnels_elsewhere(there: &Snapshot, via: &BTreeSet<String>) -> Option<(LoopFree, String)> {
    let device = |name: &str| name.rsplit('/').next().and_then(|name| there.link(name)).cloned();
    let tunnel = via.iter().find(|name| device(name).is_some_and(|l| is_tunnel(&l, IfIndex(0))))?;
    let why = format!(
        "some of it leaves by {tunnel}, a tunnel: what carries it on may be sent in this namespace, and captured; give the \
         namespace an uplink of its own"
    );
    Some((LoopFree::NotProven, why))
}

/// A device whose packets another program, or the kernel, packs into others.
fn is_tunnel(link: &Link, tun: IfIndex) -> bool {
    let kind = link.kind.as_deref().unwrap_or_default();
    let packs =
        ["wireguard", "tun", "ipip", "sit", "gre", "gretap", "ip6tnl", "ip6gre", "vxlan", "geneve", "xfrm"];
    link.index != tun && packs.contains(&kind)
}

/// The marks by which other programs' rules steer or exempt packets.
fn marks(host: &Snapshot) -> BTreeSet<Mark> {
    let theirs = host.rules.iter().filter(|r| r.protocol != PROTOCOL);
    theirs.filter_map(|r| r.fwmark).filter(|(mark, mask)| mark.0 & mask != 0).map(|(mark, _)| mark).collect()
}

/// One of each class of destinations that are not the device's own; `None` where there are too many to ask about.
fn destinations(host: &Snapshot, tun: IfIndex, family: Family) -> Option<Vec<IpAddr>> {
    let own = host.addresses.iter().filter(|a| a.index == tun).map(|a| a.net.trunc()).collect::<Vec<_>>();
    let mut all = classes(host, family, &own);
    all.retain(|dst| !dst.is_multicast() && own.iter().all(|net| !net.contains(dst)));
    (all.len() <= MOST).then_some(all)
}

/// Whether a packet with this mark, whatever its destination, is led into the capture.
fn is_captured(host: &Model<'_>, tun: IfIndex, mark: Mark, destinations: &[IpAddr]) -> bool {
    destinations.iter().any(|dst| {
        let packet = Packet::of(&RouteQuery::to(*dst).marked(mark), 0);
        host.decide(&packet).iter().any(|o| o.answer.oif == Some(tun))
    })
}

#[cfg(test)]
mod tests {
    use oneway_route::{Address, Priority, Request, Route, Rule, Table, plan, planned};

    use super::*;

    const UPLINK: IfIndex = IfIndex(2);
    const OTHER: IfIndex = IfIndex(30);

    fn link(index: IfIndex, name: &str, kind: Option<&str>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            up: true,
            carrier: true,
            loopback: false,
            point_to_point: false,
            mtu: 1500,
            kind: kind.map(str::to_owned),
            packet_info: false,
            master: None,
            group: 0,
        }
    }

    fn host() -> Snapshot {
        let net = "192.0.2.2/24".parse().unwrap();
        Snapshot {
            links: vec![
                Link { loopback: true, ..link(IfIndex(1), "lo", None) },
                link(UPLINK, "eth0", None),
                link(OTHER, "wg0", Some("wireguard")),
            ],
            addresses: vec![Address { index: UPLINK, net, peer: None, scope: 0, flags: 0x80 }],
            routes: vec![
                Route::unicast("192.0.2.0/24".parse().unwrap(), UPLINK),
                Route::unicast("0.0.0.0/0".parse().unwrap(), UPLINK),
            ],
            rules: vec![Rule::lookup(Family::V4, Priority(32_766), Table::MAIN)],
            ..Snapshot::default()
        }
    }

    /// What `wg-quick` does, with the priorities that the kernel gives.
    fn wg_quick(host: &mut Snapshot, priority: u32) {
        host.routes
            .push(Route { table: Table(51_820), ..Route::unicast("0.0.0.0/0".parse().unwrap(), OTHER) });
        host.rules.push(Rule {
            invert: true,
            fwmark: Some((Mark(0xca6c), u32::MAX)),
            ..Rule::lookup(Family::V4, Priority(priority), Table(51_820))
        });
    }

    fn verdict(host: &Snapshot, via: &str) -> Option<LoopFree> {
        let tun = host.link("oneway0").unwrap().index;
        by_tunnels(&Model::of(host), tun, Family::V4, &BTreeSet::from([via.to_owned()]))
            .map(|(verdict, _)| verdict)
    }

    #[test]
    fn a_tunnel_that_came_before_us_is_exempt_and_one_that_came_after_loops() {
        let mut before = host();
        wg_quick(&mut before, 32_765);
        let before = planned(&before, &plan(&Request::default(), &before).unwrap());
        assert_eq!(verdict(&before, "wg0"), None);

        let plain = host();
        let mut after = planned(&plain, &plan(&Request::default(), &plain).unwrap());
        assert_eq!(verdict(&after, "wg0"), Some(LoopFree::NotProven), "nobody knows what it sends");
        wg_quick(&mut after, 100);
        assert_eq!(verdict(&after, "wg0"), Some(LoopFree::Loops));
        assert_eq!(verdict(&after, "eth0"), None, "what does not use the tunnel");
    }

    #[test]
    fn of_a_router_with_a_full_table_nothing_is_said() {
        let mut host = host();
        wg_quick(&mut host, 32_765);
        let one =
            |n: u32| format!("{}/24", std::net::Ipv4Addr::from_bits((11 << 24) + n * 256)).parse().unwrap();
        host.routes.extend((0..100_000).map(|n| Route::unicast(one(n), UPLINK)));
        let before = planned(&host, &plan(&Request::default(), &host).unwrap());
        assert_eq!(verdict(&before, "wg0"), Some(LoopFree::NotProven));
    }
}
