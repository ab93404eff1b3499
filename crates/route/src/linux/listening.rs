//! The TCP ports that somebody listens on, by `NETLINK_SOCK_DIAG` (sock_diag(7)).

use super::netlink::Netlink;
use crate::error::RouteError;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u32 = 10;

/// In order, each once. None where the kernel does not tell (no `inet_diag`).
pub(super) fn listening() -> Result<Vec<u16>, RouteError> {
    let Ok(mut netlink) = Netlink::sock_diag() else { return Ok(Vec::new()) };
    let mut ports = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let list = netlink.dump_bytes("list the listening sockets", |sequence| request(family, sequence));
        let list = match list {
            Ok(list) => list,
            Err(RouteError::Refused { .. }) => continue,
            Err(e) => return Err(e),
        };
        // struct inet_diag_msg: four bytes, then the local port in network byte order. Loopback alone
        // (127/8, ::1) cannot be reached from an uplink.
        ports.extend(list.iter().filter_map(|(_, payload)| {
            let port = u16::from_be_bytes(*payload.get(4..)?.first_chunk()?);
            let address = payload.get(8..24)?;
            let loopback = match family {
                AF_INET => address[0] == 127,
                _ => address[..15].iter().all(|b| *b == 0) && address[15] == 1,
            };
            (!loopback).then_some(port)
        }));
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// A `struct inet_diag_req_v2` for listening sockets of any address.
fn request(family: u8, sequence: u32) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;
    let mut bytes = Vec::new();
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend((1_u32 << TCP_LISTEN).to_ne_bytes());
    bytes.resize(LENGTH as usize, 0);
    bytes
}
