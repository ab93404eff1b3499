//! `RTM_GETROUTE` for one packet.

use std::collections::BTreeMap;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};

use super::decode;
use super::netlink::{Netlink, parse_strictly};
use crate::error::RouteError;
use crate::id::{IfIndex, Table};
use crate::query::{RouteAnswer, RouteKind, RouteQuery};

/// `include/uapi/linux/in.h`
const IPPROTO_TCP: u8 = 6;

const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

pub(crate) fn query(query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
    Netlink::routing()?.route(query)
}

/// A socket for many questions, and the names of devices that answers were about.
#[derive(Debug)]
pub(crate) struct Asker {
    netlink: Netlink,
    names: BTreeMap<IfIndex, String>,
}

impl Asker {
    pub(crate) fn open() -> Result<Self, RouteError> {
        Ok(Self { netlink: Netlink::routing()?, names: BTreeMap::new() })
    }

    pub(crate) fn ask(&mut self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        let mut answer = self.netlink.unnamed_route(query)?;
        if let Some(index) = answer.oif {
            answer.oif_name = match self.names.get(&index) {
                Some(name) => name.clone(),
                None => self.netlink.link_name(index)?.unwrap_or_default(),
            };
            self.names.insert(index, answer.oif_name.clone());
        }
        Ok(answer)
    }
}

impl Netlink {
    /// Asks for the route of one packet.
    pub(super) fn route(&mut self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        let mut answer = self.unnamed_route(query)?;
        if let Some(index) = answer.oif {
            answer.oif_name = self.link_name(index)?.unwrap_or_default();
        }
        Ok(answer)
    }

    /// The same without the device's name.
    fn unnamed_route(&mut self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        let what = format!("find the route to {}", query.dst);
        let mut message = RouteMessage::default();
        let bits = if query.dst.is_ipv4() { 32 } else { 128 };
        message.header.address_family = decode::address_family(query.dst);
        message.header.destination_prefix_length = bits;
        if query.dst.is_ipv4() {
            // Without it IPv4 always answers "table main"; IPv6 refuses it and tells the table anyway.
            message.header.flags = RouteFlags::LookupTable;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(query.dst.into()));
        if let Some(src) = query.src {
            message.header.source_prefix_length = bits;
            attributes.push(RouteAttribute::Source(src.into()));
        }
        if let Some(mark) = query.mark {
            attributes.push(RouteAttribute::Mark(mark.0));
        }
        if let Some(oif) = query.oif {
            attributes.push(RouteAttribute::Oif(oif.0));
        }
        if let Some(uid) = query.uid {
            attributes.push(RouteAttribute::Uid(uid));
        }
        let protocol = query.dport.map(|(protocol, _)| protocol);
        // Rules by port look at it for a protocol that has ports only.
        if let Some(protocol) = protocol.or(query.sport.map(|_| IPPROTO_TCP)) {
            attributes.push(RouteAttribute::IpProto(protocol));
        }
        attributes.extend(query.sport.map(RouteAttribute::Sport));
        attributes.extend(query.dport.map(|(_, port)| RouteAttribute::Dport(port)));
        let mut answer = None;
        let outcome = self.request(&what, RouteNetlinkMessage::GetRoute(message), 0, |message| {
            if let RouteNetlinkMessage::NewRoute(route) = parse_strictly(&what, &message)? {
                answer = Some(route);
            }
            Ok(())
        })?;
        if let Err(refusal) = outcome {
            // What `fib_props` (net/ipv4/fib_semantics.c) makes of a route's type; a `throw` that no
            // later rule answers is EAGAIN in IPv4. EINVAL is a blackhole; a wrong question comes with a hint.
            let kind = match refusal.errno() {
                ENETUNREACH | EHOSTUNREACH | EAGAIN | ENOENT => RouteKind::Unreachable,
                EACCES => RouteKind::Prohibit,
                EINVAL if refusal.hint.is_none() => RouteKind::Blackhole,
                _ => return Err(refusal.of(what)),
            };
            return Ok(RouteAnswer {
                oif: None,
                oif_name: String::new(),
                prefsrc: None,
                gateway: None,
                table: None,
                kind,
            });
        }
        let route = answer.ok_or_else(|| super::netlink::decode(&what, "no route in it".into()))?;
        Ok(read(&route))
    }
}

/// The answer, but the device's name.
pub(super) fn read(message: &RouteMessage) -> RouteAnswer {
    let mut answer = RouteAnswer {
        oif: None,
        oif_name: String::new(),
        prefsrc: None,
        gateway: None,
        table: Some(Table(message.header.table.into())).filter(|t| t.0 != 0),
        kind: decode::route_kind(message.header.kind.into()),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => answer.oif = Some(IfIndex(*index)),
            RouteAttribute::PrefSource(address) => answer.prefsrc = decode::ip(address),
            RouteAttribute::Gateway(address) => answer.gateway = decode::ip(address),
            RouteAttribute::Via(via) => answer.gateway = decode::via(via),
            RouteAttribute::Table(table) if *table != 0 => answer.table = Some(Table(*table)),
            _ => {}
        }
    }
    // IPv6 answers a blackhole, an unreachable and a prohibit route as a route by way of `lo`.
    if !matches!(
        answer.kind,
        RouteKind::Unicast
            | RouteKind::Local
            | RouteKind::Broadcast
            | RouteKind::Anycast
            | RouteKind::Multicast
    ) {
        answer.oif = None;
    }
    answer
}
