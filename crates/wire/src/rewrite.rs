//! Addresses and ports of a packet changed in place: the hot path of the NAT.
//!
//! Nothing is summed but the bytes that change, so a 64 KiB superpacket costs what a SYN costs. A checksum that
//! was right is right afterwards and one that was wrong stays wrong: the receiver finds out, as without us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::ip::{IpView, Version, protocol};
use crate::{Malformed, be16, be32, checksum, tcp, udp};

/// Where the rewritable parts of a packet are, found once and used for the look-up and the rewriting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    version: Version,
    udp: bool,
    transport: u16,
}

impl Offsets {
    /// Finds them in a packet.
    ///
    /// # Errors
    /// Those of [`IpView::parse`] and of [`Offsets::of`].
    pub fn parse(packet: &[u8]) -> Result<Offsets, Malformed> {
        Offsets::of(&IpView::parse(packet)?)
    }

    /// Finds them in a packet already parsed.
    ///
    /// # Errors
    /// [`Malformed::Unsupported`] for what cannot be rewritten in one piece: fragments, protocols other than TCP
    /// and UDP, source routes not done (the checksum covers another destination) and packets under an
    /// authentication header; [`Malformed::Truncated`] for a transport header cut short.
    pub fn of(ip: &IpView<'_>) -> Result<Offsets, Malformed> {
        let unsupported = |what| Err(Malformed::Unsupported { what });
        if ip.is_partial() {
            return unsupported("a fragment");
        }
        if ip.source_routed() {
            return unsupported("a source route");
        }
        if ip.authenticated() {
            return unsupported("an authentication header");
        }
        let udp = match ip.protocol() {
            protocol::TCP => false,
            protocol::UDP => true,
            _ => return unsupported("a protocol without ports"),
        };
        let need = if udp { udp::HEADER_LEN } else { tcp::HEADER_LEN };
        Malformed::need("transport header", need, ip.payload().len())?;
        Ok(Offsets { version: ip.version(), udp, transport: ip.header_len() as u16 })
    }

    /// The IP version of the packet.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Whether the packet is UDP; otherwise it is TCP.
    pub const fn is_udp(&self) -> bool {
        self.udp
    }

    /// Offset of the TCP or UDP header.
    pub fn transport(&self) -> usize {
        self.transport.into()
    }

    /// Offset of the transport checksum.
    pub fn checksum_at(&self) -> usize {
        self.transport() + if self.udp { 6 } else { 16 }
    }

    fn end(&self) -> usize {
        self.transport() + if self.udp { udp::HEADER_LEN } else { tcp::HEADER_LEN }
    }

    /// Source and destination of the packet that these offsets were found in.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] for a packet shorter than that one's headers.
    pub fn endpoints(&self, packet: &[u8]) -> Result<(SocketAddr, SocketAddr), Malformed> {
        Malformed::need("packet", self.end(), packet.len())?;
        let ports = (be16(packet, self.transport()), be16(packet, self.transport() + 2));
        Ok(match self.version {
            Version::V4 => {
                let at = |at| IpAddr::from(Ipv4Addr::from_bits(be32(packet, at)));
                (SocketAddr::new(at(12), ports.0), SocketAddr::new(at(16), ports.1))
            }
            Version::V6 => {
                let at = |at: usize| {
                    let mut octets = [0; 16];
                    octets.copy_from_slice(&packet[at..at + 16]);
                    IpAddr::from(Ipv6Addr::from(octets))
                };
                (SocketAddr::new(at(8), ports.0), SocketAddr::new(at(24), ports.1))
            }
        })
    }
}

/// Gives a TCP or UDP packet new addresses and ports and updates its checksums.
///
/// `partial` says what the transport checksum field holds:
/// - `false`: a complete checksum. Addresses and ports change it (RFC 1624). A UDP checksum of 0, which is none,
///   stays 0, and one that becomes 0 is written as 0xffff (RFC 768).
/// - `true`: the sum of the pseudo-header, with the device to do the rest (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
///   Addresses change it, ports do not.
///
/// Flow label and scope of IPv6 socket addresses are not used.
///
/// # Errors
/// Those of [`Offsets::parse`], and [`Malformed::Family`] when an address is not of the packet's family. The
/// packet is unchanged then.
pub fn rewrite(
    packet: &mut [u8],
    new_src: SocketAddr,
    new_dst: SocketAddr,
    partial: bool,
) -> Result<(), Malformed> {
    let offsets = Offsets::parse(packet)?;
    rewrite_at(packet, &offsets, new_src, new_dst, partial)
}

/// [`rewrite`] for a packet whose offsets are known.
///
/// `offsets` must come from this very packet. Others give a wrong packet, though no panic.
///
/// # Errors
/// [`Malformed::Family`], and [`Malformed::Truncated`] when the packet is shorter than the one that was parsed.
/// The packet is unchanged then.
pub fn rewrite_at(
    packet: &mut [u8],
    offsets: &Offsets,
    new_src: SocketAddr,
    new_dst: SocketAddr,
    partial: bool,
) -> Result<(), Malformed> {
    Malformed::need("packet", offsets.end(), packet.len())?;
    let (old, new) = match (offsets.version, new_src, new_dst) {
        (Version::V4, SocketAddr::V4(src), SocketAddr::V4(dst)) => addresses_v4(packet, src, dst),
        (Version::V6, SocketAddr::V6(src), SocketAddr::V6(dst)) => addresses_v6(packet, src, dst),
        _ => return Err(Malformed::Family),
    };
    let at = offsets.transport();
    let old_ports = [be16(packet, at), be16(packet, at + 2)];
    let new_ports = [new_src.port(), new_dst.port()];
    packet[at..at + 2].copy_from_slice(&new_ports[0].to_be_bytes());
    packet[at + 2..at + 4].copy_from_slice(&new_ports[1].to_be_bytes());

    let at = offsets.checksum_at();
    let field = be16(packet, at);
    let updated = if partial {
        checksum::partial_update16(field, old, new)
    } else if offsets.udp && field == 0 {
        0
    } else {
        let old = checksum::combine(old, checksum::combine(old_ports[0], old_ports[1]));
        let new = checksum::combine(new, checksum::combine(new_ports[0], new_ports[1]));
        let updated = checksum::update16(field, old, new);
        if offsets.udp { checksum::udp_field(updated) } else { updated }
    };
    packet[at..at + 2].copy_from_slice(&updated.to_be_bytes());
    Ok(())
}

/// Writes IPv4 addresses, updates the header checksum, and returns the sums of the old and the new addresses.
fn addresses_v4(packet: &mut [u8], src: SocketAddrV4, dst: SocketAddrV4) -> (u16, u16) {
    let address = |bits: u32| checksum::addr(Ipv4Addr::from_bits(bits).into());
    let old = checksum::combine(address(be32(packet, 12)), address(be32(packet, 16)));
    let new = checksum::combine(checksum::addr((*src.ip()).into()), checksum::addr((*dst.ip()).into()));
    packet[12..16].copy_from_slice(&src.ip().octets());
    packet[16..20].copy_from_slice(&dst.ip().octets());
    let header_checksum = checksum::update16(be16(packet, 10), old, new);
    packet[10..12].copy_from_slice(&header_checksum.to_be_bytes());
    (old, new)
}

/// Writes IPv6 addresses and returns the sums of the old and the new ones.
fn addresses_v6(packet: &mut [u8], src: SocketAddrV6, dst: SocketAddrV6) -> (u16, u16) {
    let old = checksum::sum(&packet[8..40]);
    packet[8..24].copy_from_slice(&src.ip().octets());
    packet[24..40].copy_from_slice(&dst.ip().octets());
    (old, checksum::sum(&packet[8..40]))
}

#[cfg(test)]
mod tests;
