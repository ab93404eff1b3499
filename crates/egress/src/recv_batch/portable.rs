//! One call for each datagram: no system call of this system is known here that takes more.

use std::io;

use tokio::net::UdpSocket;

use super::Received;

/// Receives a datagram into each slot behind its headroom, as far as there are any, and appends what they are.
pub(super) fn receive<'a>(
    socket: &UdpSocket,
    slots: impl Iterator<Item = &'a mut [u8]>,
    headroom: usize,
    received: &mut Vec<Received>,
) -> io::Result<()> {
    for slot in slots {
        match socket.try_recv_from(slot.get_mut(headroom..).unwrap_or_default()) {
            Ok((len, from)) => received.push(Received { len, size: None, from }),
            Err(error) if received.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(())
}
