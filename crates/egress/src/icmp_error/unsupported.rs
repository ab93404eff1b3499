//! No error queue here.

use std::io;

use socket2::{Domain, Socket};
use tokio::net::UdpSocket;

use super::IcmpErrorEvent;

pub(crate) fn enable(_socket: &Socket, _domain: Domain) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not available on this system.
///
/// # Errors
/// Always [`io::ErrorKind::Unsupported`].
pub fn recv_error(_socket: &UdpSocket) -> io::Result<Option<IcmpErrorEvent>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not available on this system.
///
/// # Errors
/// Always [`io::ErrorKind::Unsupported`].
pub fn try_error(_socket: &UdpSocket) -> io::Result<Option<IcmpErrorEvent>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not available on this system.
///
/// # Errors
/// Always [`io::ErrorKind::Unsupported`].
pub async fn next_error(_socket: &UdpSocket) -> io::Result<IcmpErrorEvent> {
    Err(io::ErrorKind::Unsupported.into())
}
