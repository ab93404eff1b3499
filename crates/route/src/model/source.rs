//! The source address that IPv4 chooses (`inet_select_addr`, net/ipv4/devinet.c).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::host::{Address, Snapshot};
use crate::id::IfIndex;

/// `RT_SCOPE_LINK`
pub(super) const LINK: u8 = 253;
/// `RT_SCOPE_HOST`
pub(super) const HOST: u8 = 254;

/// The address of a device for packets to `gateway`, of a scope that is wide enough; else that of another device.
pub(super) fn select(host: &Snapshot, dev: IfIndex, gateway: Option<IpAddr>, scope: u8) -> Option<IpAddr> {
    let own: Vec<&Address> = primary(host, dev).filter(|a| a.scope <= scope).collect();
    let beside = |a: &&&Address| gateway.is_none_or(|g| network(a).contains(&g));
    let chosen = own.iter().find(beside).or(own.first());
    if let Some(address) = chosen {
        return Some(address.net.addr());
    }
    // `in_dev_select_addr`
    let others = host.links.iter().flat_map(|l| primary(host, l.index));
    others.filter(|a| a.scope != LINK && a.scope <= scope).map(|a| a.net.addr()).next()
}

fn primary(host: &Snapshot, dev: IfIndex) -> impl Iterator<Item = &Address> {
    host.addresses.iter().filter(move |a| a.index == dev && a.net.addr().is_ipv4() && !a.secondary())
}

/// The network of an address: that of the other end, if there is one.
fn network(address: &Address) -> IpNet {
    let other = address.peer.and_then(|p| IpNet::new(p, address.net.prefix_len()).ok());
    other.unwrap_or(address.net)
}
