//! Two steps where the type of a socket cannot say that it does not block.

use std::io;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A non-blocking socket without protection.
#[expect(clippy::disallowed_methods, reason = "this is the one place where outgoing sockets are made")]
pub(crate) fn nonblocking(domain: Domain, ty: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, ty, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Begins to connect. Under way is `EWOULDBLOCK` on Windows; elsewhere no sockets are made yet.
pub(crate) fn begin_connect(socket: &Socket, dst: &SockAddr) -> io::Result<()> {
    match socket.connect(dst) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        outcome => outcome,
    }
}
