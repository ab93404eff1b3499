//! Routes and rules of a namespace, by netlink.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use crate::error::LabError;
use crate::link::family;
use crate::ns::NetNs;

/// The routing table that every host has: `main`.
pub const MAIN_TABLE: u32 = 254;

const RTPROT_BOOT: u8 = 3;

/// A route to be added or deleted.
#[derive(Debug, Clone)]
pub struct Route {
    destination: IpNet,
    gateway: Option<IpAddr>,
    device: Option<String>,
    metric: Option<u32>,
    table: u32,
    source: Option<IpAddr>,
    protocol: u8,
    kind: RouteType,
}

impl Route {
    /// A route to `destination` in the table `main`; it still needs a gateway or a device.
    pub fn to(destination: IpNet) -> Self {
        Self {
            destination,
            gateway: None,
            device: None,
            metric: None,
            table: MAIN_TABLE,
            source: None,
            protocol: RTPROT_BOOT,
            kind: RouteType::Unicast,
        }
    }

    /// The default route by `gateway`, of the gateway's address family.
    pub fn default_by(gateway: IpAddr) -> Self {
        let any = match gateway {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        };
        Self::to(any).by(gateway)
    }

    /// Packets vanish without a word.
    pub fn blackhole(destination: IpNet) -> Self {
        Self { kind: RouteType::BlackHole, ..Self::to(destination) }
    }

    /// Packets are answered by ICMP host unreachable, or ICMPv6 no route.
    pub fn unreachable(destination: IpNet) -> Self {
        Self { kind: RouteType::Unreachable, ..Self::to(destination) }
    }

    /// Packets are answered by ICMP administratively prohibited.
    pub fn prohibit(destination: IpNet) -> Self {
        Self { kind: RouteType::Prohibit, ..Self::to(destination) }
    }

    /// By this gateway.
    #[must_use]
    pub fn by(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// By this device.
    #[must_use]
    pub fn dev(mut self, device: &str) -> Self {
        self.device = Some(device.to_owned());
        self
    }

    /// With this metric; the lowest wins.
    #[must_use]
    pub fn metric(mut self, metric: u32) -> Self {
        self.metric = Some(metric);
        self
    }

    /// In this table instead of `main`.
    #[must_use]
    pub fn table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }

    /// With this protocol number, by which its maker knows it; otherwise 3, as of `ip route add`.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }

    /// With this preferred source address.
    #[must_use]
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    fn message(&self, namespace: &NetNs) -> Result<RouteMessage, LabError> {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.destination.addr());
        header.destination_prefix_length = self.destination.prefix_len();
        header.table = u8::try_from(self.table).unwrap_or(0);
        header.protocol = self.protocol.into();
        header.kind = self.kind;
        let direct = self.gateway.is_none() && self.kind == RouteType::Unicast;
        header.scope =
            if direct && self.destination.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        let attributes = &mut message.attributes;
        if self.destination.prefix_len() > 0 {
            attributes.push(RouteAttribute::Destination(address(self.destination.network())));
        }
        if let Some(gateway) = self.gateway {
            attributes.push(RouteAttribute::Gateway(address(gateway)));
        }
        if let Some(source) = self.source {
            attributes.push(RouteAttribute::PrefSource(address(source)));
        }
        if let Some(device) = &self.device {
            attributes.push(RouteAttribute::Oif(namespace.link_index(device)?));
        }
        if let Some(metric) = self.metric {
            attributes.push(RouteAttribute::Priority(metric));
        }
        attributes.push(RouteAttribute::Table(self.table));
        Ok(message)
    }
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

/// A rule of the routing policy: the packets it selects look up `table`. With all defaults it selects every packet.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Whether it is for IPv6; otherwise for IPv4.
    pub ipv6: bool,
    /// Rules are tried in the order of this number.
    pub priority: u32,
    /// Source prefix.
    pub from: Option<IpNet>,
    /// Destination prefix.
    pub to: Option<IpNet>,
    /// Mark and mask.
    pub mark: Option<(u32, u32)>,
    /// Selects the packets that do not match (`not` in the words of `ip rule`).
    pub invert: bool,
    /// Only packets that come in by this device; `lo` stands for the machine's own.
    pub iif: Option<String>,
    /// The table to look up.
    pub table: u32,
    /// What the table says is ignored when the prefix is no longer than this.
    pub suppress_prefixlength: Option<u32>,
    /// The protocol number of who made it (`protocol` in the words of `ip rule`).
    pub protocol: Option<u8>,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        if let Some(from) = self.from {
            message.header.src_len = from.prefix_len();
            message.attributes.push(RuleAttribute::Source(from.network()));
        }
        if let Some(to) = self.to {
            message.header.dst_len = to.prefix_len();
            message.attributes.push(RuleAttribute::Destination(to.network()));
        }
        if let Some((mark, mask)) = self.mark {
            message.attributes.push(RuleAttribute::FwMark(mark));
            message.attributes.push(RuleAttribute::FwMask(mask));
        }
        if self.invert {
            message.header.flags |= RuleFlags::Invert;
        }
        if let Some(iif) = &self.iif {
            message.attributes.push(RuleAttribute::Iifname(iif.clone()));
        }
        if let Some(length) = self.suppress_prefixlength {
            message.attributes.push(RuleAttribute::SuppressPrefixLen(length));
        }
        if let Some(protocol) = self.protocol {
            message.attributes.push(RuleAttribute::Protocol(protocol.into()));
        }
        message.attributes.push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Table(self.table));
        message
    }
}

impl NetNs {
    /// Adds a route.
    ///
    /// # Errors
    /// [`LabError::Netlink`]; `EEXIST` when there is the same one.
    pub fn add_route(&self, route: &Route) -> Result<(), LabError> {
        let message = route.message(self)?;
        self.netlink(
            || format!("add the route {route:?}"),
            |netlink| netlink.change(Message::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL),
        )
    }

    /// Deletes a route.
    ///
    /// # Errors
    /// [`LabError::Netlink`]; `ESRCH` when there is none.
    pub fn delete_route(&self, route: &Route) -> Result<(), LabError> {
        let mut message = route.message(self)?;
        // Zero matches every protocol, and RT_SCOPE_NOWHERE every scope, as `ip route delete` does it.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        self.netlink(
            || format!("delete the route {route:?}"),
            |netlink| netlink.change(Message::DelRoute(message), 0),
        )
    }

    /// Whether packets for `destination` end here.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when there is no route to it.
    pub fn is_local(&self, destination: IpAddr) -> Result<bool, LabError> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(destination);
        question.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        question.attributes.push(RouteAttribute::Destination(address(destination)));
        let what = || format!("ask for the route to {destination}");
        let answer = self.netlink(what, |netlink| netlink.get(Message::GetRoute(question)))?;
        Ok(matches!(answer, Message::NewRoute(route) if route.header.kind == RouteType::Local))
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn add_rule(&self, rule: &Rule) -> Result<(), LabError> {
        self.netlink(
            || format!("add the rule {rule:?}"),
            |netlink| netlink.change(Message::NewRule(rule.message()), NLM_F_CREATE | NLM_F_EXCL),
        )
    }

    /// Deletes a rule.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn delete_rule(&self, rule: &Rule) -> Result<(), LabError> {
        self.netlink(
            || format!("delete the rule {rule:?}"),
            |netlink| netlink.change(Message::DelRule(rule.message()), 0),
        )
    }

    /// Deletes all rules that carry the protocol number `protocol`, of both families, and says how many.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn flush_rules(&self, protocol: u8) -> Result<usize, LabError> {
        let mut deleted = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RuleMessage::default();
            all.header.family = family;
            let what = || format!("delete the rules of protocol {protocol}");
            self.netlink(what, |netlink| {
                for answer in netlink.dump(Message::GetRule(all))? {
                    let Message::NewRule(rule) = answer else { continue };
                    if rule
                        .attributes
                        .iter()
                        .any(|a| matches!(a, RuleAttribute::Protocol(p) if u8::from(*p) == protocol))
                    {
                        netlink.change(Message::DelRule(rule), 0)?;
                        deleted += 1;
                    }
                }
                Ok(())
            })?;
        }
        Ok(deleted)
    }

    /// Deletes all routes, of all tables and both families, that carry the protocol number `protocol`, and says how
    /// many.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn flush_routes(&self, protocol: u8) -> Result<usize, LabError> {
        let mut deleted = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            let what = || format!("delete the routes of protocol {protocol}");
            self.netlink(what, |netlink| {
                for answer in netlink.dump(Message::GetRoute(all))? {
                    let Message::NewRoute(route) = answer else { continue };
                    if u8::from(route.header.protocol) == protocol {
                        netlink.change(Message::DelRoute(route), 0)?;
                        deleted += 1;
                    }
                }
                Ok(())
            })?;
        }
        Ok(deleted)
    }
}
