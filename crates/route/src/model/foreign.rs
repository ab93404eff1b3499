//! Routes of others that lead into the capture device.

use ipnet::IpNet;

use crate::host::{PROTOCOL, Snapshot};
use crate::id::{IfIndex, Table};
use crate::query::RouteKind;

/// `RTPROT_KERNEL`
const KERNEL: u8 = 2;

/// The destinations that somebody else's routes lead into the capture device: what OpenVPN makes of the question
/// for the gateway while everything is captured, for one. A marked packet follows such a route, so that nothing may
/// be sent there; sockets bound to the uplink do not see it.
///
/// The device's own networks, whose routes the kernel makes, are not among them.
pub fn foreign_ways(host: &Snapshot, tun: IfIndex) -> Vec<IpNet> {
    let leads = |r: &&crate::host::Route| r.oif == Some(tun) || r.next_hops.iter().any(|hop| hop.oif == tun);
    let theirs = |r: &&crate::host::Route| r.protocol != PROTOCOL && r.protocol != KERNEL;
    let mut ways: Vec<_> = host
        .routes
        .iter()
        .filter(|r| r.kind == RouteKind::Unicast && r.table != Table::LOCAL)
        .filter(leads)
        .filter(theirs)
        .map(|r| r.dst)
        .collect();
    ways.sort();
    ways.dedup();
    ways
}
