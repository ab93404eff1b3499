//! Who listens where: a dump of the kernel's table of sockets (`sock_diag(7)`), and `/proc`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::StateFlags;

use super::diag::Entry;
use super::programs::{all_holders, comm, of_process, program};
use super::system::Sockets;
use super::{Listener, text};

pub(super) fn find(at: SocketAddr) -> Option<Listener> {
    let at = SocketAddr::new(at.ip().to_canonical(), at.port());
    // A listener on `::` takes IPv4 as well, unless it was told not to.
    let families: &[u8] = if at.is_ipv4() { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
    let mut found: Vec<Entry> = Vec::new();
    for family in families {
        found.extend(Sockets::default().list(*family, IPPROTO_TCP, StateFlags::LISTEN, at.port()).ok()?);
    }
    found.retain(|(address, ..)| fits(address.ip(), at.ip()));
    // The kernel prefers the one that is bound to this very address (`compute_score`, net/ipv4/inet_hashtables.c).
    let (_, uid, inode, cgroup_id) =
        found.into_iter().min_by_key(|(address, ..)| address.ip().is_unspecified())?;
    let pids = all_holders(uid, inode);
    let process = pids.iter().find_map(|pid| program(*pid)).map(Arc::new);
    let comm = pids.iter().find_map(|pid| comm(*pid));
    let cgroup = pids.iter().find_map(|pid| cgroup(*pid));
    Some(Listener { uid, pids, process, comm, cgroup, cgroup_id })
}

fn fits(bound: IpAddr, asked: IpAddr) -> bool {
    let bound = bound.to_canonical();
    bound == asked || bound.is_unspecified() && (bound.is_ipv6() || asked.is_ipv4())
}

fn cgroup(pid: u32) -> Option<String> {
    text::cgroup(&of_process(pid, "cgroup")?)
}
