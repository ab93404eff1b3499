//! `struct virtio_net_hdr` in front of every packet of a TUN opened with `IFF_VNET_HDR`
//! (`include/uapi/linux/virtio_net.h`).

use crate::{Malformed, checksum};

/// Length of the header on a TUN whose `TUNSETVNETHDRSZ` was not called.
pub const HEADER_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum at `csum_start + csum_offset` is partial.
pub const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum was verified by the device.
pub const DATA_VALID: u8 = 2;

/// `VIRTIO_NET_HDR_GSO_ECN`: the bit beside the type that says the TCP superpacket has CWR set.
const GSO_ECN: u8 = 0x80;

/// What kind of superpacket it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gso {
    /// An ordinary packet.
    #[default]
    None,
    /// TCP over IPv4; `ecn` when CWR is set in the first segment.
    TcpV4 {
        /// `VIRTIO_NET_HDR_GSO_ECN`.
        ecn: bool,
    },
    /// TCP over IPv6.
    TcpV6 {
        /// `VIRTIO_NET_HDR_GSO_ECN`.
        ecn: bool,
    },
    /// UDP of either family, to be sent as datagrams of `gso_size` bytes of payload each.
    UdpL4,
}

impl Gso {
    /// The value of the `gso_type` field.
    pub const fn to_raw(self) -> u8 {
        match self {
            Gso::None => 0,
            Gso::TcpV4 { ecn } => 1 | if ecn { GSO_ECN } else { 0 },
            Gso::TcpV6 { ecn } => 4 | if ecn { GSO_ECN } else { 0 },
            Gso::UdpL4 => 5,
        }
    }

    /// Reads the `gso_type` field. `None` for what was never asked for with `TUNSETOFFLOAD`: UFO (3), tunnels
    /// and types unknown.
    pub const fn from_raw(raw: u8) -> Option<Gso> {
        let ecn = raw & GSO_ECN != 0;
        match raw & !GSO_ECN {
            0 if !ecn => Some(Gso::None),
            1 => Some(Gso::TcpV4 { ecn }),
            4 => Some(Gso::TcpV6 { ecn }),
            5 if !ecn => Some(Gso::UdpL4),
            _ => None,
        }
    }
}

/// `struct virtio_net_hdr`. Offsets count from the first byte of the IP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VirtioNetHdr {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// The raw `gso_type`: see [`VirtioNetHdr::gso`].
    pub gso_type: u8,
    /// Length of the headers of a superpacket; a hint.
    pub hdr_len: u16,
    /// Bytes of payload per segment of a superpacket.
    pub gso_size: u16,
    /// Where the checksum's bytes start.
    pub csum_start: u16,
    /// Where the checksum is, from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioNetHdr {
    /// Reads the header in native byte order, which a TUN uses unless `TUNSETVNETLE` or `TUNSETVNETBE` was
    /// called.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> VirtioNetHdr {
        Self::decode_with(bytes, u16::from_ne_bytes)
    }

    /// Reads the header in little-endian order, as of virtio 1 and `TUNSETVNETLE`.
    pub fn decode_le(bytes: &[u8; HEADER_LEN]) -> VirtioNetHdr {
        Self::decode_with(bytes, u16::from_le_bytes)
    }

    fn decode_with(bytes: &[u8; HEADER_LEN], word: fn([u8; 2]) -> u16) -> VirtioNetHdr {
        let at = |at: usize| word([bytes[at], bytes[at + 1]]);
        VirtioNetHdr {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: at(2),
            gso_size: at(4),
            csum_start: at(6),
            csum_offset: at(8),
        }
    }

    /// Writes the header in native byte order.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        self.encode_with(u16::to_ne_bytes)
    }

    /// Writes the header in little-endian order.
    pub fn encode_le(&self) -> [u8; HEADER_LEN] {
        self.encode_with(u16::to_le_bytes)
    }

    fn encode_with(&self, word: fn(u16) -> [u8; 2]) -> [u8; HEADER_LEN] {
        let [a, b] = word(self.hdr_len);
        let [c, d] = word(self.gso_size);
        let [e, f] = word(self.csum_start);
        let [g, h] = word(self.csum_offset);
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Whether the transport checksum is partial.
    pub const fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// The kind of superpacket.
    ///
    /// # Errors
    /// [`Malformed::Unsupported`] for a type that was not asked for.
    pub fn gso(&self) -> Result<Gso, Malformed> {
        Gso::from_raw(self.gso_type).ok_or(Malformed::Unsupported { what: "a virtio gso_type not asked for" })
    }

    /// Checks the header against the packet behind it, which has `packet_len` bytes, as `tun_vnet_hdr_get` in
    /// `drivers/net/tun_vnet.h` and `virtio_net_hdr_to_skb` in `include/linux/virtio_net.h` do.
    ///
    /// # Errors
    /// [`Malformed`] when the gso type is unknown, a superpacket has no segment size or headers longer than
    /// itself, or the checksum lies outside the packet.
    pub fn check(&self, packet_len: usize) -> Result<(), Malformed> {
        if self.needs_csum() {
            Malformed::need("virtio checksum range", self.checksum_at() + 2, packet_len)?;
        }
        if self.gso()? != Gso::None {
            if self.gso_size == 0 {
                return Err(Malformed::Length { what: "virtio gso_size", value: 0 });
            }
            Malformed::need("virtio hdr_len", self.hdr_len.into(), packet_len)?;
        }
        Ok(())
    }

    fn checksum_at(&self) -> usize {
        usize::from(self.csum_start) + usize::from(self.csum_offset)
    }
}

/// Finishes the partial checksum of `packet` in software, if it has one. `skb_checksum_help` in
/// `net/core/dev.c` is the same: from `csum_start` to the end, the field with its partial sum included, and
/// 0xffff for 0, which is right for UDP and does no harm to TCP.
///
/// The header is then to be sent, or treated, as without [`NEEDS_CSUM`]. For an ordinary packet; the segments of
/// a superpacket have checksums of their own.
///
/// # Errors
/// [`Malformed`] when [`VirtioNetHdr::check`] fails. The packet is unchanged then.
pub fn complete_checksum(hdr: &VirtioNetHdr, packet: &mut [u8]) -> Result<(), Malformed> {
    hdr.check(packet.len())?;
    if !hdr.needs_csum() {
        return Ok(());
    }
    let at = hdr.checksum_at();
    let sum = checksum::sum(&packet[usize::from(hdr.csum_start)..]);
    packet[at..at + 2].copy_from_slice(&checksum::udp_field(!sum).to_be_bytes());
    Ok(())
}

/// The header for an ordinary TCP or UDP packet with a partial checksum.
pub const fn partial_checksum(transport: u16, udp: bool) -> VirtioNetHdr {
    VirtioNetHdr {
        flags: NEEDS_CSUM,
        gso_type: 0,
        hdr_len: 0,
        gso_size: 0,
        csum_start: transport,
        csum_offset: if udp { 6 } else { 16 },
    }
}

#[cfg(test)]
mod tests;
