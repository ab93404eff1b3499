//! The capture device's addresses, free of everything the host has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{PlanError, Request};
use crate::host::{PROTOCOL, Snapshot};
use crate::id::Family;

/// The device's addresses: those asked for, or chosen free ones.
pub(super) fn choose(
    request: &Request,
    host: &Snapshot,
    tun: &str,
    families: &[Family],
) -> Result<Vec<IpNet>, PlanError> {
    if !request.device_is_ours {
        let index = host.link(tun).map(|l| l.index);
        let theirs = host.addresses.iter().filter(|a| Some(a.index) == index && a.scope == 0).map(|a| a.net);
        return Ok(if request.tun_addresses.is_empty() {
            theirs.collect()
        } else {
            request.tun_addresses.clone()
        });
    }
    let taken = taken(host, tun);
    if request.tun_addresses.is_empty() {
        return families
            .iter()
            .map(|family| {
                candidates(*family)
                    .find(|net| overlapping(*net, &taken).is_none())
                    .ok_or(PlanError::NoFreeNetwork(*family))
            })
            .collect();
    }
    for net in &request.tun_addresses {
        check(*net)?;
        if let Some(with) = overlapping(*net, &taken) {
            return Err(PlanError::Overlap { net: *net, with: with.to_owned() });
        }
    }
    Ok(request.tun_addresses.clone())
}

/// Private networks that few use: 10.162.0.0/24 and so on, then 172.29.0.0/24, then 192.168.162.0/24.
/// IPv6: unique local ones (RFC 4193) of one random global ID.
fn candidates(family: Family) -> Box<dyn Iterator<Item = IpNet>> {
    let v4 = |a, b, c| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 1), 24));
    match family {
        Family::V4 => Box::new(
            (0..=255)
                .map(move |c| v4(10, 162, c))
                .chain((0..=255).map(move |c| v4(172, 29, c)))
                .chain((162..=255).map(move |c| v4(192, 168, c))),
        ),
        Family::V6 => Box::new((0..256).map(|n| {
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd5e, 0x7c1b, 0xa2e4, n, 0, 0, 0, 1), 64))
        })),
    }
}

/// Every network of the host and what it is, but default routes and their halves.
fn taken(host: &Snapshot, tun: &str) -> Vec<(IpNet, String)> {
    let tun = host.link(tun).map(|l| l.index);
    let name = |index| host.link_at(index).map_or_else(|| format!("device {index}"), |l| l.name.clone());
    let addresses = host
        .addresses
        .iter()
        .filter(|a| Some(a.index) != tun)
        .map(|a| (a.net.trunc(), format!("{} of {}", a.net, name(a.index))));
    let routes = host
        .routes
        .iter()
        .filter(|r| r.dst.prefix_len() > 4 && r.protocol != PROTOCOL && (r.oif.is_none() || r.oif != tun))
        .map(|r| (r.dst, format!("the route to {} in table {}", r.dst, r.table)));
    addresses.chain(routes).collect()
}

fn overlapping(net: IpNet, taken: &[(IpNet, String)]) -> Option<&str> {
    let overlap = |other: &IpNet| {
        other.addr().is_ipv4() == net.addr().is_ipv4()
            && (other.contains(&net.trunc()) || net.trunc().contains(other))
    };
    taken.iter().find(|(other, _)| overlap(other)).map(|(_, what)| what.as_str())
}

/// Which of `ours`, networks that belong to the device `tun`, others have too, and what of theirs. The plan chose such as
/// nobody had; somebody may have come later.
pub fn collisions(host: &Snapshot, tun: &str, ours: &[IpNet]) -> Vec<(IpNet, String)> {
    let taken = taken(host, tun);
    let shared = ours.iter().filter_map(|net| Some((*net, overlapping(*net, &taken)?.to_owned())));
    shared.collect()
}

fn check(net: IpNet) -> Result<(), PlanError> {
    let room = net.max_prefix_len() - net.prefix_len() >= 2;
    let unicast = match net.addr() {
        IpAddr::V4(a) => !a.is_multicast() && !a.is_loopback() && a != Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(a) => !a.is_multicast() && !a.is_loopback() && a != Ipv6Addr::UNSPECIFIED,
    };
    let host = net.addr() != net.network() && (net.addr() != net.broadcast() || net.addr().is_ipv6());
    if room && unicast && host { Ok(()) } else { Err(PlanError::BadTunAddress(net)) }
}
