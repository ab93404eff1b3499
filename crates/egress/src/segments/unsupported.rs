//! No such option of this system is known here.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

pub(super) fn enable(_socket: &UdpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn send_together(
    _socket: &UdpSocket,
    _payload: &[u8],
    _size: usize,
    _dst: Option<SocketAddr>,
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}
