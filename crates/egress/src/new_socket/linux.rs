//! `SOCK_NONBLOCK` saves the two calls that would set it afterwards.

use std::io;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A non-blocking socket without protection.
#[expect(clippy::disallowed_methods, reason = "this is the one place where outgoing sockets are made")]
pub(crate) fn nonblocking(domain: Domain, ty: Type, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(domain, ty.nonblocking(), Some(protocol))
}

/// `include/uapi/asm-generic/errno.h`
const EINPROGRESS: i32 = 115;

/// Begins to connect. The socket has its own address then, and its SYN is on the way.
pub(crate) fn begin_connect(socket: &Socket, dst: &SockAddr) -> io::Result<()> {
    match socket.connect(dst) {
        Err(e) if e.raw_os_error() == Some(EINPROGRESS) => Ok(()),
        outcome => outcome,
    }
}
