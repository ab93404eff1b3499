//! Making a change and undoing it. Both are idempotent.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::rule::{
    RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange,
};

use super::netlink::{Netlink, Refusal};
use super::{cgroup, decode, nft, resolved, resolver, sysctl};
use crate::change::{Change, RouteSpec, Undo};
use crate::error::RouteError;
use crate::host::{PROTOCOL, Rule, RuleAction};
use crate::id::{Family, IfIndex, Table};
use crate::query::RouteKind;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;

/// Makes one change.
pub(crate) fn make(change: &Change) -> Result<(), RouteError> {
    let what = || change.to_string();
    match change {
        Change::Link { name, mtu, .. } => Netlink::routing()?.set_link(&what(), name, *mtu, true),
        Change::Address { name, net } => {
            let mut netlink = Netlink::routing()?;
            let index = netlink.index(&what(), name)?;
            let message = RouteNetlinkMessage::NewAddress(address(index, *net));
            present(netlink.change(&what(), message, NLM_F_CREATE | NLM_F_EXCL)?, &what())
        }
        Change::Route(spec) => {
            let mut netlink = Netlink::routing()?;
            let dev = match &spec.dev {
                Some(name) => Some(netlink.index(&what(), name)?),
                None => None,
            };
            // The table is ours alone: what stands there is a residue of ours.
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            present(netlink.change(&what(), RouteNetlinkMessage::NewRoute(route(spec, dev)), flags)?, &what())
        }
        Change::Rule(spec) => {
            let message = RouteNetlinkMessage::NewRule(rule(spec));
            present(Netlink::routing()?.change(&what(), message, NLM_F_CREATE | NLM_F_EXCL)?, &what())
        }
        Change::Group { name, group, .. } => Netlink::routing()?.set_group(&what(), name, *group),
        Change::Cgroup { path } => Ok(cgroup::make(path)?),
        Change::Nft(table) => nft::make_answering(table),
        Change::Refuse(table) => nft::make(&table.name, &[], &table.chains()),
        Change::Redirect(table) => nft::make(&table.name, &[], &table.chains()),
        Change::Tproxy(table) => nft::make(&table.name, &[], &table.chains()),
        Change::Sysctl { path, new, .. } => sysctl::write(path, new),
        Change::ResolvConf(file) => resolver::make(file),
        Change::LinkDomains(link) => resolved::narrow(link),
        Change::LinkDns { name, nameserver } => resolved::make(name, *nameserver),
    }
}

/// Undoes one change; `true` when there was something to undo.
pub(crate) fn unmake(undo: &Undo) -> Result<bool, RouteError> {
    let what = || undo.to_string();
    match undo {
        Undo::Vanishes { .. } => Ok(false),
        Undo::Link { name, mtu, up } => {
            let mut netlink = Netlink::routing()?;
            match netlink.link_named(name)? {
                Some(link) if (link.mtu, link.up) != (*mtu, *up) => {
                    netlink.set_link(&what(), name, *mtu, *up)?;
                    Ok(true)
                }
                _ => Ok(false),
            }
        }
        Undo::Address { name, net } => {
            let mut netlink = Netlink::routing()?;
            let Some(link) = netlink.link_named(name)? else { return Ok(false) };
            let message = RouteNetlinkMessage::DelAddress(address(link.index, *net));
            absent(netlink.change(&what(), message, 0)?, &what())
        }
        Undo::Route(spec) => {
            // Without the device, which may be gone: table, destination, kind, metric and tag tell.
            let message = RouteNetlinkMessage::DelRoute(route(spec, None));
            absent(Netlink::routing()?.change(&what(), message, 0)?, &what())
        }
        Undo::Rule(spec) => {
            let message = RouteNetlinkMessage::DelRule(rule(spec));
            absent(Netlink::routing()?.change(&what(), message, 0)?, &what())
        }
        Undo::Group { name, group } => {
            let mut netlink = Netlink::routing()?;
            match netlink.link_named(name)? {
                Some(link) if link.group != *group => {
                    netlink.set_group(&what(), name, *group)?;
                    Ok(true)
                }
                _ => Ok(false),
            }
        }
        Undo::Cgroup { path } => Ok(cgroup::remove(path)?),
        Undo::Nft { name } => nft::unmake(name),
        Undo::Sysctl { path, old, new } => {
            if sysctl::read(path)?.as_deref().map(str::trim) != Some(new.trim()) {
                return Ok(false);
            }
            sysctl::write(path, old)?;
            Ok(true)
        }
        Undo::ResolvConf(file) => resolver::unmake(file),
        Undo::LinkDomains(link) => resolved::widen(link),
        Undo::LinkDns { name } => resolved::unmake(name),
    }
}

/// Gives a device another name.
pub(crate) fn rename_link(index: IfIndex, name: &str) -> Result<(), RouteError> {
    let mut netlink = Netlink::routing()?;
    let what = format!("give device {index} the name {name}");
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    let mut named = message.clone();
    named.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match netlink.change(&what, RouteNetlinkMessage::SetLink(named.clone()), 0)? {
        // It is up, and this kernel is older than 6.2 (`dev_change_name`, net/core/dev.c).
        Err(refusal) if refusal.errno() == EBUSY => {}
        outcome => return outcome.map_err(|r| r.of(what)),
    }
    message.header.change_mask = LinkFlags::Up;
    netlink.change(&what, RouteNetlinkMessage::SetLink(message), 0)?.map_err(|r| r.of(&*what))?;
    netlink.change(&what, RouteNetlinkMessage::SetLink(named), 0)?.map_err(|r| r.of(what))
}

fn present(outcome: Result<(), Refusal>, what: &str) -> Result<(), RouteError> {
    match outcome {
        Err(refusal) if refusal.errno() == EEXIST => Ok(()),
        outcome => outcome.map_err(|r| r.of(what)),
    }
}

/// `ESRCH` no such route, `ENOENT` no such rule or table, `EADDRNOTAVAIL` no such address, `ENODEV` its
/// device is gone, `EAFNOSUPPORT` so is IPv6.
fn absent(outcome: Result<(), Refusal>, what: &str) -> Result<bool, RouteError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(refusal) if matches!(refusal.errno(), ENOENT | ESRCH | ENODEV | EADDRNOTAVAIL | EAFNOSUPPORT) => {
            Ok(false)
        }
        Err(refusal) => Err(refusal.of(what)),
    }
}

impl Netlink {
    fn index(&mut self, what: &str, name: &str) -> Result<IfIndex, RouteError> {
        let link = self.link_named(name)?;
        link.map(|l| l.index)
            .ok_or_else(|| RouteError::NoDevice { what: what.to_owned(), device: name.to_owned() })
    }

    fn set_link(&mut self, what: &str, name: &str, mtu: u32, up: bool) -> Result<(), RouteError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(what, name)?.0;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.change(what, RouteNetlinkMessage::SetLink(message), 0)?.map_err(|r| r.of(what))
    }
}

impl Netlink {
    fn set_group(&mut self, what: &str, name: &str, group: u32) -> Result<(), RouteError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(what, name)?.0;
        message.attributes.push(LinkAttribute::Group(group));
        self.change(what, RouteNetlinkMessage::SetLink(message), 0)?.map_err(|r| r.of(what))
    }
}

fn address(index: IfIndex, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = decode::address_family(net.addr());
    message.header.index = index.0;
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    if net.addr().is_ipv6() {
        // Nobody else is on the device; without it the address is tentative and unusable for a second.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn route(spec: &RouteSpec, dev: Option<IfIndex>) -> RouteMessage {
    let mut message = RouteMessage::default();
    let family = Family::of_net(spec.dst);
    let header = &mut message.header;
    header.address_family = decode::family_number(family);
    header.destination_prefix_length = spec.dst.prefix_len();
    header.protocol = RouteProtocol::from(PROTOCOL);
    header.kind = match spec.kind() {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Local => RouteType::Local,
        _ => RouteType::Throw,
    };
    // As iproute2 does: link scope for what has no gateway, but an IPv6 route has no scope.
    header.scope = match (family, spec.dev.is_some() && spec.gateway.is_none()) {
        (Family::V4, true) if spec.local => RouteScope::Host,
        (Family::V4, true) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    message.attributes.push(RouteAttribute::Table(spec.table.0));
    if spec.dst.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(spec.dst.network().into()));
    }
    if spec.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(spec.metric));
    }
    if let Some(src) = spec.src {
        message.attributes.push(RouteAttribute::PrefSource(src.into()));
    }
    if let Some(name) = &spec.congestion {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::CcAlgo(name.clone())]));
    }
    if let Some(index) = dev {
        message.attributes.push(RouteAttribute::Oif(index.0));
        // Without the device it is to be removed, and what is named already tells which one.
        if let Some(gateway) = spec.gateway {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(match gateway {
                IpAddr::V6(gateway) if family == Family::V4 => RouteAttribute::Via(RouteVia::Inet6(gateway)),
                gateway => RouteAttribute::Gateway(gateway.into()),
            });
        }
    }
    message
}

fn rule(spec: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let (header, attributes) = (&mut message.header, &mut message.attributes);
    header.family = decode::family_number(spec.family);
    header.tos = spec.tos;
    if spec.invert {
        header.flags = RuleFlags::Invert;
    }
    attributes.push(RuleAttribute::Priority(spec.priority.0));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(spec.protocol)));
    header.action = match spec.action {
        RuleAction::Lookup(table) => {
            attributes.push(RuleAttribute::Table(table.0));
            Action::ToTable
        }
        RuleAction::Goto(target) => {
            attributes.push(RuleAttribute::Goto(target.0));
            Action::Goto
        }
        RuleAction::Nop => Action::Nop,
        RuleAction::Blackhole => Action::Blackhole,
        RuleAction::Unreachable => Action::Unreachable,
        RuleAction::Prohibit => Action::Prohibit,
        RuleAction::Other(n) => Action::from(n),
    };
    if let Some((mark, mask)) = spec.fwmark {
        attributes.push(RuleAttribute::FwMark(mark.0));
        attributes.push(RuleAttribute::FwMask(mask));
    }
    for (net, length, attribute) in [
        (spec.src, &mut header.src_len, RuleAttribute::Source as fn(IpAddr) -> RuleAttribute),
        (spec.dst, &mut header.dst_len, RuleAttribute::Destination),
    ] {
        if let Some(net) = net {
            *length = net.prefix_len();
            attributes.push(attribute(net.network()));
        }
    }
    attributes.extend(spec.iif.clone().map(RuleAttribute::Iifname));
    attributes.extend(spec.oif.clone().map(RuleAttribute::Oifname));
    attributes.extend(spec.suppress_prefixlength.map(RuleAttribute::SuppressPrefixLen));
    attributes.extend(spec.suppress_ifgroup.map(RuleAttribute::SuppressIfGroup));
    attributes
        .extend(spec.sports.map(|(start, end)| RuleAttribute::SourcePortRange(RulePortRange { start, end })));
    attributes.extend(spec.ip_protocol.map(|protocol| RuleAttribute::IpProtocol(protocol.into())));
    attributes.extend(
        spec.dports.map(|(start, end)| RuleAttribute::DestinationPortRange(RulePortRange { start, end })),
    );
    attributes.extend(spec.uids.map(|(start, end)| RuleAttribute::UidRange(RuleUidRange { start, end })));
    message
}

/// Undoes everything that carries our tag in this network namespace, `resolv_conf` included; the number of things undone.
pub(crate) fn unmake_tagged(resolv_conf: &Path) -> Result<usize, RouteError> {
    let asks_us = resolver::unmake_tagged(resolv_conf)?;
    let mut netlink = Netlink::routing()?;
    let mut undo = Vec::new();
    // Rules first: without them no packet asks for the routes.
    let ours = netlink.rules()?.into_iter().filter(|r| r.protocol == PROTOCOL);
    undo.extend(ours.map(Undo::Rule));
    let routes = netlink.routes()?.into_iter().filter(|r| {
        // A tagged route outside a table of its own is not of our making.
        r.protocol == PROTOCOL && !matches!(r.table, Table::MAIN | Table::LOCAL | Table::DEFAULT)
    });
    for route in routes {
        let dev = match route.oif {
            Some(index) if matches!(route.kind, RouteKind::Unicast | RouteKind::Local) => {
                netlink.link_name(index)?
            }
            _ => None,
        };
        let spec = RouteSpec {
            table: route.table,
            dst: route.dst,
            dev,
            gateway: route.gateway,
            src: route.prefsrc,
            metric: route.metric,
            refuses: route.kind == RouteKind::Unreachable,
            local: route.kind == RouteKind::Local,
            // Not named, any is removed.
            congestion: None,
        };
        undo.push(Undo::Route(spec));
    }
    undo.extend(nft::ours()?.into_iter().map(|name| Undo::Nft { name }));
    let mut count = 0;
    for one in &undo {
        count += usize::from(unmake(one)?);
    }
    // Nobody is in it, so that nothing of this host changes with it: `oneway exclude` leaves one behind each time.
    cgroup::remove_ours();
    Ok(count + usize::from(asks_us))
}
