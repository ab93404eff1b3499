//! UDP datagrams (RFC 768).

use std::net::IpAddr;

use crate::{Malformed, be16, checksum, ip::protocol};

/// Length of the UDP header.
pub const HEADER_LEN: usize = 8;

/// A checked UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct UdpView<'a> {
    /// Cut to the length of the header field.
    datagram: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// Checks a datagram: the payload of an IP packet. Bytes behind the stated length are ignored.
    ///
    /// # Errors
    /// [`Malformed`] when it is shorter than its header or than its length field, or when the length field is
    /// below 8 (with 0, a jumbogram, among them).
    pub fn parse(datagram: &'a [u8]) -> Result<UdpView<'a>, Malformed> {
        Malformed::need("UDP header", HEADER_LEN, datagram.len())?;
        let len = usize::from(be16(datagram, 4));
        if len < HEADER_LEN {
            return Err(Malformed::Length { what: "UDP length", value: len });
        }
        Malformed::need("UDP datagram", len, datagram.len())?;
        Ok(UdpView { datagram: &datagram[..len] })
    }

    /// The source port.
    pub fn src_port(&self) -> u16 {
        be16(self.datagram, 0)
    }

    /// The destination port.
    pub fn dst_port(&self) -> u16 {
        be16(self.datagram, 2)
    }

    /// The length of header and payload.
    pub const fn total_len(&self) -> usize {
        self.datagram.len()
    }

    /// The checksum field; 0 means that there is none.
    pub fn checksum(&self) -> u16 {
        be16(self.datagram, 6)
    }

    /// The payload.
    pub fn payload(&self) -> &'a [u8] {
        &self.datagram[HEADER_LEN..]
    }

    /// Whether the checksum is right for these addresses. None at all is right over IPv4 and wrong over IPv6
    /// (RFC 8200 8.1).
    pub fn checksum_valid(&self, src: IpAddr, dst: IpAddr) -> bool {
        match self.checksum() {
            0 => src.is_ipv4(),
            _ => checksum::transport_valid(src, dst, protocol::UDP, self.datagram),
        }
    }
}

#[cfg(test)]
mod tests;
