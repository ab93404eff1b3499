//! What the kernel may say, as fuzz targets make it up: it is taken apart as what it says is, and then thought about.

use netlink_packet_route::RouteNetlinkMessage;

use super::monitor::note;
use super::netlink::{Message, acknowledgement, attributes, each, parse};
use super::nexthop::{Nexthops, RTM_NEWNEXTHOP};
use super::{cgroup, decode, listener, nexthop, nft, query, serving};
use crate::host::Snapshot;
use crate::id::{Family, Mark};
use crate::model::{Packet, classes, decide, foreign_ways, planned};
use crate::monitor::Changes;
use crate::nft::{Inbound, Memory, NftTable};
use crate::plan::{Request, plan};
use crate::query::RouteQuery;

const WHAT: &str = "take apart what nobody said";
const NLMSG_ERROR: u16 = 2;
/// Destinations that the model is asked about.
const MOST: usize = 32;

/// Links, addresses, routes, next-hop objects, rules and refusals, one after the other.
pub fn routing(datagram: &[u8]) {
    note(&mut Changes::default(), datagram);
    let mut host = Snapshot::default();
    let mut objects = Nexthops::new();
    let outcome = each(WHAT, datagram, |_, flags, message| {
        if message.kind == NLMSG_ERROR {
            drop(acknowledgement(WHAT, flags, message.payload)?);
            return Ok(false);
        }
        if message.kind == RTM_NEWNEXTHOP {
            objects.extend(nexthop::read(message.payload));
            return Ok(false);
        }
        match parse(WHAT, &message)? {
            Some(RouteNetlinkMessage::NewLink(link)) => host.links.push(decode::link(&link)),
            Some(RouteNetlinkMessage::NewAddress(address)) => {
                host.addresses.extend(decode::address(&address))
            }
            Some(RouteNetlinkMessage::NewRule(rule)) => host.rules.extend(decode::rule(&rule)),
            Some(RouteNetlinkMessage::NewRoute(route)) => {
                drop(query::read(&route));
                host.routes.extend(decode::route(&route));
            }
            _ => {}
        }
        Ok(false)
    });
    nexthop::resolve(&mut host.routes, &objects);
    if outcome.is_ok() {
        think(host);
    }
}

/// What is done with a host that was looked at.
fn think(mut host: Snapshot) {
    host.sysctls.insert("net/ipv6/conf/all/disable_ipv6".into(), "0".into());
    assert!(host.diff(&host).is_empty());
    for link in &host.links {
        drop(foreign_ways(&host, link.index));
    }
    let requests = [Request::default(), Request { forwarded: true, strict: true, ..Request::default() }];
    let after = requests.iter().filter_map(|request| Some(planned(&host, &plan(request, &host).ok()?)));
    for host in after.chain([host.clone()]).collect::<Vec<_>>() {
        for family in Family::ALL {
            for dst in classes(&host, family, &[]).into_iter().take(MOST) {
                assert!(!decide(&host, &Packet::of(&RouteQuery::to(dst), 0)).is_empty());
            }
        }
    }
}

/// Tables, chains and rules of nftables; says whether our table would count as intact.
pub fn nftables(datagram: &[u8]) -> bool {
    note(&mut Changes::default(), datagram);
    let table = NftTable {
        name: "oneway".into(),
        mark: Mark(1 << 28),
        tun: "oneway0".into(),
        inbound: Inbound::Anywhere,
        memory: Memory::Sockets,
        ends_here: true,
        mark_bypassing: false,
        serving: Vec::new(),
        excluded: Vec::new(),
        user: Some(0),
    };
    nft::look(datagram, &table.name, &table.chains())
}

/// A `struct inet_diag_msg`.
pub fn sockets(message: &[u8]) {
    let [family, rest @ ..] = message else { return };
    let _ = serving::port(*family, rest);
    let _ = serving::connection(*family, rest);
    let _ = listener::uid(&Message { kind: 0, payload: rest }, b"oneway/route");
    assert!(attributes(rest).count() <= rest.len() / 4);
}

/// `/proc/PID/mountinfo`
pub fn mountinfo(text: &str) {
    let points = cgroup::mount_points(text);
    assert!(points.len() <= text.lines().count());
}
