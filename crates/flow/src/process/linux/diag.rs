//! What the kernel's table of sockets answers (`sock_diag(7)`).

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::nlas::Nla as Attribute;

/// Whose a socket is: its user, its inode and its control group.
pub(super) type Owned = (u32, u32, Option<u64>);

/// A listening socket: its address, its user, its inode and its control group.
pub(super) type Entry = (SocketAddr, u32, u32, Option<u64>);

/// How many of them at one port count: `SO_REUSEPORT` lets one program have as many as it has descriptors.
const MOST: usize = 4096;

/// The answer to a question about one socket; `None` when there is none.
pub(super) fn one(datagram: &[u8]) -> io::Result<Option<Owned>> {
    match message(datagram)?.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
            Ok(Some((found.header.uid, found.header.inode, cgroup_id(&found.nlas))))
        }
        // ENOENT: there is no such socket.
        NetlinkPayload::Error(_) => Ok(None),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Adds what a datagram of a list says of sockets at a port; says whether it was the last one.
pub(super) fn list(datagram: &[u8], port: u16, found: &mut Vec<Entry>) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let answer = message(rest)?;
        match answer.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                let id = &socket.header.socket_id;
                if id.source_port == port && found.len() < MOST {
                    let at = SocketAddr::new(id.source_address, id.source_port);
                    let cgroup = cgroup_id(&socket.nlas);
                    found.push((at, socket.header.uid, socket.header.inode, cgroup));
                }
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(_) => return Err(io::ErrorKind::Unsupported.into()),
            _ => {}
        }
        let size = (answer.header.length as usize).checked_next_multiple_of(4).filter(|size| *size > 0);
        rest = rest.get(size.ok_or(io::ErrorKind::InvalidData)?..).unwrap_or_default();
    }
    Ok(false)
}

fn message(bytes: &[u8]) -> io::Result<NetlinkMessage<SockDiagMessage>> {
    NetlinkMessage::deserialize(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

/// `INET_DIAG_CGROUP_ID` of `include/uapi/linux/inet_diag.h`, since Linux 5.8.
fn cgroup_id(attributes: &[Attribute]) -> Option<u64> {
    const INET_DIAG_CGROUP_ID: u16 = 21;
    attributes.iter().find_map(|attribute| {
        let mut value = [0; 8];
        if attribute.kind() != INET_DIAG_CGROUP_ID || attribute.value_len() != value.len() {
            return None;
        }
        attribute.emit_value(&mut value);
        Some(u64::from_ne_bytes(value))
    })
}
