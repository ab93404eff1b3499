//! What a device without offload leaves to be done: [`segment`] cuts superpackets on their way out, [`Coalescer`] joins
//! packets on their way in.
//!
//! A superpacket costs one system call and one walk through the stack where its pieces cost forty. So the stack makes
//! and takes superpackets on every device, and where the device knows none they are cut and joined at its edge.
//!
//! What [`Coalescer`] has joined, [`segment`] cuts into the same bytes again, but for the identification of IPv4 packets
//! that all had the same one.

mod coalesce;
mod segment;

pub use coalesce::{Coalescer, MAX_FRAME};
pub use segment::segment;

use oneway_wire::checksum;
use oneway_wire::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpView};

/// Big-endian 16 bits at `at`. The caller has checked the length.
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Big-endian 32 bits at `at`. The caller has checked the length.
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Sets the length field of an IP header to that of `packet`, at most 65535 bytes, and makes its checksum anew.
fn set_ip_length(packet: &mut [u8], ip_len: usize) {
    let len = packet.len();
    if packet[0] >> 4 == 4 {
        put16(packet, 2, len as u16);
        put16(packet, 10, 0);
        let sum = checksum::sum(&packet[..ip_len]);
        put16(packet, 10, !sum);
    } else {
        put16(packet, 4, (len - IPV6_HEADER_LEN) as u16);
    }
}

/// The sum of the pseudo-header of a packet whose header says nothing yet of its new length.
fn pseudo(ip: &IpView<'_>, segment_len: usize) -> u16 {
    checksum::pseudo(ip.src(), ip.dst(), ip.protocol(), segment_len as u32)
}

/// Length of an IP header with no options and no extension headers.
const fn plain_ip_len(v4: bool) -> usize {
    if v4 { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
}

#[cfg(test)]
mod tests;
