//! What fuzz targets reach of what proxies send.

pub use crate::shadowsocks::fuzzing::{packet as shadowsocks_packet, stream as shadowsocks_stream};
pub use crate::udp::fuzzing::relayed;

/// The first datagram in what a Trojan server has sent, behind the header of SOCKS5, and how many bytes it took; none if
/// more are needed.
///
/// # Errors
/// It is none.
pub fn trojan_datagram(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, crate::Rejected> {
    crate::trojan::unframe(bytes)
}

/// A datagram behind the header of SOCKS5 as it is sent to a Trojan server.
///
/// # Errors
/// The header is none.
pub fn trojan_frame(datagram: &[u8]) -> Result<Vec<u8>, crate::Rejected> {
    crate::trojan::frame(datagram)
}
