//! ICMP errors about datagrams that were sent, read from the socket's error queue.

use std::net::{IpAddr, SocketAddr};

#[cfg(target_os = "linux")]
#[path = "icmp_error/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "icmp_error/unsupported.rs"]
mod os;

pub(crate) use os::enable;
pub use os::{next_error, recv_error};

/// At most this many bytes of the offending datagram's payload are kept.
pub const QUOTE_MAX: usize = 64;

/// What an ICMP or ICMPv6 error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IcmpErrorKind {
    /// Network unreachable, no route.
    Net,
    /// Host or address unreachable.
    Host,
    /// Port unreachable.
    Port,
    /// Protocol unreachable.
    Protocol,
    /// Administratively prohibited, rejected by policy.
    AdminProhibited,
    /// Fragmentation needed, packet too big; [`IcmpErrorEvent::mtu`] says what fits.
    TooBig,
    /// Time to live or hop limit exceeded.
    TtlExceeded,
    /// Any other message.
    Other {
        /// ICMP type.
        ty: u8,
        /// ICMP code.
        code: u8,
    },
}

/// An error about a datagram that this socket has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpErrorEvent {
    /// Where the datagram was going.
    pub dst: SocketAddr,
    /// What went wrong.
    pub kind: IcmpErrorKind,
    /// Who said so; none if this host itself found out.
    pub offender: Option<IpAddr>,
    /// Path MTU in bytes, IP header included, for [`IcmpErrorKind::TooBig`].
    pub mtu: Option<u32>,
    pub(crate) quote: [u8; QUOTE_MAX],
    pub(crate) quoted: usize,
}

impl IcmpErrorEvent {
    /// The first bytes of the payload of the datagram, as far as the error quoted them; at most [`QUOTE_MAX`].
    pub fn payload_prefix(&self) -> &[u8] {
        &self.quote[..self.quoted.min(QUOTE_MAX)]
    }
}

/// RFC 792 and RFC 1812, 5.2.7.1.
pub(crate) fn kind_v4(ty: u8, code: u8) -> IcmpErrorKind {
    match (ty, code) {
        (3, 0 | 6 | 11) => IcmpErrorKind::Net,
        (3, 1 | 5 | 7 | 8 | 12) => IcmpErrorKind::Host,
        (3, 2) => IcmpErrorKind::Protocol,
        (3, 3) => IcmpErrorKind::Port,
        (3, 4) => IcmpErrorKind::TooBig,
        (3, 9 | 10 | 13) => IcmpErrorKind::AdminProhibited,
        (11, _) => IcmpErrorKind::TtlExceeded,
        _ => IcmpErrorKind::Other { ty, code },
    }
}

/// RFC 4443, section 3.
pub(crate) fn kind_v6(ty: u8, code: u8) -> IcmpErrorKind {
    match (ty, code) {
        (1, 0) => IcmpErrorKind::Net,
        (1, 2 | 3) => IcmpErrorKind::Host,
        (1, 1 | 5 | 6) => IcmpErrorKind::AdminProhibited,
        (1, 4) => IcmpErrorKind::Port,
        (2, _) => IcmpErrorKind::TooBig,
        (3, _) => IcmpErrorKind::TtlExceeded,
        (4, 1) => IcmpErrorKind::Protocol,
        _ => IcmpErrorKind::Other { ty, code },
    }
}
