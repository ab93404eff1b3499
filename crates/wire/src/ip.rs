//! IPv4 (RFC 791) and IPv6 (RFC 8200) in one view.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::icmp::IcmpView;
use crate::tcp::TcpView;
use crate::udp::UdpView;
use crate::{Malformed, be16, be32};

/// Protocol numbers of the IPv4 protocol and the IPv6 next header fields (IANA "Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Length of an IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;
/// Length of an IPv6 header without extension headers.
pub const IPV6_HEADER_LEN: usize = 40;
/// Extension headers looked at before a packet is refused. RFC 8200 4.1 recommends each kind at most once, which
/// makes seven; an endless chain is only a way to burn time (RFC 9288 3.4).
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// The IP version of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The fragmentation fields of a packet that is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Identification; 16 bits in IPv4.
    pub id: u32,
    /// Where the payload belongs in the whole, in bytes; a multiple of 8, at most 65528.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

impl Fragment {
    /// An IPv6 "atomic fragment" (RFC 6946): it has a fragment header and is nevertheless whole.
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Where the IPv6 fragment header of a packet is; needed to take it out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Offset of the fragment header, which is the length of the unfragmentable part.
    pub at: usize,
    /// Offset of the next-header byte that announces it.
    pub announced_at: usize,
    /// Its own next-header value.
    pub next: u8,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// A TCP segment.
    Tcp(TcpView<'a>),
    /// A UDP datagram.
    Udp(UdpView<'a>),
    /// An ICMP message of the packet's own family.
    Icmp(IcmpView<'a>),
    /// Another protocol, or a fragment that is not the whole packet.
    Other,
}

/// A checked IP packet.
#[derive(Clone, Copy, Debug)]
pub struct IpView<'a> {
    /// Cut to the total length, or to what there is of it if the view was made by `parse_quoted`.
    packet: &'a [u8],
    total_len: u32,
    header_len: u16,
    /// IPv6: offset of the fragment header, 0 without one.
    fragment_at: u16,
    announced_at: u16,
    version: Version,
    protocol: u8,
    fragment: Option<Fragment>,
    source_routed: bool,
    authenticated: bool,
}

impl<'a> IpView<'a> {
    /// Checks a packet as it comes from the TUN device.
    ///
    /// Bytes behind the total length are ignored. The header checksum of IPv4 is not looked at: see
    /// [`IpView::header_checksum_valid`]. IPv6 jumbograms (RFC 2675) are refused.
    ///
    /// # Errors
    /// [`Malformed`] when a length is impossible or larger than `packet`, when the version is neither 4 nor 6,
    /// and when the IPv6 extension headers are cut short, too many or out of order.
    pub fn parse(packet: &'a [u8]) -> Result<IpView<'a>, Malformed> {
        let view = Self::parse_quoted(packet)?;
        Malformed::need("IP packet", view.total_len as usize, packet.len())?;
        Ok(view)
    }

    /// Checks the front of a packet as quoted in an ICMP error: the headers must be there, the payload may be
    /// cut anywhere.
    ///
    /// # Errors
    /// As [`IpView::parse`], but for a payload cut short.
    pub fn parse_quoted(packet: &'a [u8]) -> Result<IpView<'a>, Malformed> {
        let Some(&first) = packet.first() else {
            return Err(Malformed::Truncated { what: "IP header", need: IPV4_HEADER_LEN, have: 0 });
        };
        match first >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            version => Err(Malformed::Version(version)),
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Result<IpView<'a>, Malformed> {
        Malformed::need("IPv4 header", IPV4_HEADER_LEN, packet.len())?;
        let header_len = usize::from(packet[0] & 0x0f) * 4;
        if header_len < IPV4_HEADER_LEN {
            return Err(Malformed::Length { what: "IPv4 header", value: header_len });
        }
        Malformed::need("IPv4 header", header_len, packet.len())?;
        let total_len = usize::from(be16(packet, 2));
        if total_len < header_len {
            return Err(Malformed::Length { what: "IPv4 total length", value: total_len });
        }
        let field = be16(packet, 6);
        let (offset, more) = ((field & 0x1fff) << 3, field & 0x2000 != 0);
        let fragment =
            (offset != 0 || more).then(|| Fragment { id: u32::from(be16(packet, 4)), offset, more });
        Ok(IpView {
            source_routed: source_routed_v4(&packet[IPV4_HEADER_LEN..header_len])?,
            packet: &packet[..total_len.min(packet.len())],
            total_len: total_len as u32,
            header_len: header_len as u16,
            fragment_at: 0,
            announced_at: 0,
            version: Version::V4,
            protocol: packet[9],
            fragment,
            authenticated: packet[9] == protocol::AH,
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Result<IpView<'a>, Malformed> {
        Malformed::need("IPv6 header", IPV6_HEADER_LEN, packet.len())?;
        let total_len = IPV6_HEADER_LEN + usize::from(be16(packet, 4));
        let packet = &packet[..total_len.min(packet.len())];
        let mut view = IpView {
            packet,
            total_len: total_len as u32,
            header_len: IPV6_HEADER_LEN as u16,
            fragment_at: 0,
            announced_at: 0,
            version: Version::V6,
            protocol: packet[6],
            fragment: None,
            source_routed: false,
            authenticated: false,
        };
        view.walk_extension_headers()?;
        Ok(view)
    }

    /// Moves `header_len` and `protocol` behind the extension headers (RFC 8200 4).
    fn walk_extension_headers(&mut self) -> Result<(), Malformed> {
        let packet = self.packet;
        let mut at = IPV6_HEADER_LEN;
        let mut announced_at = 6;
        for count in 0..=MAX_EXTENSION_HEADERS {
            let next = packet[announced_at];
            if !matches!(
                next,
                protocol::HOP_BY_HOP
                    | protocol::ROUTING
                    | protocol::FRAGMENT
                    | protocol::DESTINATION_OPTIONS
                    | protocol::AH
            ) {
                (self.protocol, self.header_len) = (next, at as u16);
                return Ok(());
            }
            Malformed::need("IPv6 extension header", 8, packet.len() - at)?;
            let len = match next {
                protocol::FRAGMENT => 8,
                protocol::AH => (usize::from(packet[at + 1]) + 2) * 4,
                _ => (usize::from(packet[at + 1]) + 1) * 8,
            };
            Malformed::need("IPv6 extension header", len, packet.len() - at)?;
            match next {
                // RFC 8200 4.1: only immediately after the IPv6 header.
                protocol::HOP_BY_HOP if count > 0 => return Err(Malformed::ExtensionHeaders),
                protocol::ROUTING => self.source_routed |= packet[at + 3] != 0,
                protocol::AH => self.authenticated = true,
                protocol::FRAGMENT => {
                    // A fragment of a fragment: no host makes it, and reassembling it would take as many rounds.
                    if self.fragment.is_some() {
                        return Err(Malformed::ExtensionHeaders);
                    }
                    let field = be16(packet, at + 2);
                    let fragment =
                        Fragment { id: be32(packet, at + 4), offset: field & 0xfff8, more: field & 1 != 0 };
                    self.fragment = Some(fragment);
                    (self.fragment_at, self.announced_at) = (at as u16, announced_at as u16);
                    if fragment.offset != 0 {
                        // What follows is the middle of something; only the first fragment can be read on.
                        (self.protocol, self.header_len) = (packet[at], (at + len) as u16);
                        return Ok(());
                    }
                }
                _ => {}
            }
            announced_at = at;
            at += len;
        }
        Err(Malformed::ExtensionHeaders)
    }

    /// The IP version.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The source address.
    pub fn src(&self) -> IpAddr {
        self.address(12, 8)
    }

    /// The destination address. With a routing header that is not done it is only the next hop: see
    /// [`IpView::source_routed`].
    pub fn dst(&self) -> IpAddr {
        self.address(16, 24)
    }

    fn address(&self, at_v4: usize, at_v6: usize) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::from_bits(be32(self.packet, at_v4)).into(),
            Version::V6 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&self.packet[at_v6..at_v6 + 16]);
                Ipv6Addr::from(octets).into()
            }
        }
    }

    /// The upper-layer protocol, behind the IPv6 extension headers. In a fragment that is not the first one it
    /// is the next-header value of the fragment header, which may name an extension header.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Time to live, or hop limit.
    pub fn ttl(&self) -> u8 {
        match self.version {
            Version::V4 => self.packet[8],
            Version::V6 => self.packet[7],
        }
    }

    /// Type of service, or traffic class: 6 bits DSCP and 2 bits ECN (RFC 2474, RFC 3168).
    pub fn traffic_class(&self) -> u8 {
        match self.version {
            Version::V4 => self.packet[1],
            Version::V6 => (be16(self.packet, 0) >> 4) as u8,
        }
    }

    /// Offset of the upper-layer header, which is the length of the IP header with options and extension headers.
    pub fn header_len(&self) -> usize {
        self.header_len.into()
    }

    /// Length of the packet as its header states it.
    pub fn total_len(&self) -> usize {
        self.total_len as usize
    }

    /// The packet without what may follow it in the buffer.
    pub const fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// The upper-layer header and its data.
    pub fn payload(&self) -> &'a [u8] {
        &self.packet[self.header_len()..]
    }

    /// The fragmentation fields, if the packet is a fragment, be it an atomic one.
    pub const fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// Whether the packet is only a part of one.
    pub fn is_partial(&self) -> bool {
        self.fragment.is_some_and(|fragment| !fragment.is_atomic())
    }

    /// Where the IPv6 fragment header is, if there is one.
    pub fn fragment_header(&self) -> Option<FragmentHeader> {
        (self.fragment_at != 0).then(|| FragmentHeader {
            at: self.fragment_at.into(),
            announced_at: self.announced_at.into(),
            next: self.packet[usize::from(self.fragment_at)],
        })
    }

    /// Whether no router may fragment the packet: the DF bit, and always in IPv6.
    pub fn dont_fragment(&self) -> bool {
        match self.version {
            Version::V4 => self.packet[6] & 0x40 != 0,
            Version::V6 => true,
        }
    }

    /// Whether the packet is source routed and not yet at its last hop: the destination address is not the one
    /// that the transport checksum covers.
    pub const fn source_routed(&self) -> bool {
        self.source_routed
    }

    /// Whether an authentication header covers the addresses, so that they cannot be rewritten.
    pub const fn authenticated(&self) -> bool {
        self.authenticated
    }

    /// Whether the header checksum is right; IPv6 has none.
    pub fn header_checksum_valid(&self) -> bool {
        match self.version {
            Version::V4 => crate::checksum::sum(&self.packet[..self.header_len()]) == 0xffff,
            Version::V6 => true,
        }
    }

    /// The view of what the packet carries; [`Transport::Other`] when it is only a part.
    ///
    /// # Errors
    /// [`Malformed`] when TCP, UDP or ICMP is announced and what is there is not that.
    pub fn transport(&self) -> Result<Transport<'a>, Malformed> {
        if self.is_partial() {
            return Ok(Transport::Other);
        }
        match (self.protocol, self.version) {
            (protocol::TCP, _) => TcpView::parse(self.payload()).map(Transport::Tcp),
            (protocol::UDP, _) => UdpView::parse(self.payload()).map(Transport::Udp),
            (protocol::ICMP, Version::V4) => IcmpView::parse_v4(self.payload()).map(Transport::Icmp),
            (protocol::ICMPV6, Version::V6) => IcmpView::parse_v6(self.payload()).map(Transport::Icmp),
            _ => Ok(Transport::Other),
        }
    }

    /// Source and destination port of TCP or UDP, also of a quoted packet of which only the first eight bytes
    /// of payload are there (RFC 792). `None` for other protocols and for all but the first fragment.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let payload = self.payload();
        let has_ports = matches!(self.protocol, protocol::TCP | protocol::UDP)
            && self.fragment.is_none_or(|fragment| fragment.offset == 0)
            && payload.len() >= 4;
        has_ports.then(|| (be16(payload, 0), be16(payload, 2)))
    }
}

/// Walks the IPv4 options for a source route (RFC 791 3.1) with hops left.
fn source_routed_v4(mut options: &[u8]) -> Result<bool, Malformed> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut routed = false;
    while let Some(&kind) = options.first() {
        let len = match kind {
            END => break,
            NO_OPERATION => 1,
            _ => usize::from(*options.get(1).ok_or(Malformed::Ipv4Option)?),
        };
        if len > options.len() || len < 1 || (len < 2 && kind != NO_OPERATION) {
            return Err(Malformed::Ipv4Option);
        }
        if matches!(kind, LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE) {
            let pointer = *options.get(2).filter(|_| len >= 3).ok_or(Malformed::Ipv4Option)?;
            routed |= usize::from(pointer) <= len;
        }
        options = &options[len..];
    }
    Ok(routed)
}

#[cfg(test)]
mod tests;
