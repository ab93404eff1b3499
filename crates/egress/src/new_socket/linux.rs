//! `SOCK_NONBLOCK` saves the two calls that would set it afterwards.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

/// A non-blocking socket without protection.
#[expect(clippy::disallowed_methods, reason = "this is the one place where outgoing sockets are made")]
pub(crate) fn nonblocking(domain: Domain, ty: Type, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(domain, ty.nonblocking(), Some(protocol))
}
