//! ICMP errors about one packet.

use std::net::IpAddr;

use super::reply::{is_one_host, is_to_many};
use super::{IpHeader, ip_header};
use crate::checksum;
use crate::icmp::{self, IcmpView};
use crate::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpView, Version, protocol};

/// Longest ICMPv4 error: every host can take 576 bytes (RFC 1812 4.3.2.3).
const MAX_V4: usize = 576;
/// Longest ICMPv6 error: the minimum MTU (RFC 4443 2.4 c).
const MAX_V6: usize = 1280;

/// Which error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// The network cannot be reached: 3/0, ICMPv6 1/0 no route.
    Net,
    /// The host cannot be reached: 3/1, ICMPv6 1/3 address unreachable.
    Host,
    /// Nobody listens on the port: 3/3, ICMPv6 1/4.
    Port,
    /// Forbidden: 3/13, ICMPv6 1/1.
    AdminProhibited,
    /// The packet is longer than the next hop's MTU: 3/4 fragmentation needed (RFC 1191), ICMPv6 2/0 packet too
    /// big. The MTU in bytes; IPv4 says at most 65535.
    FragNeeded {
        /// The MTU of the next hop.
        mtu: u32,
    },
    /// Its time to live is used up: 11/0, ICMPv6 3/0.
    TtlExceeded,
}

impl Unreachable {
    /// Type, code and the four bytes after the checksum.
    fn fields(self, version: Version) -> (u8, u8, u32) {
        match (version, self) {
            (Version::V4, Unreachable::Net) => (3, 0, 0),
            (Version::V4, Unreachable::Host) => (3, 1, 0),
            (Version::V4, Unreachable::Port) => (3, 3, 0),
            (Version::V4, Unreachable::AdminProhibited) => (3, 13, 0),
            (Version::V4, Unreachable::FragNeeded { mtu }) => (3, 4, mtu.min(u16::MAX.into())),
            (Version::V4, Unreachable::TtlExceeded) => (11, 0, 0),
            (Version::V6, Unreachable::Net) => (1, 0, 0),
            (Version::V6, Unreachable::Host) => (1, 3, 0),
            (Version::V6, Unreachable::Port) => (1, 4, 0),
            (Version::V6, Unreachable::AdminProhibited) => (1, 1, 0),
            (Version::V6, Unreachable::FragNeeded { mtu }) => (2, 0, mtu),
            (Version::V6, Unreachable::TtlExceeded) => (3, 0, 0),
        }
    }
}

/// The ICMP error that tells the sender of `packet` what became of it, sent from `source`.
///
/// It quotes as much of the packet as fits into 576 bytes (RFC 1812 4.3.2.3) or 1280 bytes (RFC 4443 2.4 c). A
/// partial checksum in the packet is quoted as it is; no stack looks at it.
///
/// `None` when there must be no error (RFC 1122 3.2.2, RFC 4443 2.4 e): about an ICMP error or redirect, a
/// fragment other than the first, a packet sent to many (but for packet too big in IPv6), or one from an
/// address that does not name a host. `None` too for what is not an IP packet and for a `source` of the other
/// family.
pub fn icmp_error_for(packet: &[u8], kind: Unreachable, source: IpAddr) -> Option<Vec<u8>> {
    let ip = IpView::parse(packet).ok()?;
    let version = ip.version();
    let (src, dst) = (ip.src(), ip.dst());
    let may_go_to_many = version == Version::V6 && matches!(kind, Unreachable::FragNeeded { .. });
    if source.is_ipv4() != src.is_ipv4()
        || !is_one_host(src)
        || src.is_loopback()
        || (is_to_many(dst) && !may_go_to_many)
        || ip.fragment().is_some_and(|fragment| fragment.offset != 0)
        || is_icmp_error(&ip)
    {
        return None;
    }
    let (protocol, header_len, max) = match version {
        Version::V4 => (protocol::ICMP, IPV4_HEADER_LEN, MAX_V4),
        Version::V6 => (protocol::ICMPV6, IPV6_HEADER_LEN, MAX_V6),
    };
    let quoted = ip.packet();
    let quoted = &quoted[..quoted.len().min(max - header_len - icmp::HEADER_LEN)];
    let len = icmp::HEADER_LEN + quoted.len();
    let mut error = Vec::with_capacity(header_len + len);
    ip_header(&mut error, &IpHeader::new(source, src, protocol), len).ok()?;
    let (kind, code, rest) = kind.fields(version);
    error.extend_from_slice(&[kind, code, 0, 0]);
    error.extend_from_slice(&rest.to_be_bytes());
    error.extend_from_slice(quoted);
    let message = &error[header_len..];
    let ck = match version {
        Version::V4 => !checksum::sum(message),
        Version::V6 => checksum::transport(source, src, protocol, message),
    };
    error[header_len + 2..header_len + 4].copy_from_slice(&ck.to_be_bytes());
    Some(error)
}

/// Whether the packet is an ICMP error or might be one: cut too short to tell is reason enough to be silent.
fn is_icmp_error(ip: &IpView<'_>) -> bool {
    let icmp = match (ip.version(), ip.protocol()) {
        (Version::V4, protocol::ICMP) => IcmpView::parse_v4(ip.payload()),
        (Version::V6, protocol::ICMPV6) => IcmpView::parse_v6(ip.payload()),
        _ => return false,
    };
    icmp.map_or(true, |icmp| icmp.is_error())
}
