//! ICMP messages of both families (RFC 792, RFC 4443).

use std::net::IpAddr;

use crate::ip::{Version, protocol};
use crate::{Malformed, be16, be32, checksum};

/// Length of the part every ICMP message has.
pub const HEADER_LEN: usize = 8;

/// What an ICMP message says, in words common to both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// Echo request.
    EchoRequest {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// The data to be sent back.
        data: &'a [u8],
    },
    /// Echo reply.
    EchoReply {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// The data of the request.
        data: &'a [u8],
    },
    /// An error about a packet that the receiver of this message sent.
    Error {
        /// What went wrong.
        error: Error,
        /// The front of that packet: for [`crate::ip::IpView::parse_quoted`].
        quoted: &'a [u8],
    },
    /// Anything else, among it all of neighbour discovery.
    Other,
}

/// The error messages, in words common to both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error {
    /// Destination unreachable: network, or in IPv6 no route.
    Net,
    /// Destination unreachable: host, or in IPv6 the address.
    Host,
    /// Destination unreachable: protocol; in IPv6 an unrecognised next header.
    Protocol,
    /// Destination unreachable: port.
    Port,
    /// Destination unreachable: administratively prohibited, also by policy.
    AdminProhibited,
    /// Fragmentation needed (RFC 1191), or packet too big.
    PacketTooBig {
        /// The next hop's MTU in bytes; 0 from a router older than RFC 1191.
        mtu: u32,
    },
    /// Time exceeded in transit.
    TtlExceeded,
    /// Time exceeded in reassembly.
    ReassemblyTimeExceeded,
    /// Any other error: redirect, parameter problem, source quench, or a code not named above.
    Other {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

/// A checked ICMP message.
#[derive(Clone, Copy, Debug)]
pub struct IcmpView<'a> {
    version: Version,
    message: &'a [u8],
}

impl<'a> IcmpView<'a> {
    /// Checks an ICMP message: the payload of an IPv4 packet.
    ///
    /// # Errors
    /// [`Malformed`] when it is shorter than 8 bytes.
    pub fn parse_v4(message: &'a [u8]) -> Result<IcmpView<'a>, Malformed> {
        Malformed::need("ICMP message", HEADER_LEN, message.len())?;
        Ok(IcmpView { version: Version::V4, message })
    }

    /// Checks an ICMPv6 message: the payload of an IPv6 packet.
    ///
    /// # Errors
    /// [`Malformed`] when it is shorter than 8 bytes. RFC 4443 would allow four, but defines no such message.
    pub fn parse_v6(message: &'a [u8]) -> Result<IcmpView<'a>, Malformed> {
        Malformed::need("ICMPv6 message", HEADER_LEN, message.len())?;
        Ok(IcmpView { version: Version::V6, message })
    }

    /// The family.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The type field.
    pub const fn kind(&self) -> u8 {
        self.message[0]
    }

    /// The code field.
    pub const fn code(&self) -> u8 {
        self.message[1]
    }

    /// The checksum field.
    pub fn checksum(&self) -> u16 {
        be16(self.message, 2)
    }

    /// The whole message.
    pub const fn bytes(&self) -> &'a [u8] {
        self.message
    }

    /// What follows the first 8 bytes.
    pub fn body(&self) -> &'a [u8] {
        &self.message[HEADER_LEN..]
    }

    /// Whether the checksum is right. The addresses count in ICMPv6 only (RFC 4443 2.3).
    pub fn checksum_valid(&self, src: IpAddr, dst: IpAddr) -> bool {
        match self.version {
            Version::V4 => checksum::sum(self.message) == 0xffff,
            Version::V6 => checksum::transport_valid(src, dst, protocol::ICMPV6, self.message),
        }
    }

    /// Whether it is an error message or a redirect, about which no ICMP error may be sent (RFC 1122 3.2.2,
    /// RFC 4443 2.4 e).
    pub const fn is_error(&self) -> bool {
        match self.version {
            Version::V4 => matches!(self.kind(), 3 | 4 | 5 | 11 | 12),
            Version::V6 => self.kind() < 128 || self.kind() == 137,
        }
    }

    /// What it says.
    pub fn message(&self) -> Message<'a> {
        let (id, seq, data) = (be16(self.message, 4), be16(self.message, 6), self.body());
        match (self.version, self.kind()) {
            (Version::V4, 8) | (Version::V6, 128) => Message::EchoRequest { id, seq, data },
            (Version::V4, 0) | (Version::V6, 129) => Message::EchoReply { id, seq, data },
            // A redirect of ICMPv6 quotes in an option, not here.
            (Version::V6, 137) => Message::Other,
            _ if self.is_error() => Message::Error { error: self.error(), quoted: data },
            _ => Message::Other,
        }
    }

    fn error(&self) -> Error {
        let (kind, code) = (self.kind(), self.code());
        match self.version {
            Version::V4 => match (kind, code) {
                (3, 0 | 6 | 11) => Error::Net,
                (3, 1 | 7 | 8 | 12) => Error::Host,
                (3, 2) => Error::Protocol,
                (3, 3) => Error::Port,
                (3, 4) => Error::PacketTooBig { mtu: be16(self.message, 6).into() },
                (3, 9 | 10 | 13) => Error::AdminProhibited,
                (11, 0) => Error::TtlExceeded,
                (11, 1) => Error::ReassemblyTimeExceeded,
                _ => Error::Other { kind, code },
            },
            Version::V6 => match (kind, code) {
                (1, 0) => Error::Net,
                (1, 1 | 5 | 6) => Error::AdminProhibited,
                (1, 3) => Error::Host,
                (1, 4) => Error::Port,
                (2, _) => Error::PacketTooBig { mtu: be32(self.message, 4) },
                (3, 0) => Error::TtlExceeded,
                (3, 1) => Error::ReassemblyTimeExceeded,
                (4, 1) => Error::Protocol,
                _ => Error::Other { kind, code },
            },
        }
    }
}

#[cfg(test)]
mod tests;
