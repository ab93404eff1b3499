//! The TCP ports that others are connected to, by `NETLINK_SOCK_DIAG` (sock_diag(7)).

use std::collections::BTreeSet;

use super::netlink::{Netlink, sock_diag_request};
use crate::error::RouteError;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// Bits by the numbers of `include/net/tcp_states.h`.
const LISTEN: u32 = 1 << 10;
/// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`: may still carry data.
const CONNECTED: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8;

/// Ports that are listened on and have a connection now, in order. None where the kernel does not tell
/// (no `inet_diag`).
pub(super) fn serving() -> Result<Vec<u16>, RouteError> {
    let Ok(mut netlink) = Netlink::sock_diag() else { return Ok(Vec::new()) };
    let (mut listening, mut connected) = (BTreeSet::new(), BTreeSet::new());
    for family in [AF_INET, AF_INET6] {
        listening.extend(netlink.ports(family, LISTEN)?);
    }
    for family in [AF_INET, AF_INET6] {
        connected.extend(netlink.ports(family, CONNECTED)?);
    }
    Ok(listening.intersection(&connected).copied().collect())
}

impl Netlink {
    /// The local ports of sockets in these states whose own address is not loopback.
    fn ports(&mut self, family: u8, states: u32) -> Result<Vec<u16>, RouteError> {
        let request = |sequence| request(family, states, sequence);
        match self.dump_bytes("list the TCP sockets", request, |message| Ok(port(family, message.payload))) {
            Err(RouteError::Refused { .. }) => Ok(Vec::new()),
            found => found,
        }
    }
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
fn request(family: u8, states: u32, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.resize(56, 0);
    sock_diag_request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, sequence, &bytes)
}
