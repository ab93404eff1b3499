//! Sockets that send and receive ICMP echo.

use tokio::net::UdpSocket;

/// How the kernel presents ICMP to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpKind {
    /// `SOCK_DGRAM`: echo only; the kernel sets the identifier and the checksum and delivers only the replies
    /// to it. Received IPv4 datagrams begin with the ICMP header.
    Ping,
    /// `SOCK_RAW`: sees every ICMP message of the host. Received IPv4 datagrams begin with the IP header;
    /// IPv6 ones with the ICMPv6 header, whose checksum the kernel fills in on sending.
    Raw,
}

/// An ICMP or ICMPv6 socket.
///
/// The port of the addresses that it takes and gives has no meaning.
#[derive(Debug)]
pub struct IcmpSocket {
    /// How it was possible to make it.
    pub kind: IcmpKind,
    /// Carries whole ICMP messages where a UDP socket carries payloads.
    pub socket: UdpSocket,
}
