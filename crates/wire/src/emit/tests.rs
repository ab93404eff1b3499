use super::*;
use crate::icmp::{self, Message};
use crate::ip::{IpView, Transport, Version};
use crate::tcp::{Flags, TcpView};
use crate::testing::{Random, addr};

const KINDS: [Unreachable; 6] = [
    Unreachable::Net,
    Unreachable::Host,
    Unreachable::Port,
    Unreachable::AdminProhibited,
    Unreachable::FragNeeded { mtu: 1400 },
    Unreachable::TtlExceeded,
];

/// Parses a packet that must be right in every way, and returns it.
#[track_caller]
fn checked(packet: &[u8]) -> (IpView<'_>, Transport<'_>) {
    let ip = IpView::parse(packet).unwrap();
    assert_eq!(ip.total_len(), packet.len());
    assert!(ip.header_checksum_valid());
    let transport = ip.transport().unwrap();
    assert!(match transport {
        Transport::Tcp(tcp) => tcp.checksum_valid(ip.src(), ip.dst()),
        Transport::Udp(udp) => udp.checksum() != 0 && udp.checksum_valid(ip.src(), ip.dst()),
        Transport::Icmp(icmp) => icmp.checksum_valid(ip.src(), ip.dst()),
        Transport::Other => true,
    });
    (ip, transport)
}

fn endpoints(v6: bool) -> (SocketAddr, SocketAddr) {
    if v6 {
        (addr("[2001:db8::1]:1111"), addr("[2001:db8:2::2]:2222"))
    } else {
        (addr("192.0.2.1:1111"), addr("198.51.100.2:2222"))
    }
}

fn syn(v6: bool, flags: Flags, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = endpoints(v6);
    let header =
        TcpHeader { seq: 0xffff_fffe, ack: 77, flags, window: 1, options: &[2, 4, 5, 0xb4, 1, 1, 1, 0] };
    let mut packet = Vec::new();
    tcp_segment(&mut packet, src, dst, &header, payload).unwrap();
    packet
}

fn echo(v6: bool, data: &[u8]) -> Vec<u8> {
    let (src, dst) = endpoints(v6);
    let (protocol, kind) = if v6 { (protocol::ICMPV6, 128) } else { (protocol::ICMP, 8) };
    let mut packet = Vec::new();
    ip_header(&mut packet, &IpHeader::new(src.ip(), dst.ip(), protocol), 8 + data.len()).unwrap();
    let at = packet.len();
    packet.extend_from_slice(&[kind, 0, 0, 0, 0x12, 0x34, 0, 9]);
    packet.extend_from_slice(data);
    let ck = if v6 {
        checksum::transport(src.ip(), dst.ip(), protocol, &packet[at..])
    } else {
        !checksum::sum(&packet[at..])
    };
    packet[at + 2..at + 4].copy_from_slice(&ck.to_be_bytes());
    packet
}

#[test]
fn udp() {
    let mut random = Random(0x5eed_0601);
    for round in 0..2_000 {
        let v6 = round % 2 == 0;
        let (src, dst) = (random.endpoint(v6), random.endpoint(v6));
        let len = random.below(2_000);
        let payload = random.bytes(len);
        let mut packet = b"in front".to_vec();
        udp_datagram(&mut packet, src, dst, &payload).unwrap();
        let (ip, Transport::Udp(udp)) = checked(&packet[8..]) else { panic!("not UDP") };
        assert_eq!((ip.src(), ip.dst(), ip.ttl()), (src.ip(), dst.ip(), HOP_LIMIT));
        assert_eq!((udp.src_port(), udp.dst_port()), (src.port(), dst.port()));
        assert_eq!(udp.payload(), payload);
        assert_eq!(ip.dont_fragment(), v6);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_buffer() {
    let mut buf = vec![1];
    for (v6, longest) in [(false, 65_507), (true, 65_527)] {
        let (src, dst) = endpoints(v6);
        let mut fits = Vec::new();
        udp_datagram(&mut fits, src, dst, &vec![0; longest]).unwrap();
        checked(&fits);
        let error = udp_datagram(&mut buf, src, dst, &vec![0; longest + 1]).unwrap_err();
        assert_eq!(error, EmitError::TooLong { payload: longest + 9 });
    }
    let (v4, v6) = (endpoints(false).0, endpoints(true).0);
    assert_eq!(udp_datagram(&mut buf, v4, v6, &[]), Err(EmitError::Family));
    for options in [&[1u8; 3][..], &[1; 44]] {
        let header = TcpHeader { options, ..TcpHeader::default() };
        assert_eq!(
            tcp_segment(&mut buf, v4, v4, &header, &[]),
            Err(EmitError::Options { len: options.len() })
        );
    }
    assert_eq!(buf, [1]);
}

#[test]
fn ip_header_fields() {
    for v6 in [false, true] {
        let (src, dst) = endpoints(v6);
        let header = IpHeader {
            hop_limit: 3,
            traffic_class: 0xb8,
            identification: 0x1234,
            ..IpHeader::new(src.ip(), dst.ip(), 99)
        };
        let mut packet = Vec::new();
        ip_header(&mut packet, &header, 4).unwrap();
        assert_eq!(packet.len(), header.header_len());
        packet.extend_from_slice(&[0; 4]);
        let (ip, _) = checked(&packet);
        assert_eq!((ip.ttl(), ip.traffic_class(), ip.protocol()), (3, 0xb8, 99));
        assert!(ip.dont_fragment());
        if !v6 {
            assert_eq!(packet[4..6], [0x12, 0x34]);
        }
    }
}

#[test]
fn resets() {
    for v6 in [false, true] {
        let (src, dst) = endpoints(v6);
        // Flags, data, then the reset's sequence and acknowledgment numbers; SEG.SEQ is 2^32 - 2.
        for (flags, data, seq, ack) in [
            (Flags::SYN, &b""[..], 0, Some(0xffff_ffff)),
            (Flags::SYN, b"fast open", 0, Some(8)),
            (Flags::SYN | Flags::FIN, b"", 0, Some(0)),
            (Flags::FIN, b"ab", 0, Some(1)),
            (Flags::SYN | Flags::ACK, b"", 77, None),
            (Flags::ACK, b"data", 77, None),
            (Flags::FIN | Flags::ACK, b"", 77, None),
        ] {
            let packet = syn(v6, flags, data);
            let ip = IpView::parse(&packet).unwrap();
            let reset = tcp_rst_for(&ip, &TcpView::parse(ip.payload()).unwrap()).unwrap();
            let (ip, Transport::Tcp(tcp)) = checked(&reset) else { panic!("not TCP") };
            assert_eq!((ip.src(), ip.dst()), (dst.ip(), src.ip()));
            assert_eq!((tcp.src_port(), tcp.dst_port()), (dst.port(), src.port()));
            let expected = if ack.is_some() { Flags::RST | Flags::ACK } else { Flags::RST };
            assert_eq!((tcp.flags(), tcp.seq(), tcp.ack()), (expected, seq, ack.unwrap_or(0)), "{flags:?}");
            assert_eq!((tcp.header_len(), tcp.payload().len(), tcp.window()), (20, 0, 0));
        }
        for flags in [Flags::RST, Flags::RST | Flags::ACK] {
            let packet = syn(v6, flags, &[]);
            let ip = IpView::parse(&packet).unwrap();
            assert_eq!(tcp_rst_for(&ip, &TcpView::parse(ip.payload()).unwrap()), None);
        }
    }
}

#[test]
fn icmp_errors() {
    use icmp::Error;
    let expected = [
        Error::Net,
        Error::Host,
        Error::Port,
        Error::AdminProhibited,
        Error::PacketTooBig { mtu: 1400 },
        Error::TtlExceeded,
    ];
    for v6 in [false, true] {
        let (src, dst) = endpoints(v6);
        let source = if v6 { addr("[fd00::1]:0") } else { addr("10.0.0.1:0") }.ip();
        for (kind, expected) in KINDS.into_iter().zip(expected) {
            for len in [0, 1, 500, 527, 528, 529, 5_000] {
                let mut packet = Vec::new();
                udp_datagram(&mut packet, src, dst, &vec![7; len]).unwrap();
                let whole = packet.len();
                packet.extend_from_slice(b"behind");
                let error = icmp_error_for(&packet, kind, source).unwrap();
                let (ip, Transport::Icmp(icmp)) = checked(&error) else { panic!("not ICMP") };
                assert_eq!((ip.src(), ip.dst()), (source, src.ip()));
                let Message::Error { error: got, quoted } = icmp.message() else { panic!("no error") };
                assert_eq!(got, expected);
                let room = if v6 { 1280 - 48 } else { 576 - 28 };
                assert_eq!(quoted, &packet[..whole.min(room)]);
                let quoted = IpView::parse_quoted(quoted).unwrap();
                assert_eq!((quoted.src(), quoted.dst()), (src.ip(), dst.ip()));
                assert_eq!(quoted.ports(), Some((1111, 2222)));
            }
        }
    }
    let (src, dst) = endpoints(false);
    let mut packet = Vec::new();
    udp_datagram(&mut packet, src, dst, b"x").unwrap();
    let error = icmp_error_for(&packet, Unreachable::FragNeeded { mtu: 70_000 }, dst.ip()).unwrap();
    assert_eq!(error[24..28], [0, 0, 0xff, 0xff]);
}

#[test]
fn no_icmp_error_where_none_may_be() {
    let udp = |src: &str, dst: &str| {
        let mut packet = Vec::new();
        udp_datagram(&mut packet, addr(src), addr(dst), b"x").unwrap();
        packet
    };
    let v4: IpAddr = [10, 0, 0, 1].into();
    let v6 = addr("[fd00::1]:0").ip();
    let silent = |packet: &[u8], source| {
        for kind in KINDS {
            assert_eq!(icmp_error_for(packet, kind, source), None, "{kind:?}");
        }
    };
    // About an ICMP error, but about an echo request there may be one.
    for (is_v6, source) in [(false, v4), (true, v6)] {
        let (src, dst) = endpoints(is_v6);
        let packet = udp(&src.to_string(), &dst.to_string());
        let error = icmp_error_for(&packet, Unreachable::Port, dst.ip()).unwrap();
        silent(&error, source);
        assert!(icmp_error_for(&echo(is_v6, b"x"), Unreachable::Host, source).is_some());
    }
    // The other family, malformed, from or to many.
    silent(&udp("192.0.2.1:1", "192.0.2.2:2"), v6);
    silent(&udp("[2001:db8::1]:1", "[2001:db8::2]:2"), v4);
    silent(&udp("192.0.2.1:1", "192.0.2.2:2")[..20], v4);
    silent(&[], v4);
    for src in ["0.0.0.0:1", "127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1", "240.0.0.1:1"] {
        silent(&udp(src, "192.0.2.2:2"), v4);
    }
    for dst in ["224.0.0.251:2", "255.255.255.255:2"] {
        silent(&udp("192.0.2.1:1", dst), v4);
    }
    for src in ["[::]:1", "[::1]:1", "[ff02::1]:1"] {
        silent(&udp(src, "[2001:db8::2]:2"), v6);
    }
    // To many in IPv6: packet too big alone is sent (RFC 4443 2.4 e.3).
    let many = udp("[2001:db8::1]:1", "[ff0e::1]:2");
    for kind in KINDS {
        let sent = icmp_error_for(&many, kind, v6).is_some();
        assert_eq!(sent, matches!(kind, Unreachable::FragNeeded { .. }));
    }
    // Fragments: the first may be answered, the others not.
    let mut fragment = udp("192.0.2.1:1", "192.0.2.2:2");
    fragment[6] = 0x20;
    assert!(icmp_error_for(&fragment, Unreachable::Port, v4).is_some());
    fragment[7] = 1;
    silent(&fragment, v4);
}

#[test]
fn echo_replies() {
    for v6 in [false, true] {
        let (src, dst) = endpoints(v6);
        for len in [0, 1, 56, 65_000] {
            let data = vec![0xa5; len];
            let request = echo(v6, &data);
            let reply = icmp_echo_reply(&IpView::parse(&request).unwrap()).unwrap();
            let (ip, Transport::Icmp(icmp)) = checked(&reply) else { panic!("not ICMP") };
            assert_eq!((ip.src(), ip.dst()), (dst.ip(), src.ip()));
            assert_eq!(icmp.message(), Message::EchoReply { id: 0x1234, seq: 9, data: &data });
            // A reply is not answered.
            assert_eq!(icmp_echo_reply(&ip), None);
        }
        let mut wrong = echo(v6, b"data");
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(icmp_echo_reply(&IpView::parse(&wrong).unwrap()), None);
        let udp = syn(v6, Flags::SYN, &[]);
        assert_eq!(icmp_echo_reply(&IpView::parse(&udp).unwrap()), None);
    }
    // Nothing but zeros in the reply (found by fuzzing).
    let mut zeros = echo(false, &[0; 4]);
    zeros[22..28].copy_from_slice(&[0xf7, 0xff, 0, 0, 0, 0]);
    checked(&icmp_echo_reply(&IpView::parse(&zeros).unwrap()).unwrap());
    let mut many = echo(false, b"data");
    many[16] = 224;
    assert_eq!(icmp_echo_reply(&IpView::parse(&many).unwrap()), None);
}

#[test]
fn fragments_cover_the_packet() {
    for v6 in [false, true] {
        let (src, dst) = endpoints(v6);
        let mut packet = Vec::new();
        udp_datagram(&mut packet, src, dst, &[1; 3_000]).unwrap();
        for mtu in [packet.len(), 1_500, 1_280, 600] {
            let pieces = fragments(&packet, mtu, 0xabcd_ef01).unwrap();
            if mtu == packet.len() {
                assert_eq!(pieces, [packet.clone()]);
                continue;
            }
            let mut payload = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                assert!(piece.len() <= mtu);
                let (ip, _) = checked(piece);
                let fragment = ip.fragment().unwrap();
                assert_eq!(usize::from(fragment.offset), payload.len());
                assert_eq!(fragment.more, index + 1 < pieces.len());
                assert!(v6 == (fragment.id == 0xabcd_ef01));
                assert_eq!(ip.version() == Version::V6, v6);
                payload.extend_from_slice(ip.payload());
            }
            assert_eq!(payload, IpView::parse(&packet).unwrap().payload());
        }
        assert_eq!(fragments(&packet, if v6 { 55 } else { 27 }, 1), Err(EmitError::Fragment));
        let tcp = syn(v6, Flags::ACK, &[0; 2_000]);
        // DF forbids; IPv6 has no such bit.
        assert_eq!(fragments(&tcp, 1_500, 1).is_ok(), v6);
    }
    assert_eq!(fragments(&[0x45], 1_500, 1), Err(EmitError::Fragment));
}
