use super::*;
use crate::testing::{Random, hex};

/// A DNS query to 8.8.8.8; lengths and checksums are filled in by `v4`.
const IPV4_UDP: &str = "4500 0038 1c46 4000 4011 b1e6 c0a8 0001 0808 0808
    d431 0035 0024 0000 abcd 0100 0001 0000 0000 0000 0765 7861 6d70 6c65 0000";

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = hex("6a5c 1234");
    packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[next, 63]);
    packet.extend_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend_from_slice(&"2001:db8:2::2".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend_from_slice(payload);
    packet
}

fn v4() -> Vec<u8> {
    let mut packet = hex(IPV4_UDP);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[10..12].copy_from_slice(&[0, 0]);
    let ck = !crate::checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&ck.to_be_bytes());
    packet
}

#[test]
fn ipv4_fields() {
    let mut packet = v4();
    packet[1] = 0xb9;
    let total = packet.len();
    packet.extend_from_slice(&[0; 6]);
    let ip = IpView::parse(&packet).unwrap();
    assert_eq!(ip.version(), Version::V4);
    assert_eq!(ip.src().to_string(), "192.168.0.1");
    assert_eq!(ip.dst().to_string(), "8.8.8.8");
    assert_eq!((ip.protocol(), ip.ttl(), ip.traffic_class()), (protocol::UDP, 64, 0xb9));
    assert_eq!((ip.header_len(), ip.total_len(), ip.packet().len()), (20, total, total));
    assert_eq!(ip.payload(), &packet[20..total]);
    assert_eq!((ip.fragment(), ip.fragment_header()), (None, None));
    assert!(ip.dont_fragment() && !ip.is_partial() && !ip.source_routed() && !ip.authenticated());
    assert_eq!(ip.ports(), Some((0xd431, 53)));
    assert!(!ip.header_checksum_valid());
    packet[1] = 0;
    assert!(IpView::parse(&packet).unwrap().header_checksum_valid());
}

#[test]
fn the_ipv4_header_of_a_textbook_checks() {
    let mut packet = hex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7");
    packet.resize(0x73, 0);
    assert!(IpView::parse(&packet).unwrap().header_checksum_valid());
    packet[19] ^= 1;
    assert!(!IpView::parse(&packet).unwrap().header_checksum_valid());
}

#[test]
fn ipv6_fields() {
    let packet = v6(protocol::TCP, &[0; 24]);
    let ip = IpView::parse(&packet).unwrap();
    assert_eq!(ip.version(), Version::V6);
    assert_eq!(ip.src().to_string(), "2001:db8::1");
    assert_eq!(ip.dst().to_string(), "2001:db8:2::2");
    assert_eq!((ip.protocol(), ip.ttl(), ip.traffic_class()), (protocol::TCP, 63, 0xa5));
    assert_eq!((ip.header_len(), ip.total_len()), (40, 64));
    assert!(ip.dont_fragment() && ip.header_checksum_valid());
}

#[test]
fn every_cut_of_a_packet_is_malformed() {
    for packet in [v4(), v6(protocol::HOP_BY_HOP, &hex("3c00 0104 0000 0000 1100 0104 0000 0000 0000"))] {
        assert!(IpView::parse(&packet).is_ok());
        for len in 0..packet.len() {
            assert!(matches!(IpView::parse(&packet[..len]), Err(Malformed::Truncated { .. })), "{len}");
        }
    }
}

#[test]
fn impossible_ipv4_lengths_are_malformed() {
    for version in (0..16).filter(|version| ![4, 6].contains(version)) {
        let mut packet = v4();
        packet[0] = version << 4 | 5;
        assert_eq!(IpView::parse(&packet).unwrap_err(), Malformed::Version(version));
    }
    let mut packet = v4();
    packet[0] = 0x44;
    assert_eq!(IpView::parse(&packet).unwrap_err(), Malformed::Length { what: "IPv4 header", value: 16 });
    let mut packet = v4();
    packet[2..4].copy_from_slice(&19u16.to_be_bytes());
    assert_eq!(
        IpView::parse(&packet).unwrap_err(),
        Malformed::Length { what: "IPv4 total length", value: 19 }
    );
    // BIG TCP for IPv4 leaves the length zero.
    packet[2..4].copy_from_slice(&[0, 0]);
    assert!(matches!(IpView::parse(&packet), Err(Malformed::Length { .. })));
}

#[test]
fn ipv4_fragments() {
    let mut packet = v4();
    for (field, offset, more) in [(0x2000u16, 0, true), (0x2001, 8, true), (0x1fff, 65_528, false)] {
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        let ip = IpView::parse(&packet).unwrap();
        assert_eq!(ip.fragment(), Some(Fragment { id: 0x1c46, offset, more }));
        assert!(ip.is_partial());
        assert!(matches!(ip.transport(), Ok(Transport::Other)));
        assert_eq!(ip.ports().is_some(), offset == 0);
    }
    packet[6..8].copy_from_slice(&0x8000u16.to_be_bytes());
    let ip = IpView::parse(&packet).unwrap();
    assert!(ip.fragment().is_none() && !ip.dont_fragment());
}

fn with_options(options: &[u8]) -> Vec<u8> {
    let mut packet = v4();
    packet.splice(20..20, options.iter().copied());
    packet[0] = 0x45 + (options.len() / 4) as u8;
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

#[test]
fn ipv4_options() {
    let routed = |options: &str| {
        let packet = with_options(&hex(options));
        IpView::parse(&packet).map(|ip| (ip.source_routed(), ip.header_len()))
    };
    // Router alert; end of list with rubbish behind; record route.
    assert_eq!(routed("9404 0000"), Ok((false, 24)));
    assert_eq!(routed("0100 8300"), Ok((false, 24)));
    assert_eq!(routed("0707 0400 0000 0000"), Ok((false, 28)));
    // Loose and strict source routes, not done and done.
    assert_eq!(routed("8307 0401 0203 0400"), Ok((true, 28)));
    assert_eq!(routed("0189 0704 0102 0304"), Ok((true, 28)));
    assert_eq!(routed("8307 0801 0203 0400"), Ok((false, 28)));
    for bad in ["9405 0000", "9401 0000", "9400 0000", "0101 0194", "8302 0000", "0101 8300"] {
        assert_eq!(routed(bad), Err(Malformed::Ipv4Option), "{bad}");
    }
}

#[test]
fn ipv6_extension_headers() {
    // Hop-by-hop, destination options, routing (done), AH of 24 bytes, then UDP.
    let chain = hex("3c00 0104 0000 0000  2b01 0104 0000 0000 0000 0000 0000 0000  3300 0000 0000 0000
         1104 0000 0000 0001 0000 0002 0102 0304 0506 0708 090a 0b0c");
    let udp = hex("1388 0035 0009 0000 41");
    let packet = v6(protocol::HOP_BY_HOP, &[chain.clone(), udp.clone()].concat());
    let ip = IpView::parse(&packet).unwrap();
    assert_eq!((ip.protocol(), ip.header_len()), (protocol::UDP, 40 + chain.len()));
    assert_eq!(ip.payload(), udp);
    assert_eq!(ip.ports(), Some((5000, 53)));
    assert!(ip.authenticated() && !ip.source_routed());

    // A routing header with a segment left.
    let packet = v6(protocol::ROUTING, &[hex("1100 0001 0000 0000"), udp].concat());
    assert!(IpView::parse(&packet).unwrap().source_routed());
}

#[test]
fn ipv6_extension_headers_out_of_order_or_too_many() {
    let hop_by_hop_later = hex("0000 0104 0000 0000 1100 0104 0000 0000");
    let packet = v6(protocol::DESTINATION_OPTIONS, &hop_by_hop_later);
    assert_eq!(IpView::parse(&packet).unwrap_err(), Malformed::ExtensionHeaders);

    for (count, last) in [(8, true), (9, false), (100, false)] {
        let mut chain = hex("3c00 0104 0000 0000").repeat(count);
        let len = chain.len();
        chain[len - 8] = protocol::NO_NEXT_HEADER;
        let packet = v6(protocol::DESTINATION_OPTIONS, &chain);
        let parsed = IpView::parse(&packet).map(|ip| (ip.protocol(), ip.header_len()));
        let expected = if last {
            Ok((protocol::NO_NEXT_HEADER, packet.len()))
        } else {
            Err(Malformed::ExtensionHeaders)
        };
        assert_eq!(parsed, expected);
    }

    let two_fragment_headers = hex("2c00 0000 0000 0001 1100 0000 0000 0001");
    let packet = v6(protocol::FRAGMENT, &two_fragment_headers);
    assert_eq!(IpView::parse(&packet).unwrap_err(), Malformed::ExtensionHeaders);

    // A length byte that reaches behind the packet.
    let packet = v6(protocol::DESTINATION_OPTIONS, &hex("1101 0104 0000 0000"));
    assert!(matches!(IpView::parse(&packet), Err(Malformed::Truncated { need: 16, have: 8, .. })));
}

#[test]
fn ipv6_fragments() {
    // Hop-by-hop, fragment (offset 8, more), then what may be anything.
    let packet =
        v6(protocol::HOP_BY_HOP, &hex("2c00 0104 0000 0000 3c00 0009 dead beef 1122 3344 5566 7788"));
    let ip = IpView::parse(&packet).unwrap();
    assert_eq!(ip.fragment(), Some(Fragment { id: 0xdead_beef, offset: 8, more: true }));
    let header = FragmentHeader { at: 48, announced_at: 40, next: protocol::DESTINATION_OPTIONS };
    assert_eq!(ip.fragment_header(), Some(header));
    assert_eq!((ip.protocol(), ip.header_len()), (protocol::DESTINATION_OPTIONS, 56));
    assert!(ip.is_partial() && ip.ports().is_none());

    // The first one is read on; atomic when nothing follows.
    for (more, atomic) in [(0, true), (1, false)] {
        let mut payload = hex("3c00 0000 dead beef 1100 0104 0000 0000 1388 0035 0008 0000");
        payload[3] = more;
        let packet = v6(protocol::FRAGMENT, &payload);
        let ip = IpView::parse(&packet).unwrap();
        assert_eq!((ip.protocol(), ip.header_len()), (protocol::UDP, 56));
        assert_eq!(ip.fragment().unwrap().is_atomic(), atomic);
        assert_eq!((ip.is_partial(), ip.ports()), (!atomic, Some((5000, 53))));
        assert_eq!(matches!(ip.transport(), Ok(Transport::Udp(_))), atomic);
        let header = FragmentHeader { at: 40, announced_at: 6, next: protocol::DESTINATION_OPTIONS };
        assert_eq!(ip.fragment_header(), Some(header));
    }
}

#[test]
fn a_quoted_packet_may_be_cut_behind_its_headers() {
    let packet = v4();
    let quoted = &packet[..28];
    assert!(IpView::parse(quoted).is_err());
    let ip = IpView::parse_quoted(quoted).unwrap();
    assert_eq!((ip.total_len(), ip.packet().len()), (packet.len(), 28));
    assert_eq!(ip.ports(), Some((0xd431, 53)));
    assert_eq!(IpView::parse_quoted(&packet[..23]).unwrap().ports(), None);
    assert!(IpView::parse_quoted(&packet[..19]).is_err());
}

#[test]
fn random_bytes_never_panic_and_never_lie_about_lengths() {
    let mut random = Random(0x5eed_0201);
    for _ in 0..200_000 {
        let len = random.below(160);
        let mut packet = random.bytes(len);
        if let Some(first) = packet.first_mut() {
            *first = if random.below(2) == 0 { 0x45 + random.below(3) as u8 } else { 0x60 };
        }
        if len > 6 && random.below(4) != 0 {
            let at = if packet[0] >> 4 == 4 { 2 } else { 4 };
            packet[at] = 0;
            packet[at + 1] %= 120;
            packet[6] = [0, 6, 17, 43, 44, 51, 60][random.below(7)];
        }
        if let Ok(ip) = IpView::parse(&packet) {
            assert_eq!(ip.packet().len(), ip.total_len());
            assert!(ip.header_len() <= ip.total_len());
            let _ = (ip.src(), ip.dst(), ip.payload(), ip.transport(), ip.ports(), ip.fragment_header());
        }
    }
}
