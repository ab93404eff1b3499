//! A packet cut into fragments.

use super::EmitError;
use crate::checksum;
use crate::ip::{IPV6_HEADER_LEN, IpView, Version, protocol};

/// Length of the IPv6 fragment header.
const FRAGMENT_HEADER_LEN: usize = 8;

/// Cuts `packet` into fragments of at most `mtu` bytes, in order (RFC 791 2.3, RFC 8200 4.5). A packet that fits
/// is returned alone and unchanged.
///
/// `id` is the identification of the IPv6 fragments; IPv4 has its own in the packet. In IPv4 all options are
/// repeated in every fragment. In IPv6 there must be no extension headers, as in all that is emitted here.
///
/// # Errors
/// [`EmitError::Fragment`] when the packet is malformed or itself a fragment, has DF set (IPv4) or extension
/// headers (IPv6), or when `mtu` has no room for 8 bytes of payload.
pub fn fragments(packet: &[u8], mtu: usize, id: u32) -> Result<Vec<Vec<u8>>, EmitError> {
    let ip = IpView::parse(packet).map_err(|_| EmitError::Fragment)?;
    if ip.total_len() <= mtu {
        return Ok(vec![ip.packet().to_vec()]);
    }
    let v6 = ip.version() == Version::V6;
    if ip.fragment().is_some() || (!v6 && ip.dont_fragment()) || (v6 && ip.header_len() != IPV6_HEADER_LEN) {
        return Err(EmitError::Fragment);
    }
    let header = &ip.packet()[..ip.header_len()];
    let overhead = header.len() + if v6 { FRAGMENT_HEADER_LEN } else { 0 };
    let room = mtu.saturating_sub(overhead) & !7;
    if room == 0 {
        return Err(EmitError::Fragment);
    }
    let count = ip.payload().len().div_ceil(room);
    let pieces = ip.payload().chunks(room).enumerate().map(|(index, piece)| {
        // At most 65535, the longest payload.
        let offset = (index * room) as u16;
        let more = index + 1 < count;
        let mut fragment = Vec::with_capacity(overhead + piece.len());
        fragment.extend_from_slice(header);
        match ip.version() {
            Version::V4 => {
                let field = offset >> 3 | if more { 0x2000 } else { 0 };
                let total = (overhead + piece.len()) as u16;
                fragment[2..4].copy_from_slice(&total.to_be_bytes());
                fragment[6..8].copy_from_slice(&field.to_be_bytes());
                fragment[10..12].copy_from_slice(&[0, 0]);
                let ck = !checksum::sum(&fragment);
                fragment[10..12].copy_from_slice(&ck.to_be_bytes());
            }
            Version::V6 => {
                let len = (FRAGMENT_HEADER_LEN + piece.len()) as u16;
                fragment[4..6].copy_from_slice(&len.to_be_bytes());
                fragment[6] = protocol::FRAGMENT;
                fragment.extend_from_slice(&[ip.protocol(), 0]);
                fragment.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
                fragment.extend_from_slice(&id.to_be_bytes());
            }
        }
        fragment.extend_from_slice(piece);
        fragment
    });
    Ok(pieces.collect())
}
