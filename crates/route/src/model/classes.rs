//! All destinations, in as few questions as there are answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::host::Snapshot;
use crate::id::Family;

/// One address of every class of destinations of a family that a host's rules and routes can tell apart, and of
/// `more` networks besides: the routing decision is the same for all addresses between one of these and the next.
/// Sorted; the first is the lowest address of the family.
pub fn classes(host: &Snapshot, family: Family, more: &[IpNet]) -> Vec<IpAddr> {
    let routes = host.routes.iter().map(|r| r.dst);
    let rules = host.rules.iter().filter_map(|r| r.dst);
    // What the code decides by itself: 0.0.0.0/8, loopback, link-local, multicast, broadcast.
    let fixed = match family {
        Family::V4 => {
            ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/24", "224.0.0.0/4"].as_slice()
        }
        Family::V6 => ["::/128", "::1/128", "fe80::/10", "ff00::/8", "::ffff:0:0/96"].as_slice(),
    };
    let fixed = fixed.iter().filter_map(|t| t.parse().ok());
    let own = host.addresses.iter().filter_map(|a| IpNet::new(a.net.addr(), a.net.max_prefix_len()).ok());
    let last = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::BROADCAST),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
    };
    let mut points = vec![family.everything().addr(), last];
    for net in routes.chain(rules).chain(fixed).chain(own).chain(more.iter().copied()) {
        if Family::of_net(net) == family {
            points.push(net.network());
            points.extend(after(net.broadcast()));
        }
    }
    if family == Family::V4 {
        // The unspecified address is decided about by itself.
        points.push(IpAddr::V4(Ipv4Addr::from_bits(1)));
    }
    points.sort();
    points.dedup();
    points
}

/// The address behind the last one of a network.
fn after(last: IpAddr) -> Option<IpAddr> {
    match last {
        IpAddr::V4(a) => a.to_bits().checked_add(1).map(|n| IpAddr::V4(Ipv4Addr::from_bits(n))),
        IpAddr::V6(a) => a.to_bits().checked_add(1).map(|n| IpAddr::V6(Ipv6Addr::from_bits(n))),
    }
}
