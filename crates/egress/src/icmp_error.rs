//! ICMP errors about datagrams that were sent, read from the socket's error queue.

use std::net::{IpAddr, SocketAddr};

#[cfg(target_os = "linux")]
#[path = "icmp_error/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "icmp_error/unsupported.rs"]
mod os;

pub(crate) use os::enable;
pub use os::{next_error, recv_error, try_error};

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

impl IcmpErrorKind {
    /// What an ICMP message of this type and code says (RFC 792; RFC 1812, 5.2.7.1).
    pub fn of_v4(ty: u8, code: u8) -> Self {
        match (ty, code) {
            (3, 0 | 6 | 11) => Self::Net,
            (3, 1 | 5 | 7 | 8 | 12) => Self::Host,
            (3, 2) => Self::Protocol,
            (3, 3) => Self::Port,
            (3, 4) => Self::TooBig,
            (3, 9 | 10 | 13) => Self::AdminProhibited,
            (11, _) => Self::TtlExceeded,
            _ => Self::Other { ty, code },
        }
    }

    /// What an ICMPv6 message of this type and code says (RFC 4443, section 3).
    pub fn of_v6(ty: u8, code: u8) -> Self {
        match (ty, code) {
            (1, 0) => Self::Net,
            (1, 2 | 3) => Self::Host,
            (1, 1 | 5 | 6) => Self::AdminProhibited,
            (1, 4) => Self::Port,
            (2, _) => Self::TooBig,
            (3, _) => Self::TtlExceeded,
            (4, 1) => Self::Protocol,
            _ => Self::Other { ty, code },
        }
    }
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
