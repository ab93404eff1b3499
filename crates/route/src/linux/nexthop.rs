//! Next-hop objects (ip-nexthop(8)), which routes may name in place of devices and gateways.
//!
//! With `net.ipv4.nexthop_compat_mode=0` a list of routes has nothing but their numbers (`fib_dump_info`,
//! net/ipv4/fib_semantics.c; `rt6_fill_node`, net/ipv6/route.c).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::netlink::{Netlink, attributes, raw_request};
use crate::error::RouteError;
use crate::host::{NextHop, Route};
use crate::id::IfIndex;

pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
/// `struct nhmsg` (`include/uapi/linux/nexthop.h`).
const HEADER: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// `struct nexthop_grp`.
const MEMBER: usize = 8;

/// What an object stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Nexthop {
    One {
        oif: IfIndex,
        gateway: Option<IpAddr>,
    },
    /// The numbers of others, and their weights less one.
    Group(Vec<(u32, u8)>),
}

/// The objects of a namespace, by their numbers.
pub(super) type Nexthops = BTreeMap<u32, Nexthop>;

impl Netlink {
    /// Gives the routes that name an object, and that the kernel says nothing else of, its devices and gateways.
    pub(super) fn resolve(&mut self, routes: &mut [Route]) -> Result<(), RouteError> {
        if !routes.iter().any(is_unresolved) {
            return Ok(());
        }
        let request = |sequence| raw_request(RTM_GETNEXTHOP, NLM_F_REQUEST_DUMP, sequence, &[0; HEADER]);
        let objects = self.dump_bytes("list the next-hop objects", request, |message| {
            Ok(read(message.payload).filter(|_| message.kind == RTM_NEWNEXTHOP))
        })?;
        resolve(routes, &objects.into_iter().collect());
        Ok(())
    }
}

fn is_unresolved(route: &Route) -> bool {
    route.nexthop.is_some() && route.oif.is_none() && route.next_hops.is_empty()
}

pub(super) fn resolve(routes: &mut [Route], objects: &Nexthops) {
    for route in routes.iter_mut().filter(|route| is_unresolved(route)) {
        match route.nexthop.and_then(|id| objects.get(&id)) {
            Some(Nexthop::One { oif, gateway }) => (route.oif, route.gateway) = (Some(*oif), *gateway),
            Some(Nexthop::Group(members)) => {
                let hop = |(id, hops): &(u32, u8)| match objects.get(id) {
                    Some(Nexthop::One { oif, gateway }) => {
                        Some(NextHop { oif: *oif, gateway: *gateway, hops: *hops })
                    }
                    // The kernel has no groups of groups.
                    _ => None,
                };
                route.next_hops = members.iter().filter_map(hop).collect();
            }
            // A blackhole, or it is gone since the routes were read: that is announced.
            None => {}
        }
    }
}

/// Reads one; `None` of a blackhole.
pub(super) fn read(payload: &[u8]) -> Option<(u32, Nexthop)> {
    let (mut id, mut oif, mut gateway, mut group) = (None, None, None, None);
    for (kind, value) in attributes(payload.get(HEADER..)?) {
        let number = || Some(u32::from_ne_bytes(*value.first_chunk()?));
        match kind {
            NHA_ID => id = number(),
            NHA_OIF => oif = number(),
            NHA_GATEWAY => gateway = address(value),
            NHA_GROUP => group = Some(value),
            _ => {}
        }
    }
    let what = match (group, oif) {
        (Some(members), _) => Nexthop::Group(members.chunks_exact(MEMBER).filter_map(member).collect()),
        (None, Some(oif)) => Nexthop::One { oif: IfIndex(oif), gateway },
        (None, None) => return None,
    };
    Some((id?, what))
}

fn member(bytes: &[u8]) -> Option<(u32, u8)> {
    Some((u32::from_ne_bytes(*bytes.first_chunk()?), *bytes.get(4)?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}
