//! As much of IP, TCP, UDP and ICMP as a summary needs; on purpose not the parsers of the program under test.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::{Direction, KEPT, Packet, protocol};

/// What the kernel handed over.
pub(super) struct Frame<'a> {
    pub(super) at: Instant,
    pub(super) device: String,
    pub(super) direction: Direction,
    /// The beginning of the IP packet.
    pub(super) start: &'a [u8],
    /// The whole length that the kernel reports.
    pub(super) length: usize,
}

/// The summary; `None` when it is not IP, or cut off.
pub(super) fn packet(frame: Frame<'_>) -> Option<Packet> {
    match frame.start.first()? >> 4 {
        4 => ipv4(frame),
        6 => ipv6(frame),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn ipv4(frame: Frame<'_>) -> Option<Packet> {
    let ip = frame.start;
    let header = usize::from(ip[0] & 0xf) * 4;
    let fragmentation = u16_at(ip, 6)?;
    // Superpackets beyond 64 KiB have a total length of zero (BIG TCP).
    let length = match usize::from(u16_at(ip, 2)?) {
        0 => frame.length,
        length => length,
    };
    let (src, dst) = (Ipv4Addr::from(u32_at(ip, 12)?), Ipv4Addr::from(u32_at(ip, 16)?));
    let base = Packet {
        at: frame.at,
        device: frame.device,
        direction: frame.direction,
        src: src.into(),
        dst: dst.into(),
        protocol: *ip.get(9)?,
        ports: (0, 0),
        flags: 0,
        sequence: (0, 0),
        icmp: None,
        ttl: *ip.get(8)?,
        length,
        payload_length: length.saturating_sub(header),
        payload: Vec::new(),
        fragment: fragmentation & 0x3fff != 0,
    };
    Some(upper(base, ip.get(header..)?, fragmentation & 0x1fff == 0))
}

fn ipv6(frame: Frame<'_>) -> Option<Packet> {
    let ip = frame.start;
    let length = match usize::from(u16_at(ip, 4)?) {
        0 => frame.length,
        payload => 40 + payload,
    };
    let src = Ipv6Addr::from(*ip.get(8..)?.first_chunk::<16>()?);
    let dst = Ipv6Addr::from(*ip.get(24..)?.first_chunk::<16>()?);
    let (mut next, mut at, mut first, mut fragment) = (*ip.get(6)?, 40, true, false);
    // RFC 8200, section 4: hop-by-hop, routing, destination options, fragment.
    while matches!(next, 0 | 43 | 44 | 60) {
        let following = *ip.get(at)?;
        if next == 44 {
            fragment = true;
            first = u16_at(ip, at + 2)? & 0xfff8 == 0;
            at += 8;
        } else {
            at += (usize::from(*ip.get(at + 1)?) + 1) * 8;
        }
        next = following;
        if !first {
            break;
        }
    }
    let base = Packet {
        at: frame.at,
        device: frame.device,
        direction: frame.direction,
        src: src.into(),
        dst: dst.into(),
        protocol: next,
        ports: (0, 0),
        flags: 0,
        sequence: (0, 0),
        icmp: None,
        ttl: *ip.get(7)?,
        length,
        payload_length: length.saturating_sub(at),
        payload: Vec::new(),
        fragment,
    };
    Some(upper(base, ip.get(at..)?, first))
}

/// Fills in what the upper layer says; a header that is cut off says nothing.
fn upper(mut packet: Packet, bytes: &[u8], first: bool) -> Packet {
    let header = match packet.protocol {
        _ if !first => 0,
        protocol::TCP => tcp(&mut packet, bytes).unwrap_or(0),
        protocol::UDP => {
            packet.ports = ports(bytes).unwrap_or_default();
            8
        }
        protocol::ICMP | protocol::ICMPV6 => {
            packet.icmp = bytes.get(..2).map(|head| (head[0], head[1]));
            0
        }
        _ => 0,
    };
    packet.payload_length = packet.payload_length.saturating_sub(header);
    let rest = bytes.get(header..).unwrap_or_default();
    packet.payload = rest[..rest.len().min(KEPT).min(packet.payload_length)].to_vec();
    packet
}

fn ports(bytes: &[u8]) -> Option<(u16, u16)> {
    Some((u16_at(bytes, 0)?, u16_at(bytes, 2)?))
}

fn tcp(packet: &mut Packet, bytes: &[u8]) -> Option<usize> {
    packet.ports = ports(bytes)?;
    packet.sequence = (u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    packet.flags = *bytes.get(13)?;
    Some(usize::from(bytes.get(12)? >> 4) * 4)
}
