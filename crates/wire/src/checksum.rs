//! The Internet checksum: RFC 1071 sums, RFC 1624 incremental updates, and the partial checksums of
//! `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
//!
//! Three different 16-bit values travel under the name "checksum"; the functions here say which they mean:
//! - a **sum**: the folded ones' complement sum, not inverted. Sums of parts can be [`combine`]d.
//! - a **checksum**: the inverted sum, as it stands in a header.
//! - a **partial** checksum: what stands in the transport header while the checksum is still to be done by the
//!   device: the sum of the pseudo-header, not inverted.
//!
//! A sum is zero only when every byte summed is zero; 0xffff is the other zero of ones' complement arithmetic.
//! Updates keep to that, so an updated checksum is bit for bit the one a full computation gives (RFC 1624 3).

use std::net::IpAddr;

/// An accumulator for data that lies in several pieces.
///
/// Every piece but the last must have an even length, as each starts at an even offset of the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(u32);

impl Checksum {
    /// Starts from zero.
    pub const fn new() -> Checksum {
        Checksum(0)
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(self, data: &[u8]) -> Checksum {
        self.word(sum(data))
    }

    /// Adds one 16-bit word, or a folded sum.
    #[must_use]
    pub const fn word(self, word: u16) -> Checksum {
        Checksum(fold(self.0 as u64) as u32 + word as u32)
    }

    /// Adds the pseudo-header, see [`pseudo`].
    #[must_use]
    pub fn pseudo(self, src: IpAddr, dst: IpAddr, proto: u8, len: u32) -> Checksum {
        self.word(pseudo(src, dst, proto, len))
    }

    /// The sum, not inverted.
    pub const fn sum(self) -> u16 {
        fold(self.0 as u64)
    }

    /// The checksum for the header: the inverted sum.
    pub const fn finish(self) -> u16 {
        !self.sum()
    }
}

/// Folds the carries of a ones' complement sum back in (RFC 1071 2, step 4).
const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Ones' complement addition of 64-bit words.
#[inline(always)]
const fn add64(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// The sum of `data` as 16-bit network-order words; an odd last byte is padded with zero. Not inverted.
///
/// Ones' complement addition does not care about byte order (RFC 1071 2 B), so this adds native 64-bit words
/// with end-around carry, in four chains that do not wait for each other, and swaps the result once.
pub fn sum(data: &[u8]) -> u16 {
    let (blocks, rest) = data.as_chunks::<32>();
    let mut lanes = [0u64; 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = add64(*lane, u64::from_ne_bytes(*word));
        }
    }
    let mut total = add64(add64(lanes[0], lanes[1]), add64(lanes[2], lanes[3]));
    let (words, mut rest) = rest.as_chunks::<8>();
    for word in words {
        total = add64(total, u64::from_ne_bytes(*word));
    }
    // At most 7 bytes are left, so these few additions cannot overflow once folded.
    let mut tail = u64::from(fold(total));
    if let Some((word, after)) = rest.split_first_chunk::<4>() {
        tail += u64::from(u32::from_ne_bytes(*word));
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk::<2>() {
        tail += u64::from(u16::from_ne_bytes(*word));
        rest = after;
    }
    if let [last] = rest {
        tail += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u16::from_be(fold(tail))
}

/// The sum of an address.
pub fn addr(addr: IpAddr) -> u16 {
    match addr {
        IpAddr::V4(addr) => fold(u64::from(addr.to_bits())),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            fold(add64((bits >> 64) as u64, bits as u64))
        }
    }
}

/// The sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1). `len` is the length of the transport header and
/// its data in bytes. Both addresses must be of one family.
pub fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: u32) -> u16 {
    fold(u64::from(addr(src)) + u64::from(addr(dst)) + u64::from(proto) + u64::from(len))
}

/// The sum of two sums. The part summed in `b` must have started at an even offset.
pub const fn combine(a: u16, b: u16) -> u16 {
    fold(a as u64 + b as u64)
}

/// The complete checksum of a transport segment whose checksum field is zero.
///
/// For UDP a result of zero must be sent as 0xffff: see [`udp_field`].
pub fn transport(src: IpAddr, dst: IpAddr, proto: u8, segment: &[u8]) -> u16 {
    !combine(pseudo(src, dst, proto, segment.len() as u32), sum(segment))
}

/// Whether the checksum inside `segment` is right. A UDP checksum of zero, which means none, is the caller's
/// case.
pub fn transport_valid(src: IpAddr, dst: IpAddr, proto: u8, segment: &[u8]) -> bool {
    // 0 cannot come out: the protocol number in the pseudo-header is not zero.
    combine(pseudo(src, dst, proto, segment.len() as u32), sum(segment)) == 0xffff
}

/// What is written into the UDP header for the checksum `ck`: zero there would mean "none" (RFC 768).
pub const fn udp_field(ck: u16) -> u16 {
    if ck == 0 { 0xffff } else { ck }
}

/// The checksum `ck` after the sum of some of its words went from `old` to `new`: RFC 1624 equation 3,
/// `HC' = ~(~HC + ~m + m')`. `old` and `new` may be single words or sums of many.
pub const fn update16(ck: u16, old: u16, new: u16) -> u16 {
    !partial_update16(!ck, old, new)
}

/// The checksum `ck` after an address it covers was changed.
pub fn update_addr(ck: u16, old: IpAddr, new: IpAddr) -> u16 {
    update16(ck, addr(old), addr(new))
}

/// The partial checksum (a sum, not inverted) after the sum of some of its words went from `old` to `new`.
pub const fn partial_update16(partial: u16, old: u16, new: u16) -> u16 {
    fold(partial as u64 + !old as u64 + new as u64)
}

/// The partial checksum after an address of the pseudo-header was changed. Ports do not change a partial
/// checksum: they are summed by the device later.
pub fn partial_update_addr(partial: u16, old: IpAddr, new: IpAddr) -> u16 {
    partial_update16(partial, addr(old), addr(new))
}

#[cfg(test)]
mod tests;
