//! Devices, addresses and routes for the tests, by netlink and not through the crate under test.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const REQUEST: u16 = 0x1;
const REQUEST_ACK: u16 = 0x5;
const CREATE_EXCL: u16 = 0x600;

/// A netlink socket in the thread's namespace. Whatever fails ends the test.
pub struct Wire(Socket);

impl Wire {
    pub fn open() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        Self(socket)
    }

    fn request(&self, message: RouteNetlinkMessage, flags: u16) {
        let shown = format!("{message:?}");
        let answer = self.exchange(message, flags);
        let code = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
        assert_eq!(code, 0, "{} for {shown}", std::io::Error::from_raw_os_error(-code));
    }

    /// Whether the kernel did it.
    fn attempt(&self, message: RouteNetlinkMessage) -> bool {
        self.exchange(message, CREATE_EXCL)[16..20] == [0; 4]
    }

    /// Sends one message and returns the answer's bytes.
    fn exchange(&self, message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        self.exchange_with(message, REQUEST_ACK | flags)
    }

    fn exchange_plain(&self, message: RouteNetlinkMessage) -> Vec<u8> {
        self.exchange_with(message, REQUEST)
    }

    fn exchange_with(&self, message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = 1;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).unwrap();
        let mut answer = vec![0; 65536];
        rustix::net::recv(&self.0, &mut answer[..], rustix::net::RecvFlags::empty()).unwrap();
        answer
    }

    pub fn index(&self, name: &str) -> u32 {
        let name = std::ffi::CString::new(name).unwrap();
        // A namespace's devices are those of the socket it is asked with; rustix has no safe wrapper.
        rustix::net::netdevice::name_to_index(&self.0, name.to_str().unwrap()).unwrap()
    }

    /// A pair of veths.
    pub fn veth(&self, name: &str, peer: &str) {
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::IfName(peer.into()));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        self.request(RouteNetlinkMessage::NewLink(message), CREATE_EXCL);
    }

    pub fn move_to(&self, name: &str, namespace: &impl AsRawFd) {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name);
        message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        self.request(RouteNetlinkMessage::SetLink(message), 0);
    }

    pub fn up(&self, name: &str) {
        self.set(name, true);
    }

    pub fn down(&self, name: &str) {
        self.set(name, false);
    }

    fn set(&self, name: &str, up: bool) {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name);
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.request(RouteNetlinkMessage::SetLink(message), 0);
    }

    pub fn address(&self, name: &str, net: &str) {
        self.request(
            RouteNetlinkMessage::NewAddress(self.address_of(name, net.parse().unwrap())),
            CREATE_EXCL,
        );
    }

    pub fn try_address(&self, name: &str, net: IpNet) -> bool {
        self.attempt(RouteNetlinkMessage::NewAddress(self.address_of(name, net)))
    }

    fn address_of(&self, name: &str, net: IpNet) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(net.addr());
        message.header.index = self.index(name);
        message.header.prefix_len = net.prefix_len();
        message.attributes.push(AddressAttribute::Local(net.addr()));
        message.attributes.push(AddressAttribute::Address(net.addr()));
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        message
    }

    /// Puts a device into a group.
    pub fn group(&self, name: &str, group: u32) {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name);
        message.attributes.push(LinkAttribute::Group(group));
        self.request(RouteNetlinkMessage::SetLink(message), 0);
    }

    pub fn try_route(&self, message: RouteMessage) -> bool {
        self.attempt(RouteNetlinkMessage::NewRoute(message))
    }

    pub fn try_rule(&self, message: RuleMessage) -> bool {
        self.attempt(RouteNetlinkMessage::NewRule(message))
    }

    /// A capture rule of a plan.
    pub fn rule_of(&self, rule: &oneway_route::Rule) {
        let mut message = RuleMessage::default();
        let v6 = rule.family == oneway_route::Family::V6;
        message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.action = RuleAction::ToTable;
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(rule.priority.0));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)));
        if let oneway_route::RuleAction::Lookup(table) = rule.action {
            attributes.push(RuleAttribute::Table(table.0));
        }
        if let Some((mark, mask)) = rule.fwmark {
            attributes.push(RuleAttribute::FwMark(mark.0));
            attributes.push(RuleAttribute::FwMask(mask));
        }
        attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
        if let Some(net) = rule.src {
            message.header.src_len = net.prefix_len();
            attributes.push(RuleAttribute::Source(net.addr()));
        }
        if rule.invert {
            message.header.flags = RuleFlags::Invert;
        }
        attributes.extend(
            rule.sports.map(|(start, end)| RuleAttribute::SourcePortRange(RulePortRange { start, end })),
        );
        attributes.extend(rule.uids.map(|(start, end)| RuleAttribute::UidRange(RuleUidRange { start, end })));
        attributes.extend(rule.suppress_prefixlength.map(RuleAttribute::SuppressPrefixLen));
        self.request(RouteNetlinkMessage::NewRule(message), CREATE_EXCL);
    }

    /// The device by which a packet that came in by another one is sent on; `None` when it is not.
    pub fn forwarded(&self, dst: IpAddr, src: IpAddr, iif: u32, mark: u32) -> Option<u32> {
        let mut message = RouteMessage::default();
        let bits = if dst.is_ipv4() { 32 } else { 128 };
        message.header.address_family = family(dst);
        message.header.destination_prefix_length = bits;
        message.header.source_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(dst.into()));
        message.attributes.push(RouteAttribute::Source(src.into()));
        message.attributes.push(RouteAttribute::Iif(iif));
        message.attributes.push(RouteAttribute::Mark(mark));
        // What is forwarded is root's.
        message.attributes.push(RouteAttribute::Uid(0));
        // The answer comes alone, without an acknowledgement behind it.
        let answer = self.exchange_plain(RouteNetlinkMessage::GetRoute(message));
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).unwrap();
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = answer.payload else {
            return None;
        };
        if route.header.kind != RouteType::Unicast {
            return None;
        }
        route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
    }

    /// A route by way of a gateway, or on-link, with a protocol number.
    pub fn route(&self, dst: &str, gateway: Option<&str>, dev: &str, metric: u32, table: u32, protocol: u8) {
        let dst: IpNet = dst.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.address_family = family(dst.addr());
        message.header.destination_prefix_length = dst.prefix_len();
        message.header.protocol = RouteProtocol::from(protocol);
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Table(table));
        message.attributes.push(RouteAttribute::Destination(dst.addr().into()));
        message.attributes.push(RouteAttribute::Oif(self.index(dev)));
        message.attributes.push(RouteAttribute::Priority(metric));
        if let Some(gateway) = gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.parse::<IpAddr>().unwrap().into()));
        }
        self.request(RouteNetlinkMessage::NewRoute(message), CREATE_EXCL);
    }

    /// `priority P lookup T`, of a protocol number.
    pub fn rule(&self, v6: bool, priority: u32, table: u32, protocol: u8) {
        let mut message = RuleMessage::default();
        message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.action = RuleAction::ToTable;
        message.attributes.push(RuleAttribute::Priority(priority));
        message.attributes.push(RuleAttribute::Table(table));
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(protocol)));
        self.request(RouteNetlinkMessage::NewRule(message), CREATE_EXCL);
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
