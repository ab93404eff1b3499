use super::*;
use crate::emit::{self, IpHeader, TcpHeader, tcp_segment, udp_datagram};
use crate::ip::Transport;
use crate::testing::{Random, addr, hex};
use crate::virtio;

/// A packet with complete checksums between random endpoints, and them.
fn packet(random: &mut Random, udp: bool, v6: bool) -> (Vec<u8>, SocketAddr, SocketAddr) {
    let (src, dst) = (random.endpoint(v6), random.endpoint(v6));
    let len = random.below(200);
    let payload = random.bytes(len);
    let mut packet = Vec::new();
    if udp {
        udp_datagram(&mut packet, src, dst, &payload).unwrap();
    } else {
        let header = TcpHeader { seq: 1, ack: 2, window: 3, ..TcpHeader::default() };
        tcp_segment(&mut packet, src, dst, &header, &payload).unwrap();
    }
    (packet, src, dst)
}

/// The packet with addresses and ports replaced and all checksums computed from nothing.
fn slow_rewrite(packet: &[u8], new_src: SocketAddr, new_dst: SocketAddr, partial: bool) -> Vec<u8> {
    let ip = IpView::parse(packet).unwrap();
    let (at, protocol) = (ip.header_len(), ip.protocol());
    let udp = protocol == protocol::UDP;
    let mut new = packet.to_vec();
    match (new_src.ip(), new_dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            new[12..16].copy_from_slice(&src.octets());
            new[16..20].copy_from_slice(&dst.octets());
            new[10..12].copy_from_slice(&[0, 0]);
            let ck = !checksum::sum(&new[..at]);
            new[10..12].copy_from_slice(&ck.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            new[8..24].copy_from_slice(&src.octets());
            new[24..40].copy_from_slice(&dst.octets());
        }
        _ => panic!("two families"),
    }
    new[at..at + 2].copy_from_slice(&new_src.port().to_be_bytes());
    new[at + 2..at + 4].copy_from_slice(&new_dst.port().to_be_bytes());
    let ck_at = at + if udp { 6 } else { 16 };
    let old_field = be16(packet, ck_at);
    new[ck_at..ck_at + 2].copy_from_slice(&[0, 0]);
    let segment = &new[at..];
    let field = if partial {
        checksum::pseudo(new_src.ip(), new_dst.ip(), protocol, segment.len() as u32)
    } else {
        let ck = checksum::transport(new_src.ip(), new_dst.ip(), protocol, segment);
        match (udp, old_field) {
            (true, 0) => 0,
            (true, _) => checksum::udp_field(ck),
            (false, _) => ck,
        }
    };
    new[ck_at..ck_at + 2].copy_from_slice(&field.to_be_bytes());
    new
}

#[test]
fn agrees_with_full_computation() {
    let seed = 0x5eed_0401;
    let mut random = Random(seed);
    for round in 0..20_000 {
        let (udp, v6) = (round & 1 != 0, round & 2 != 0);
        let (mut got, src, dst) = packet(&mut random, udp, v6);
        let (new_src, new_dst) = (random.endpoint(v6), random.endpoint(v6));
        let context = format!("seed {seed} round {round}: {src} {dst} to {new_src} {new_dst}");
        let expected = slow_rewrite(&got, new_src, new_dst, false);
        let offsets = Offsets::parse(&got).unwrap();
        assert_eq!(offsets.endpoints(&got), Ok((src, dst)), "{context}");
        rewrite(&mut got, new_src, new_dst, false).unwrap();
        assert_eq!(got, expected, "{context}");
        assert_eq!(offsets.endpoints(&got), Ok((new_src, new_dst)), "{context}");
        let ip = IpView::parse(&got).unwrap();
        assert!(ip.header_checksum_valid(), "{context}");
        let valid = match ip.transport().unwrap() {
            Transport::Udp(udp) => udp.checksum_valid(ip.src(), ip.dst()),
            Transport::Tcp(tcp) => tcp.checksum_valid(ip.src(), ip.dst()),
            other => panic!("{context}: {other:?}"),
        };
        assert!(valid, "{context}");
    }
}

#[test]
fn a_partial_checksum_stays_partial_and_completes_right() {
    let seed = 0x5eed_0402;
    let mut random = Random(seed);
    for round in 0..20_000 {
        let (udp, v6) = (round & 1 != 0, round & 2 != 0);
        let (mut got, src, dst) = packet(&mut random, udp, v6);
        let context = format!("seed {seed} round {round}: {src} {dst}");
        let offsets = Offsets::parse(&got).unwrap();
        let proto = if udp { protocol::UDP } else { protocol::TCP };
        let len = (got.len() - offsets.transport()) as u32;
        let field = checksum::pseudo(src.ip(), dst.ip(), proto, len);
        let at = offsets.checksum_at();
        got[at..at + 2].copy_from_slice(&field.to_be_bytes());
        let (new_src, new_dst) = (random.endpoint(v6), random.endpoint(v6));
        let expected = slow_rewrite(&got, new_src, new_dst, true);
        rewrite(&mut got, new_src, new_dst, true).unwrap();
        assert_eq!(got, expected, "{context}");
        let hdr = virtio::partial_checksum(offsets.transport() as u16, udp);
        virtio::complete_checksum(&hdr, &mut got).unwrap();
        let ip = IpView::parse(&got).unwrap();
        assert!(checksum::transport_valid(ip.src(), ip.dst(), proto, ip.payload()), "{context}");
    }
}

#[test]
fn no_udp_checksum_stays_none() {
    let mut random = Random(0x5eed_0403);
    for v6 in [false, true] {
        let (mut got, ..) = packet(&mut random, true, v6);
        let at = Offsets::parse(&got).unwrap().checksum_at();
        got[at..at + 2].copy_from_slice(&[0, 0]);
        let (new_src, new_dst) = (random.endpoint(v6), random.endpoint(v6));
        let expected = slow_rewrite(&got, new_src, new_dst, false);
        rewrite(&mut got, new_src, new_dst, false).unwrap();
        assert_eq!(got, expected);
        assert_eq!(got[at..at + 2], [0, 0]);
    }
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_written_as_ones() {
    let mut got = Vec::new();
    udp_datagram(&mut got, addr("192.0.2.1:1"), addr("198.51.100.1:2"), b"payload!").unwrap();
    // The port that moves the sum to 0xffff, and with it the checksum to 0.
    let ck = be16(&got, 26);
    let port = checksum::combine(1, ck);
    rewrite(&mut got, addr(&format!("192.0.2.1:{port}")), addr("198.51.100.1:2"), false).unwrap();
    assert_eq!(be16(&got, 26), 0xffff);
    assert_eq!(got, slow_rewrite(&got, addr(&format!("192.0.2.1:{port}")), addr("198.51.100.1:2"), false));
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut random = Random(0x5eed_0404);
    for round in 0..4 {
        let (udp, v6) = (round & 1 != 0, round & 2 != 0);
        let (mut got, ..) = packet(&mut random, udp, v6);
        let at = Offsets::parse(&got).unwrap().checksum_at();
        got[at + 1] ^= 0x10;
        rewrite(&mut got, random.endpoint(v6), random.endpoint(v6), false).unwrap();
        let ip = IpView::parse(&got).unwrap();
        assert!(!checksum::transport_valid(ip.src(), ip.dst(), ip.protocol(), ip.payload()));
    }
}

#[test]
fn options_and_extension_headers_stay() {
    let mut got = hex("6000 0000 0011 3c40 2001 0db8 0000 0000 0000 0000 0000 0001
         2001 0db8 0002 0000 0000 0000 0000 0002
         1100 0104 0000 0000 1388 0035 0009 0000 41");
    let ck = checksum::transport(
        "2001:db8::1".parse().unwrap(),
        "2001:db8:2::2".parse().unwrap(),
        protocol::UDP,
        &got[48..],
    );
    got[54..56].copy_from_slice(&ck.to_be_bytes());
    let (src, dst) = (addr("[fd00::1]:7"), addr("[fd00::2]:8"));
    let expected = slow_rewrite(&got, src, dst, false);
    rewrite(&mut got, src, dst, false).unwrap();
    assert_eq!(got, expected);
    assert_eq!(Offsets::parse(&got).unwrap().transport(), 48);
}

#[test]
fn refusals_leave_the_packet_alone() {
    let (v4, v6) = (addr("192.0.2.1:1"), addr("[2001:db8::1]:1"));
    let refused = |packet: &[u8], src, dst| {
        let mut copy = packet.to_vec();
        let error = rewrite(&mut copy, src, dst, false).unwrap_err();
        assert_eq!(copy, packet, "{error}");
        error
    };
    let mut random = Random(0x5eed_0405);
    let (tcp4, ..) = packet(&mut random, false, false);
    let (udp6, ..) = packet(&mut random, true, true);
    assert_eq!(refused(&tcp4, v6, v6), Malformed::Family);
    assert_eq!(refused(&tcp4, v4, v6), Malformed::Family);
    assert_eq!(refused(&udp6, v4, v4), Malformed::Family);
    assert_eq!(refused(&udp6, v6, v4), Malformed::Family);

    let mut fragment = tcp4.clone();
    fragment[6] |= 0x20;
    assert_eq!(refused(&fragment, v4, v4), Malformed::Unsupported { what: "a fragment" });
    let mut icmp = tcp4.clone();
    icmp[9] = protocol::ICMP;
    assert_eq!(refused(&icmp, v4, v4), Malformed::Unsupported { what: "a protocol without ports" });
    let mut ah = tcp4.clone();
    ah[9] = protocol::AH;
    assert_eq!(refused(&ah, v4, v4), Malformed::Unsupported { what: "an authentication header" });
    let mut routed = udp6.clone();
    routed[6] = protocol::ROUTING;
    routed.splice(40..40, [protocol::UDP, 0, 0, 1, 0, 0, 0, 0]);
    let len = routed.len() as u16 - 40;
    routed[4..6].copy_from_slice(&len.to_be_bytes());
    assert_eq!(refused(&routed, v6, v6), Malformed::Unsupported { what: "a source route" });

    for (protocol, len) in [(protocol::TCP, 19), (protocol::UDP, 7)] {
        let header = IpHeader::new(v4.ip(), v4.ip(), protocol);
        let mut short = Vec::new();
        emit::ip_header(&mut short, &header, len).unwrap();
        short.resize(20 + len, 0);
        assert!(matches!(refused(&short, v4, v4), Malformed::Truncated { .. }));
    }
    assert!(matches!(refused(&tcp4[..30], v4, v4), Malformed::Truncated { .. }));

    // Offsets of another packet.
    let offsets = Offsets::parse(&udp6).unwrap();
    let mut short = udp6[..47].to_vec();
    assert!(rewrite_at(&mut short, &offsets, v6, v6, false).is_err());
    assert!(offsets.endpoints(&short).is_err());
}
