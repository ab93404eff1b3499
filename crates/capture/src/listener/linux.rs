//! Listeners that hear one device only.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 16_384;

/// Listens on `address` for connections that come in by `device` and no other way.
///
/// Bound by `SO_BINDTODEVICE`: a program that dials the address over loopback meets no listener and gets the
/// kernel's RST. Port 0 lets the kernel choose. Non-blocking.
#[expect(clippy::disallowed_methods, reason = "a listener is not an outgoing socket; it never connects")]
pub fn listen_on_device(address: SocketAddr, device: &str) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind_device(Some(device.as_bytes()))?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit these three (`inet_csk_clone_lock`, net/ipv4/inet_connection_sock.c). The sender has
    // gathered what it wants to send; a dead client is found by keep-alive.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    // They send within this host, where a host-wide BBR would pace by timers what nothing
    // holds back; Reno is in every kernel. If it is refused, the host's choice works too.
    let _ = socket.set_tcp_congestion(b"reno");
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
