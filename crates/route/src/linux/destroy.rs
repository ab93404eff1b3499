//! Ending a TCP connection of this host from outside: `SOCK_DESTROY` of sock_diag(7), Linux 4.9 and later.

use std::net::{IpAddr, SocketAddr};

use super::netlink::{Netlink, acknowledgement, decode, raw_request};
use crate::error::RouteError;

const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST_ACK: u16 = 0x5;
const NLMSG_ERROR: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ENOENT: i32 = 2;

/// Ends it; its program gets `ECONNABORTED`. `false` when there is none.
pub(crate) fn destroy_tcp(own: SocketAddr, peer: SocketAddr) -> Result<bool, RouteError> {
    let what = format!("end the connection from {own} to {peer}");
    let mut netlink = Netlink::sock_diag()?;
    let sequence = netlink.next_sequence();
    netlink.send(&what, &request(own, peer, sequence))?;
    let mut outcome = None;
    netlink.receive(&what, |answer, flags, message| {
        if answer != sequence || message.kind != NLMSG_ERROR {
            return Ok(false);
        }
        outcome = Some(acknowledgement(&what, flags, message.payload)?);
        Ok(true)
    })?;
    match outcome.ok_or_else(|| decode(&what, "no acknowledgement".into()))? {
        Ok(()) => Ok(true),
        Err(refusal) if refusal.errno() == ENOENT => Ok(false),
        Err(refusal) => Err(refusal.of(what)),
    }
}

/// A `struct inet_diag_req_v2` for one connection, whatever its cookie.
fn request(own: SocketAddr, peer: SocketAddr, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let family = if own.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    // struct inet_diag_sockid: ports and addresses in network byte order, any device, INET_DIAG_NOCOOKIE.
    bytes.extend(own.port().to_be_bytes());
    bytes.extend(peer.port().to_be_bytes());
    bytes.extend(address(own.ip()));
    bytes.extend(address(peer.ip()));
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([0xff; 8]);
    raw_request(SOCK_DESTROY, NLM_F_REQUEST_ACK, sequence, &bytes)
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            let (first, _) = bytes.split_at_mut(4);
            first.copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}
