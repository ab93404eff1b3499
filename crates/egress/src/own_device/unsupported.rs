//! No socket is made here that could hear of the device.

use std::io;

use oneway_route::IfIndex;
use socket2::Socket;

pub(crate) fn hear_nothing_of(_socket: &Socket, _device: IfIndex) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
