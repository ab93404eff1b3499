//! The TCP ports that others are connected to, those others, and whom UDP sockets of this host are connected to, by
//! `NETLINK_SOCK_DIAG` (sock_diag(7)).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::netlink::{Netlink, raw_request};
use crate::error::RouteError;
use crate::nft::{TCP, UDP};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bits by the numbers of `include/net/tcp_states.h`.
const LISTEN: u32 = 1 << 10;
/// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`: may still carry data.
const CONNECTED: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8;
/// `TCP_ESTABLISHED` and `TCP_CLOSE`, which UDP has for sockets that are connected, and for those that are not.
const UDP_CONNECTED: u32 = 1 << 1;
const UDP_UNCONNECTED: u32 = 1 << 7;
/// `TCP_SYN_RECV`, `TCP_TIME_WAIT`, `TCP_LAST_ACK`, `TCP_CLOSING`, `TCP_NEW_SYN_RECV`: still answer, or do already.
const CLOSING: u32 = 1 << 3 | 1 << 6 | 1 << 9 | 1 << 11 | 1 << 12;

/// Ports that are listened on and have a connection now, in order. None where the kernel does not tell
/// (no `inet_diag`).
pub(super) fn serving() -> Result<Vec<u16>, RouteError> {
    let Ok(mut netlink) = Netlink::sock_diag() else { return Ok(Vec::new()) };
    let listening: BTreeSet<_> = netlink.sockets(TCP, LISTEN, port)?;
    let connected = netlink.sockets(TCP, CONNECTED, port)?;
    Ok(listening.intersection(&connected).copied().collect())
}

/// Who is connected to a port that is listened on: its address and port, and that port. None where the kernel does not
/// tell.
pub(super) fn served() -> Result<Vec<(SocketAddr, u16)>, RouteError> {
    let Ok(mut netlink) = Netlink::sock_diag() else { return Ok(Vec::new()) };
    let listening: BTreeSet<_> = netlink.sockets(TCP, LISTEN, port)?;
    let mut served: Vec<_> = netlink.sockets(TCP, CONNECTED | CLOSING, connection)?;
    served.retain(|(_, port)| listening.contains(port));
    Ok(served)
}

/// Whom UDP sockets are connected to, and their ports, but for ports with sockets that are not connected: those are servers',
/// which may have connected sockets for those who asked.
pub(super) fn asked() -> Result<Vec<(SocketAddr, u16)>, RouteError> {
    let Ok(mut netlink) = Netlink::sock_diag() else { return Ok(Vec::new()) };
    let open: BTreeSet<_> = netlink.sockets(UDP, UDP_UNCONNECTED, port)?;
    let mut asked: Vec<_> = netlink.sockets(UDP, UDP_CONNECTED, connection)?;
    asked.retain(|(_, port)| !open.contains(port));
    Ok(asked)
}

impl Netlink {
    /// What is read of sockets of both families in these states. None where the kernel does not tell.
    fn sockets<T, C: Default + Extend<T>>(
        &mut self,
        protocol: u8,
        states: u32,
        read: fn(u8, &[u8]) -> Option<T>,
    ) -> Result<C, RouteError> {
        let mut all = C::default();
        for family in [AF_INET, AF_INET6] {
            let request = |sequence| request(protocol, family, states, sequence);
            match self.dump_bytes("list the sockets", request, |message| Ok(read(family, message.payload))) {
                Err(RouteError::Refused { .. }) => {}
                found => all.extend(found?),
            }
        }
        Ok(all)
    }
}

/// Reads both ports of a `struct inet_diag_msg`, the other's address, which is behind ours, and no connection of loopback.
pub(super) fn connection(family: u8, message: &[u8]) -> Option<(SocketAddr, u16)> {
    let ours = port(family, message)?;
    let theirs = u16::from_be_bytes(*message.get(6..)?.first_chunk()?);
    let bytes: [u8; 16] = *message.get(24..)?.first_chunk()?;
    let address = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::from_octets(*bytes.first_chunk()?)),
        // A socket of both families has mapped addresses for the one.
        _ => Ipv6Addr::from_octets(bytes).to_canonical(),
    };
    (!address.is_loopback()).then_some((SocketAddr::new(address, theirs), ours))
}

/// Reads a `struct inet_diag_msg`: after four bytes the local port in network byte order, after eight the
/// local address.
pub(super) fn port(family: u8, message: &[u8]) -> Option<u16> {
    let port = u16::from_be_bytes(*message.get(4..)?.first_chunk()?);
    let address: [u8; 16] = *message.get(8..)?.first_chunk()?;
    let loopback = match family {
        AF_INET => address[0] == 127,
        _ => u128::from_be_bytes(address) == 1,
    };
    (!loopback).then_some(port)
}

/// A `struct inet_diag_req_v2` for sockets of any address.
fn request(protocol: u8, family: u8, states: u32, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend([family, protocol, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.resize(56, 0);
    raw_request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, sequence, &bytes)
}
