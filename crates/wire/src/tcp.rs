//! TCP segments (RFC 9293) and their options.

use std::fmt;
use std::net::IpAddr;
use std::ops::BitOr;

use crate::{Malformed, be16, be32, checksum, ip::protocol};

/// Length of a TCP header without options.
pub const HEADER_LEN: usize = 20;
/// Length of the longest TCP header.
pub const MAX_HEADER_LEN: usize = 60;

/// The control bits of a TCP header (RFC 9293 3.1).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgment field is valid.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is valid.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    pub const fn intersects(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let mut separator = "";
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        if self.0 == 0 { f.write_str("-") } else { Ok(()) }
    }
}

/// A checked TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct TcpView<'a> {
    segment: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// Checks a segment: the payload of an IP packet.
    ///
    /// # Errors
    /// [`Malformed`] when it is shorter than its header, or its data offset is below 5 words. Options are not
    /// looked at: see [`TcpView::options`].
    pub fn parse(segment: &'a [u8]) -> Result<TcpView<'a>, Malformed> {
        Malformed::need("TCP header", HEADER_LEN, segment.len())?;
        let header_len = usize::from(segment[12] >> 4) * 4;
        if header_len < HEADER_LEN {
            return Err(Malformed::Length { what: "TCP header", value: header_len });
        }
        Malformed::need("TCP header", header_len, segment.len())?;
        Ok(TcpView { segment })
    }

    /// The source port.
    pub fn src_port(&self) -> u16 {
        be16(self.segment, 0)
    }

    /// The destination port.
    pub fn dst_port(&self) -> u16 {
        be16(self.segment, 2)
    }

    /// The sequence number: SEG.SEQ.
    pub fn seq(&self) -> u32 {
        be32(self.segment, 4)
    }

    /// The acknowledgment number: SEG.ACK. Means something only with [`Flags::ACK`].
    pub fn ack(&self) -> u32 {
        be32(self.segment, 8)
    }

    /// The control bits.
    pub fn flags(&self) -> Flags {
        Flags(self.segment[13])
    }

    /// The window field, not scaled.
    pub fn window(&self) -> u16 {
        be16(self.segment, 14)
    }

    /// The checksum field.
    pub fn checksum(&self) -> u16 {
        be16(self.segment, 16)
    }

    /// The urgent pointer. Means something only with [`Flags::URG`].
    pub fn urgent(&self) -> u16 {
        be16(self.segment, 18)
    }

    /// Length of the header with its options.
    pub fn header_len(&self) -> usize {
        usize::from(self.segment[12] >> 4) * 4
    }

    /// The data.
    pub fn payload(&self) -> &'a [u8] {
        &self.segment[self.header_len()..]
    }

    /// The length in sequence space: SEG.LEN, the data with SYN and FIN counted (RFC 9293 3.4).
    pub fn sequence_len(&self) -> u32 {
        let flags = self.flags();
        self.payload().len() as u32
            + u32::from(flags.contains(Flags::SYN))
            + u32::from(flags.contains(Flags::FIN))
    }

    /// The options as they stand, with what they are padded by.
    pub fn raw_options(&self) -> &'a [u8] {
        &self.segment[HEADER_LEN..self.header_len()]
    }

    /// The options, in their order.
    pub fn options(&self) -> TcpOptions<'a> {
        TcpOptions::new(&self.segment[HEADER_LEN..self.header_len()])
    }

    /// Whether the checksum is right for these addresses.
    pub fn checksum_valid(&self, src: IpAddr, dst: IpAddr) -> bool {
        checksum::transport_valid(src, dst, protocol::TCP, self.segment)
    }
}

/// One option of a TCP header. An option known by kind but not with its one right length is `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption<'a> {
    /// Maximum segment size in bytes (RFC 9293 3.7.1).
    Mss(u16),
    /// Window shift count (RFC 7323 2.2). Values above 14 must be used as 14; this is the value as sent.
    WindowScale(u8),
    /// SACK permitted (RFC 2018 2).
    SackPermitted,
    /// SACK blocks (RFC 2018 3).
    Sack(SackBlocks<'a>),
    /// Timestamps (RFC 7323 3.2).
    Timestamps {
        /// TSval: the sender's clock.
        value: u32,
        /// TSecr: the peer's clock sent back.
        echo: u32,
    },
    /// Any other.
    Unknown {
        /// The option's kind.
        kind: u8,
        /// Its data without kind and length.
        data: &'a [u8],
    },
}

/// The blocks of a SACK option, one to four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SackBlocks<'a>(&'a [[u8; 8]]);

impl<'a> SackBlocks<'a> {
    /// Left and right edge of each block: the first sequence number received and the first one after.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, u32)> + 'a {
        self.0.iter().map(|block| (be32(block, 0), be32(block, 4)))
    }
}

/// Iterates over TCP options; no-operation is passed over.
///
/// Ends at the end-of-options mark and at the first option whose length is impossible, as the Linux kernel does
/// (`tcp_parse_options` in `net/ipv4/tcp_input.c`); [`TcpOptions::is_malformed`] tells which.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    rest: &'a [u8],
    malformed: bool,
}

impl<'a> TcpOptions<'a> {
    /// Iterates over the bytes between the fixed header and the data.
    pub const fn new(options: &'a [u8]) -> TcpOptions<'a> {
        TcpOptions { rest: options, malformed: false }
    }

    /// Whether the iteration has met an option whose length is impossible.
    pub const fn is_malformed(&self) -> bool {
        self.malformed
    }
}

impl<'a> Iterator for TcpOptions<'a> {
    type Item = TcpOption<'a>;

    fn next(&mut self) -> Option<TcpOption<'a>> {
        const END: u8 = 0;
        const NO_OPERATION: u8 = 1;
        while let Some((&NO_OPERATION, rest)) = self.rest.split_first() {
            self.rest = rest;
        }
        let rest = std::mem::take(&mut self.rest);
        let &kind = rest.first()?;
        if kind == END {
            return None;
        }
        let len = rest.get(1).copied().unwrap_or(0).into();
        if len < 2 || len > rest.len() {
            self.malformed = true;
            return None;
        }
        let (option, rest) = rest.split_at(len);
        self.rest = rest;
        Some(read_option(kind, &option[2..]))
    }
}

fn read_option(kind: u8, data: &[u8]) -> TcpOption<'_> {
    match (kind, data.len()) {
        (2, 2) => TcpOption::Mss(be16(data, 0)),
        (3, 1) => TcpOption::WindowScale(data[0]),
        (4, 0) => TcpOption::SackPermitted,
        (5, 8 | 16 | 24 | 32) => TcpOption::Sack(SackBlocks(data.as_chunks().0)),
        (8, 8) => TcpOption::Timestamps { value: be32(data, 0), echo: be32(data, 4) },
        _ => TcpOption::Unknown { kind, data },
    }
}

#[cfg(test)]
mod tests;
