//! Hosts made by hand. Addresses are those for documentation.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::host::{Address, Link, NftSupport, Route, Rule, RuleAction, Snapshot};
use crate::id::{Family, IfIndex, Mark, Priority, Table};

/// One uplink with both families.
pub(crate) fn host() -> Snapshot {
    let mut lo = link(1, "lo", None);
    lo.loopback = true;
    let rules = Family::ALL.iter().flat_map(|f| {
        [(0, Table::LOCAL), (32_766, Table::MAIN), (32_767, Table::DEFAULT)]
            .map(|(priority, table)| Rule::lookup(*f, Priority(priority), table))
    });
    let sysctls = [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/all/src_valid_mark", "0"),
        ("net/ipv4/conf/eth0/rp_filter", "0"),
        ("net/ipv4/fwmark_reflect", "0"),
        ("net/ipv4/tcp_fwmark_accept", "0"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/fwmark_reflect", "0"),
    ];
    Snapshot {
        links: vec![lo, link(2, "eth0", None)],
        addresses: vec![
            address(1, "127.0.0.1/8", 254),
            address(2, "192.0.2.2/24", 0),
            address(2, "2001:db8:a::2/64", 0),
            address(2, "fe80::2/64", 253),
        ],
        routes: vec![
            route("0.0.0.0/0", 2, Some("192.0.2.1"), 100),
            route("192.0.2.0/24", 2, None, 100),
            route("::/0", 2, Some("fe80::1"), 100),
            route("2001:db8:a::/64", 2, None, 100),
        ],
        rules: rules.collect(),
        sysctls: BTreeMap::from(sysctls.map(|(k, v)| (k.to_owned(), v.to_owned()))),
        switches: true,
        nft: NftSupport::Full,
        nft_tables: Vec::new(),
        serving: vec![22],
    }
}

pub(crate) fn second_uplink(host: &mut Snapshot) {
    host.links.push(link(3, "eth1", None));
    host.addresses.push(address(3, "198.51.100.2/24", 0));
    // The better route is not the first one.
    host.routes.insert(0, route("0.0.0.0/0", 3, Some("198.51.100.1"), 200));
    host.routes.push(route("198.51.100.0/24", 3, None, 200));
}

/// `tailscale up`, with or without an exit node.
pub(crate) fn tailscale(host: &mut Snapshot, exit_node: bool) {
    let mut device = link(5, "tailscale0", Some("tun"));
    device.point_to_point = true;
    host.links.push(device);
    host.addresses.push(address(5, "100.101.102.103/32", 0));
    let in_52 = |dst: &str| Route { table: Table(52), ..route(dst, 5, None, 0) };
    host.routes.extend([in_52("100.64.0.0/10"), in_52("fd7a:115c:a1e0::/48")]);
    if exit_node {
        host.routes.extend([in_52("0.0.0.0/0"), in_52("::/0")]);
    }
    for family in Family::ALL {
        let marked = |priority, action| Rule {
            fwmark: Some((Mark(0x80000), 0xff_0000)),
            action,
            ..Rule::lookup(family, Priority(priority), Table::MAIN)
        };
        host.rules.extend([
            marked(5210, RuleAction::Lookup(Table::MAIN)),
            marked(5230, RuleAction::Lookup(Table::DEFAULT)),
            marked(5250, RuleAction::Unreachable),
            Rule::lookup(family, Priority(5270), Table(52)),
        ]);
    }
    sort(host);
}

/// `wg-quick up wg0` with `AllowedIPs = 0.0.0.0/0, ::/0`.
pub(crate) fn wg_quick(host: &mut Snapshot) {
    let mut device = link(6, "wg0", Some("wireguard"));
    device.point_to_point = true;
    host.links.push(device);
    host.addresses.push(address(6, "10.66.0.2/32", 0));
    for family in Family::ALL {
        let everything = family.everything().to_string();
        host.routes.push(Route { table: Table(51_820), ..route(&everything, 6, None, 0) });
        host.rules.extend([
            Rule { suppress_prefixlength: Some(0), ..Rule::lookup(family, Priority(32_764), Table::MAIN) },
            Rule {
                invert: true,
                fwmark: Some((Mark(0xca6c), u32::MAX)),
                ..Rule::lookup(family, Priority(32_765), Table(51_820))
            },
        ]);
    }
    sort(host);
}

fn sort(host: &mut Snapshot) {
    host.rules.sort_by_key(|r| (r.family, r.priority));
}

pub(crate) fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        index: IfIndex(index),
        name: name.into(),
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

pub(crate) fn route(dst: &str, oif: u32, gateway: Option<&str>, metric: u32) -> Route {
    let dst: IpNet = dst.parse().unwrap();
    Route { gateway: gateway.map(|g| g.parse().unwrap()), metric, ..Route::unicast(dst, IfIndex(oif)) }
}

pub(crate) fn address(index: u32, net: &str, scope: u8) -> Address {
    Address { index: IfIndex(index), net: net.parse().unwrap(), peer: None, scope, flags: 0x80 }
}
