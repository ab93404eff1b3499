//! Sockets that send and receive ICMP echo.

use std::io;
use std::net::IpAddr;

use tokio::net::UdpSocket;

/// How the kernel presents ICMP to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpKind {
    /// `SOCK_DGRAM`: echo only; the kernel sets the identifier and the checksum and delivers only the replies
    /// to it. Received IPv4 datagrams begin with the ICMP header.
    Ping,
    /// `SOCK_RAW`: sends alone, and hears nothing; of ICMPv6 the kernel fills in the checksum. What comes back is heard by an
    /// [`IcmpEar`].
    Raw,
}

/// An ICMP or ICMPv6 socket.
///
/// The port of the addresses that it takes and gives has no meaning.
#[derive(Debug)]
pub struct IcmpSocket {
    /// How it was possible to make it.
    pub kind: IcmpKind,
    /// The identifier of its requests on the wire.
    pub id: u16,
    /// Carries whole ICMP messages where a UDP socket carries payloads.
    pub socket: UdpSocket,
}

/// How many [`IcmpEar`]s may share the identifiers of a family, each hearing its part of them; a power of two.
pub const EARS: u16 = 16;

/// Hears what comes back for raw sockets: the replies to echo requests whose identifier, modulo [`EARS`], is its own number,
/// and the errors about such requests, whoever has sent them. It cannot send, so that there is nothing to protect.
#[derive(Debug)]
pub struct IcmpEar {
    pub(crate) socket: UdpSocket,
}

impl IcmpEar {
    /// Waits until there may be something to [`Self::try_recv`].
    ///
    /// # Errors
    /// Those of the reactor.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// A message and who has sent it: of ICMP with the header of IPv4 before it, of ICMPv6 without.
    ///
    /// # Errors
    /// Those of `recvfrom(2)`; `WouldBlock` when there is none.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
        self.socket.try_recv_from(buffer).map(|(length, from)| (length, from.ip()))
    }
}
