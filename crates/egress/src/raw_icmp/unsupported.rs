//! No raw socket is made here.

use std::io;

use oneway_route::{Family, IfIndex};
use socket2::Socket;

pub(crate) fn hear_nothing(_socket: &Socket, _family: Family) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn hear_part(
    _socket: &Socket,
    _family: Family,
    _part: u16,
    _not_by: Option<IfIndex>,
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
