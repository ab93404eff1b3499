//! Views and emitters of the headers that pass through the TUN device: IPv4, IPv6, TCP, UDP, ICMP and the
//! `virtio_net_hdr` in front of them.
//!
//! Everything here is a pure function of bytes: no I/O, no clock, no allocation but in the emitters. A view is
//! made by a `parse` that checks every length once; its accessors cannot fail afterwards. Whatever the network
//! can send is a [`Malformed`], never a panic: each parser has a fuzz target in `fuzz/`.
//!
//! - [`ip`]: one view for both families, which walks the IPv6 extension headers.
//! - [`tcp`], [`udp`], [`icmp`]: views of what an [`ip::IpView::payload`] holds.
//! - [`checksum`]: RFC 1071 sums and RFC 1624 updates.
//! - [`rewrite`]: addresses and ports changed in place, the hot path of the NAT.
//! - [`emit`]: whole packets with complete checksums: datagrams, segments, resets, ICMP errors, echo replies,
//!   fragments.
//! - [`virtio`]: the offload header of `IFF_VNET_HDR`.

#![forbid(unsafe_code)]

pub mod checksum;
pub mod emit;
pub mod icmp;
pub mod ip;
mod malformed;
pub mod rewrite;
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod udp;
pub mod virtio;

pub use malformed::Malformed;

/// Big-endian 16 bits at `at`. The caller has checked the length.
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Big-endian 32 bits at `at`. The caller has checked the length.
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
