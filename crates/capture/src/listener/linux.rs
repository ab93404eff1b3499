//! Listeners that hear one device only, and those that the packet filter redirects to.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 16_384;

/// Listens on `address` for connections that come in by `device` and no other way.
///
/// Bound by `SO_BINDTODEVICE`: a program that dials the address over loopback meets no listener and gets the
/// kernel's RST. Port 0 lets the kernel choose. Non-blocking.
pub fn listen_on_device(address: SocketAddr, device: &str) -> io::Result<TcpListener> {
    let socket = fresh(address)?;
    socket.bind_device(Some(device.as_bytes()))?;
    listen(socket, address)
}

/// Listens on a loopback address; if it is `shared`, beside others of this process that listen there (`SO_REUSEPORT`): the
/// kernel spreads the connections over them. Port 0 lets the kernel choose. Non-blocking.
///
/// # Errors
/// When somebody else has the port, or there can be no such socket.
pub fn listen_for_redirected(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = fresh(address)?;
    socket.set_reuse_port(shared)?;
    listen(socket, address)
}

/// Where a connection was meant for that was redirected to a listener (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`). One that
/// was not redirected was meant for where it is.
///
/// # Errors
/// When connection tracking has forgotten it.
pub fn original_destination(stream: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let v4 = socket.local_addr()?.is_ipv4();
    let original = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() }?.as_socket();
    let original = original.map(|found| SocketAddr::new(found.ip(), found.port()));
    original.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[expect(clippy::disallowed_methods, reason = "a listener is not an outgoing socket; it never connects")]
fn fresh(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn listen(socket: Socket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit these four (`inet_csk_clone_lock`, net/ipv4/inet_connection_sock.c). The sender has
    // gathered what it wants to send; a dead client is found by keep-alive; an urgent byte is one of the stream (RFC 6093, 6).
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_out_of_band_inline(true)?;
    // They send within this host, where a host-wide BBR would pace by timers what nothing
    // holds back; Reno is in every kernel. If it is refused, the host's choice works too.
    let _ = socket.set_tcp_congestion(b"reno");
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
