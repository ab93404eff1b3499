//! From the kernel's messages to this crate's types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::Nla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteVia};
use netlink_packet_route::rule::{RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage};

use crate::host::{Address, Link, NextHop, Route, Rule, RuleAction};
use crate::id::{Family, IfIndex, Mark, Priority, Table};
use crate::query::RouteKind;

/// `rtm_type` (`include/uapi/linux/rtnetlink.h`).
pub(super) fn route_kind(n: u8) -> RouteKind {
    match n {
        1 => RouteKind::Unicast,
        2 => RouteKind::Local,
        3 => RouteKind::Broadcast,
        4 => RouteKind::Anycast,
        5 => RouteKind::Multicast,
        6 => RouteKind::Blackhole,
        7 => RouteKind::Unreachable,
        8 => RouteKind::Prohibit,
        9 => RouteKind::Throw,
        n => RouteKind::Other(n),
    }
}

pub(super) fn address_family(address: IpAddr) -> AddressFamily {
    family_number(Family::of(address))
}

pub(super) fn family_number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn family(number: AddressFamily) -> Option<Family> {
    match number {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

pub(super) fn via(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(a) => Some(IpAddr::V4(*a)),
        RouteVia::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

pub(super) fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: IfIndex(message.header.index),
        name: String::new(),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        point_to_point: flags.contains(LinkFlags::Pointopoint),
        mtu: 0,
        kind: None,
        packet_info: false,
        master: None,
        group: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::Controller(index) => link.master = Some(IfIndex(*index)),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|i| match i {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                link.packet_info = infos.iter().any(has_packet_info);
            }
            _ => {}
        }
    }
    link
}

fn has_packet_info(info: &LinkInfo) -> bool {
    /// `IFLA_TUN_PI` (linux/if_link.h): one byte.
    const PI: u16 = 4;
    let LinkInfo::Data(InfoData::Tun(tun)) = info else { return false };
    tun.iter().any(|nla| {
        let mut value = vec![0; nla.value_len()];
        nla.emit_value(&mut value);
        nla.kind() == PI && value.iter().any(|byte| *byte != 0)
    })
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    family(message.header.family)?;
    let (mut local, mut other_end, mut flags) = (None, None, u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => other_end = Some(*a),
            AddressAttribute::Flags(f) => flags = f.bits(),
            _ => {}
        }
    }
    // IPv4 always has both; IPv6 has IFA_LOCAL only when there is a peer (rtnetlink(7)).
    let own = local.or(other_end)?;
    Some(Address {
        index: IfIndex(message.header.index),
        net: IpNet::new(own, message.header.prefix_len).ok()?,
        peer: other_end.filter(|a| *a != own),
        scope: message.header.scope.into(),
        flags,
    })
}

/// `None` for cached routes and for families that are not ours.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let family = family(header.address_family)?;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut dst = unspecified(family);
    let mut route = Route {
        table: Table(header.table.into()),
        dst: family.everything(),
        src: None,
        kind: route_kind(header.kind.into()),
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        tos: header.tos,
        oif: None,
        gateway: None,
        prefsrc: None,
        metric: 0,
        next_hops: Vec::new(),
        nexthop: None,
        other: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(n) => route.table = Table(*n),
            RouteAttribute::Destination(a) => dst = ip(a)?,
            RouteAttribute::Source(a) => route.src = IpNet::new(ip(a)?, header.source_prefix_length).ok(),
            RouteAttribute::Oif(n) => route.oif = Some(IfIndex(*n)),
            RouteAttribute::Gateway(a) => route.gateway = ip(a),
            RouteAttribute::Via(v) => route.gateway = via(v),
            RouteAttribute::PrefSource(a) => route.prefsrc = ip(a),
            RouteAttribute::Priority(n) => route.metric = *n,
            RouteAttribute::MultiPath(hops) => {
                route.next_hops =
                    hops.iter().map(|h| next_hop(h.interface_index, h.hops, &h.attributes)).collect();
            }
            RouteAttribute::NhId(id) => route.nexthop = Some(*id),
            // Counters and ages.
            RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_) => {}
            other => route.other.push(format!("{other:?}")),
        }
    }
    if header.flags.contains(RouteFlags::Onlink) {
        route.other.push("onlink".into());
    }
    route.dst = IpNet::new(dst, header.destination_prefix_length).ok()?;
    Some(route)
}

fn next_hop(index: u32, hops: u8, attributes: &[RouteAttribute]) -> NextHop {
    let gateway = attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(a) => ip(a),
        RouteAttribute::Via(v) => via(v),
        _ => None,
    });
    NextHop { oif: IfIndex(index), gateway, hops }
}

/// `None` for families that are not ours.
pub(super) fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let mut rule = Rule::lookup(family(header.family)?, Priority(0), Table(header.table.into()));
    rule.protocol = 0;
    rule.invert = header.flags.contains(RuleFlags::Invert);
    rule.tos = header.tos;
    let (mut table, mut target, mut mark, mut mask) = (u32::from(header.table), 0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(n) => rule.priority = Priority(*n),
            RuleAttribute::Table(n) => table = *n,
            RuleAttribute::Goto(n) => target = *n,
            RuleAttribute::FwMark(n) => mark = Some(*n),
            RuleAttribute::FwMask(n) => mask = Some(*n),
            RuleAttribute::Source(a) => rule.src = IpNet::new(*a, header.src_len).ok(),
            RuleAttribute::Destination(a) => rule.dst = IpNet::new(*a, header.dst_len).ok(),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.oif = Some(name.clone()),
            RuleAttribute::SourcePortRange(range) => rule.sports = Some((range.start, range.end)),
            RuleAttribute::IpProtocol(protocol) => rule.ip_protocol = Some(u8::from(*protocol)),
            RuleAttribute::DestinationPortRange(range) => rule.dports = Some((range.start, range.end)),
            RuleAttribute::UidRange(range) => rule.uids = Some((range.start, range.end)),
            RuleAttribute::Protocol(p) => rule.protocol = (*p).into(),
            // -1 is "none" and is sent for every rule that looks up a table.
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            RuleAttribute::SuppressIfGroup(n) => rule.suppress_ifgroup = Some(*n),
            RuleAttribute::SuppressPrefixLen(n) => rule.suppress_prefixlength = Some(*n),
            other => rule.other.push(format!("{other:?}")),
        }
    }
    rule.fwmark = match (mark, mask) {
        (None, None | Some(0)) => None,
        (mark, mask) => Some((Mark(mark.unwrap_or(0)), mask.unwrap_or(u32::MAX))),
    };
    rule.action = match header.action {
        Action::ToTable => RuleAction::Lookup(Table(table)),
        Action::Goto => RuleAction::Goto(Priority(target)),
        Action::Nop => RuleAction::Nop,
        Action::Blackhole => RuleAction::Blackhole,
        Action::Unreachable => RuleAction::Unreachable,
        Action::Prohibit => RuleAction::Prohibit,
        other => RuleAction::Other(other.into()),
    };
    Some(rule)
}
