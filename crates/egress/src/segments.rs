//! Several datagrams of one length as one (`UDP_SEGMENT` and `UDP_GRO` of udp(7)): one system call, and one way through
//! the kernel, for all of them.
//!
//! Not by the crate `quinn-udp`, which is made for QUIC: it forbids fragmentation of all that a socket sends
//! (`IP_PMTUDISC_PROBE`), so that a program's datagram of 9,000 bytes would not arrive any more, and swallows the errors
//! of sending, from which clients learn that nobody is there.

#[cfg(target_os = "linux")]
#[path = "segments/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "segments/unsupported.rs"]
mod os;

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::UdpSocket;

/// Datagrams that a kernel takes as one at least (`UDP_MAX_SEGMENTS` before Linux 6.9).
pub const MOST: usize = 64;

/// Asks the kernel to hand over datagrams that came one after the other from the same sender as one. Says whether it
/// does, and then also takes several as one: [`send`].
pub fn enable(socket: &UdpSocket) -> bool {
    os::enable(socket).is_ok()
}

/// Sends `payload` as datagrams of `size` bytes, the last one of what is left, with as few calls as possible; without a
/// destination to the one that the socket is connected to. Returns how many went, and why no more did.
///
/// Only for sockets for which [`enable`] said that the kernel can.
pub fn send(
    socket: &UdpSocket,
    payload: &[u8],
    size: usize,
    dst: Option<SocketAddr>,
) -> (usize, io::Result<()>) {
    let size = size.max(1);
    let mut sent = 0;
    for chunk in payload.chunks(size.saturating_mul(MOST)) {
        let count = chunk.len().div_ceil(size);
        match os::send_together(socket, chunk, size, dst) {
            Ok(()) => sent += count,
            // Longer than the path takes without fragments, or a device without checksum offload (`udp_send_skb` in
            // net/ipv4/udp.c): one by one they may pass.
            Err(error) if os::is_refusal(&error) => {
                for datagram in chunk.chunks(size) {
                    if let Err(error) = send_one(socket, datagram, dst) {
                        return (sent, Err(error));
                    }
                    sent += 1;
                }
            }
            Err(error) => return (sent, Err(error)),
        }
    }
    (sent, Ok(()))
}

fn send_one(socket: &UdpSocket, datagram: &[u8], dst: Option<SocketAddr>) -> io::Result<()> {
    // Without asking the reactor: a socket that can take nothing says so itself, and a new one can.
    let socket = SockRef::from(socket);
    match dst {
        Some(dst) => socket.send_to(datagram, &dst.into()),
        None => socket.send(datagram),
    }
    .map(drop)
}
