//! Packets made from nothing, with every checksum complete.
//!
//! The functions that take `buf` append to it, so that a caller can leave room for a `virtio_net_hdr`.

mod fragment;
mod icmp_error;
mod reply;

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, protocol};
use crate::{checksum, tcp, udp};

pub use fragment::fragments;
pub use icmp_error::{Unreachable, icmp_error_for};
pub use reply::{icmp_echo_reply, tcp_rst_for};

/// Hop limit of the packets made here: the IANA recommendation, and what Linux uses.
pub const HOP_LIMIT: u8 = 64;

/// Why a packet cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitError {
    /// Source and destination are of different families.
    Family,
    /// The packet would be longer than its length field can say.
    TooLong {
        /// Bytes behind the IP header.
        payload: usize,
    },
    /// The TCP options are not a multiple of 4 bytes, or longer than 40.
    Options {
        /// Their length in bytes.
        len: usize,
    },
    /// The MTU has no room for a fragment, or the packet must not be fragmented.
    Fragment,
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EmitError::Family => f.write_str("source and destination are of different IP versions"),
            EmitError::TooLong { payload } => write!(f, "{payload} bytes do not fit into one IP packet"),
            EmitError::Options { len } => {
                write!(f, "{len} bytes of TCP options: not a multiple of 4 up to 40")
            }
            EmitError::Fragment => f.write_str("the packet cannot be cut into fragments for this MTU"),
        }
    }
}

impl Error for EmitError {}

/// The fields of an IP header that are not the same in every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// The upper-layer protocol.
    pub protocol: u8,
    /// Hop limit, or time to live.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// IPv4: identification. Means something only without `dont_fragment` (RFC 6864).
    pub identification: u16,
    /// IPv4: the DF bit.
    pub dont_fragment: bool,
}

impl IpHeader {
    /// A header with [`HOP_LIMIT`], traffic class 0, and DF set.
    pub const fn new(src: IpAddr, dst: IpAddr, protocol: u8) -> IpHeader {
        IpHeader {
            src,
            dst,
            protocol,
            hop_limit: HOP_LIMIT,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        }
    }

    /// Length of the header in bytes: 20 or 40.
    pub const fn header_len(&self) -> usize {
        if self.dst.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
    }

    /// Writes the header in front of `payload_len` bytes into the first [`IpHeader::header_len`] bytes of `buf` and
    /// returns that length.
    ///
    /// # Errors
    /// [`EmitError::Family`], [`EmitError::TooLong`].
    ///
    /// # Panics
    /// When `buf` is shorter than [`IpHeader::header_len`].
    pub fn write(&self, buf: &mut [u8], payload_len: usize) -> Result<usize, EmitError> {
        let too_long = EmitError::TooLong { payload: payload_len };
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total =
                    u16::try_from(payload_len.saturating_add(IPV4_HEADER_LEN)).map_err(|_| too_long)?;
                let header = &mut buf[..IPV4_HEADER_LEN];
                header[0] = 0x45;
                header[1] = self.traffic_class;
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[4..6].copy_from_slice(&self.identification.to_be_bytes());
                header[6..8].copy_from_slice(&[if self.dont_fragment { 0x40 } else { 0 }, 0]);
                header[8] = self.hop_limit;
                header[9] = self.protocol;
                header[10..12].copy_from_slice(&[0, 0]);
                header[12..16].copy_from_slice(&src.octets());
                header[16..20].copy_from_slice(&dst.octets());
                let sum = checksum::sum(header);
                header[10..12].copy_from_slice(&(!sum).to_be_bytes());
                Ok(IPV4_HEADER_LEN)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let len = u16::try_from(payload_len).map_err(|_| too_long)?;
                let header = &mut buf[..IPV6_HEADER_LEN];
                header[..4].copy_from_slice(&(6 << 28 | u32::from(self.traffic_class) << 20).to_be_bytes());
                header[4..6].copy_from_slice(&len.to_be_bytes());
                header[6] = self.protocol;
                header[7] = self.hop_limit;
                header[8..24].copy_from_slice(&src.octets());
                header[24..40].copy_from_slice(&dst.octets());
                Ok(IPV6_HEADER_LEN)
            }
            _ => Err(EmitError::Family),
        }
    }
}

/// Appends an IP header for `payload_len` bytes, which the caller appends next.
///
/// # Errors
/// [`EmitError::Family`], [`EmitError::TooLong`]; `buf` is unchanged then.
pub fn ip_header(buf: &mut Vec<u8>, header: &IpHeader, payload_len: usize) -> Result<(), EmitError> {
    let mut bytes = [0; IPV6_HEADER_LEN];
    let len = header.write(&mut bytes, payload_len)?;
    buf.extend_from_slice(&bytes[..len]);
    Ok(())
}

/// Appends a whole UDP packet. IPv4: DF is not set and the packet has an identification, so that it may be
/// fragmented further on.
///
/// # Errors
/// [`EmitError::Family`], [`EmitError::TooLong`] for a payload above 65507 bytes in IPv4, 65527 in IPv6; `buf` is
/// unchanged then.
pub fn udp_datagram(
    buf: &mut Vec<u8>,
    src: SocketAddr,
    dst: SocketAddr,
    payload: &[u8],
) -> Result<(), EmitError> {
    let len = payload.len() + udp::HEADER_LEN;
    let mut udp_header = [0; udp::HEADER_LEN];
    udp_header[..2].copy_from_slice(&src.port().to_be_bytes());
    udp_header[2..4].copy_from_slice(&dst.port().to_be_bytes());
    udp_header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    let ck = checksum::Checksum::new()
        .pseudo(src.ip(), dst.ip(), protocol::UDP, len as u32)
        .bytes(&udp_header)
        .bytes(payload)
        .finish();
    udp_header[6..8].copy_from_slice(&checksum::udp_field(ck).to_be_bytes());
    let header = IpHeader {
        // Unlike in two datagrams that differ, which is all that reassembly asks of an identification.
        identification: ck,
        dont_fragment: false,
        ..IpHeader::new(src.ip(), dst.ip(), protocol::UDP)
    };
    ip_header(buf, &header, len)?;
    buf.extend_from_slice(&udp_header);
    buf.extend_from_slice(payload);
    Ok(())
}

/// The fields of a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHeader<'a> {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Control bits.
    pub flags: tcp::Flags,
    /// Window field.
    pub window: u16,
    /// Options in wire form, padded to a multiple of 4, at most 40 bytes.
    pub options: &'a [u8],
}

/// Appends a whole TCP packet, DF set.
///
/// # Errors
/// [`EmitError`]; `buf` is unchanged then.
pub fn tcp_segment(
    buf: &mut Vec<u8>,
    src: SocketAddr,
    dst: SocketAddr,
    header: &TcpHeader<'_>,
    payload: &[u8],
) -> Result<(), EmitError> {
    let options = header.options.len();
    if !options.is_multiple_of(4) || options > tcp::MAX_HEADER_LEN - tcp::HEADER_LEN {
        return Err(EmitError::Options { len: options });
    }
    let header_len = tcp::HEADER_LEN + options;
    let len = header_len + payload.len();
    ip_header(buf, &IpHeader::new(src.ip(), dst.ip(), protocol::TCP), len)?;
    let at = buf.len();
    buf.extend_from_slice(&src.port().to_be_bytes());
    buf.extend_from_slice(&dst.port().to_be_bytes());
    buf.extend_from_slice(&header.seq.to_be_bytes());
    buf.extend_from_slice(&header.ack.to_be_bytes());
    buf.extend_from_slice(&[(header_len as u8 / 4) << 4, header.flags.0]);
    buf.extend_from_slice(&header.window.to_be_bytes());
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(header.options);
    buf.extend_from_slice(payload);
    let ck = checksum::transport(src.ip(), dst.ip(), protocol::TCP, &buf[at..]);
    buf[at + 16..at + 18].copy_from_slice(&ck.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests;
