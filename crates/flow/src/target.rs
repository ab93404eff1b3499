//! Where a flow wants to go.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The transport that a flow uses, as seen at the capture point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// A TCP connection.
    Tcp,
    /// Datagrams from one client socket.
    Udp,
    /// ICMP or ICMPv6 echo requests of one identifier.
    Icmp,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// How a flow was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inbound {
    /// From a TUN device.
    Tun,
    /// By redirection.
    Redirect,
    /// By transparent interception.
    Tproxy,
}

/// How a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its transport.
    pub network: Network,
    /// The captured program's end.
    pub source: SocketAddr,
    /// How it was taken in.
    pub inbound: Inbound,
    /// The differentiated services code point of its first packet (RFC 2474).
    pub dscp: u8,
}

/// The destination of a flow: the address that the client dialled and, where one is known, the name behind it.
///
/// A proxy that resolves names itself is given the name; everything else uses the address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Destination address and port as found in the packet.
    pub addr: SocketAddr,
    /// Host name, if DNS or sniffing has told one. At most 255 bytes (RFC 1035, 2.3.4).
    pub host: Option<Arc<str>>,
}

impl Target {
    /// A target of which only the address is known.
    pub fn from_addr(addr: SocketAddr) -> Self {
        Self { addr, host: None }
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self::from_addr(addr)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{host}:{} ({})", self.addr.port(), self.addr.ip()),
            None => self.addr.fmt(f),
        }
    }
}
