//! What a host looks like once a plan is applied.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::source::{HOST, LINK};
use crate::change::Change;
use crate::host::{Address, Link, PROTOCOL, Route, Snapshot};
use crate::id::{Family, IfIndex, Table};
use crate::plan::Plan;
use crate::query::RouteKind;

/// `RTPROT_KERNEL`
const KERNEL: u8 = 2;
/// `IFA_F_PERMANENT`
const PERMANENT: u32 = 0x80;
/// `IP6_RT_PRIO_USER`, `IP6_RT_PRIO_ADDRCONF`
const IPV6_METRIC: u32 = 1_024;
const IPV6_KERNEL_METRIC: u32 = 256;

/// The host as it will be with every step of the plan made, and what the kernel adds by itself: the routes of
/// the device's addresses. nftables and switches are left as they are, for they decide nothing here.
pub fn planned(host: &Snapshot, plan: &Plan) -> Snapshot {
    let mut host = host.clone();
    let tun = device(&mut host, plan);
    for step in &plan.steps {
        match &step.change {
            Change::Link { mtu, .. } => {
                if let Some(link) = host.links.iter_mut().find(|l| l.index == tun) {
                    (link.mtu, link.up, link.carrier) = (*mtu, true, true);
                }
            }
            Change::Group { group, .. } => {
                host.links.iter_mut().filter(|l| l.index == tun).for_each(|link| link.group = *group);
            }
            Change::Address { net, .. } => address(&mut host, tun, *net),
            Change::Route(spec) => {
                let v6 = spec.dst.addr().is_ipv6();
                let kind = spec.kind();
                let unicast = kind == RouteKind::Unicast;
                let leads = unicast || kind == RouteKind::Local;
                let dev = spec.dev.as_deref().and_then(|name| host.link(name)).map_or(tun, |link| link.index);
                host.routes.push(Route {
                    table: spec.table,
                    kind,
                    protocol: PROTOCOL,
                    scope: match kind {
                        RouteKind::Local if !v6 => HOST,
                        RouteKind::Unicast if !v6 && spec.gateway.is_none() => LINK,
                        _ => 0,
                    },
                    oif: leads.then_some(dev),
                    gateway: spec.gateway,
                    prefsrc: spec.src,
                    metric: if v6 && spec.metric == 0 { IPV6_METRIC } else { spec.metric },
                    ..Route::unicast(spec.dst.trunc(), tun)
                });
            }
            Change::Rule(rule) => host.rules.push(rule.clone()),
            Change::Cgroup { .. }
            | Change::Nft(_)
            | Change::Refuse(_)
            | Change::Redirect(_)
            | Change::Tproxy(_)
            | Change::Sysctl { .. }
            | Change::ResolvConf(_)
            | Change::LinkDns { .. }
            | Change::LinkDomains(_) => {}
        }
    }
    host.rules.sort_by_key(|r| (r.family, r.priority));
    host
}

/// The capture device, made if it is not there.
fn device(host: &mut Snapshot, plan: &Plan) -> IfIndex {
    if let Some(link) = host.link(&plan.tun_name) {
        return link.index;
    }
    let last = host.links.iter().map(|l| l.index.0).max().unwrap_or(0);
    // Whoever makes a device may choose its number.
    let free = || (1..last).find(|n| host.link_at(IfIndex(*n)).is_none());
    let index = IfIndex(last.checked_add(1).or_else(free).unwrap_or(0));
    host.links.push(Link {
        index,
        name: plan.tun_name.clone(),
        up: true,
        carrier: true,
        loopback: false,
        point_to_point: true,
        mtu: 1500,
        kind: Some("tun".to_owned()),
        packet_info: false,
        master: None,
        group: 0,
    });
    index
}

/// An address and its routes: `fib_add_ifaddr` (net/ipv4/fib_frontend.c), `addrconf_add_dev` (net/ipv6/addrconf.c).
fn address(host: &mut Snapshot, tun: IfIndex, net: IpNet) {
    if host.addresses.iter().any(|a| a.index == tun && a.net == net) {
        return;
    }
    host.addresses.push(Address { index: tun, net, peer: None, scope: 0, flags: PERMANENT });
    let of = |dst: IpNet, table, kind, scope| Route {
        table,
        kind,
        scope,
        protocol: KERNEL,
        prefsrc: net.addr().is_ipv4().then_some(net.addr()),
        ..Route::unicast(dst, tun)
    };
    let single = |address: IpAddr| IpNet::new(address, net.max_prefix_len()).unwrap_or(net);
    host.routes.push(of(single(net.addr()), Table::LOCAL, RouteKind::Local, HOST));
    match Family::of_net(net) {
        Family::V4 => {
            host.routes.push(of(net.trunc(), Table::MAIN, RouteKind::Unicast, LINK));
            if net.prefix_len() < 31 && net.broadcast() != IpAddr::V4(Ipv4Addr::BROADCAST) {
                host.routes.push(of(single(net.broadcast()), Table::LOCAL, RouteKind::Broadcast, LINK));
            }
        }
        Family::V6 => {
            let metric = IPV6_KERNEL_METRIC;
            let many = "ff00::/8".parse().unwrap_or(net);
            let local = "fe80::/64".parse().unwrap_or(net);
            host.routes.push(Route { metric, ..of(net.trunc(), Table::MAIN, RouteKind::Unicast, 0) });
            host.routes.push(Route { metric, ..of(local, Table::MAIN, RouteKind::Unicast, 0) });
            host.routes.push(Route { metric, ..of(many, Table::LOCAL, RouteKind::Multicast, 0) });
        }
    }
}
