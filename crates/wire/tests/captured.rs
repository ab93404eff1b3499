//! Packets that Linux wrote into a TUN device without offload, on documentation addresses.

use std::net::SocketAddr;

use oneway_wire::checksum;
use oneway_wire::emit::{self, TcpHeader};
use oneway_wire::icmp::Message;
use oneway_wire::ip::{IpView, Transport, protocol};
use oneway_wire::rewrite::rewrite;
use oneway_wire::tcp::{Flags, TcpOption};

const SYN_V4: &str = "4500003cf17f40004006c538c0000201c0000202d56801bbef739cf200000000a002faf077bd0000\
    020405b40402080a5e288f98000000000103030a";
const SYN_V6: &str = "6007a0610028064020010db800000000000000000000000120010db8000000000000000000000002\
    c1b001bbb6f40ba000000000a002fd2028930000020405a00402080a3ddf0309000000000103030a";
const UDP_V4: &str = "45000020b283400040110446c0000201c0000202ae890035000cf9417265616c";
const UDP_V6: &str = "600cdd9b000c114020010db800000000000000000000000120010db8000000000000000000000002\
    91e20035000c3e787265616c";
const ROUTER_SOLICITATION: &str = "6000000000083afffe80000000000000947a89c5cf0e0daaff020000000000000000\
    0000000000028500823e00000000";
/// The headers of the two fragments of a datagram of 1500 times `z`, and how many of these follow.
const FRAGMENTS_V4: [(&str, usize); 2] = [
    ("450005dcb2ba200040111e53c0000201c0000202ae89003505e4ee90", 1472),
    ("45000030b2ba00b940114346c0000201c0000202", 28),
];
const FRAGMENTS_V6: [(&str, usize); 2] = [
    (
        "600cdd9b05b02c4020010db800000000000000000000000120010db8000000000000000000000002\
         110000017c188ea091e2003505e433c7",
        1440,
    ),
    (
        "600cdd9b00442c4020010db800000000000000000000000120010db8000000000000000000000002\
         110005a87c188ea0",
        60,
    ),
];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .map(|digit| digit.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn whole((headers, count): (&str, usize)) -> Vec<u8> {
    let mut packet = hex(headers);
    packet.resize(packet.len() + count, b'z');
    packet
}

#[test]
fn syns() {
    for (text, src, dst, mss, window) in [
        (SYN_V4, "192.0.2.1:54632", "192.0.2.2:443", 1460, 64_240),
        (SYN_V6, "[2001:db8::1]:49584", "[2001:db8::2]:443", 1440, 64_800),
    ] {
        let packet = hex(text);
        let ip = IpView::parse(&packet).unwrap();
        assert!(ip.header_checksum_valid());
        assert_eq!((ip.total_len(), ip.ttl()), (packet.len(), 64));
        let Transport::Tcp(tcp) = ip.transport().unwrap() else { panic!("not TCP") };
        assert!(tcp.checksum_valid(ip.src(), ip.dst()));
        assert_eq!(SocketAddr::new(ip.src(), tcp.src_port()).to_string(), src);
        assert_eq!(SocketAddr::new(ip.dst(), tcp.dst_port()).to_string(), dst);
        assert_eq!((tcp.flags(), tcp.window(), tcp.sequence_len()), (Flags::SYN, window, 1));
        let options: Vec<_> = tcp.options().collect();
        assert_eq!(options[0], TcpOption::Mss(mss));
        assert_eq!(options[1], TcpOption::SackPermitted);
        assert!(matches!(options[2], TcpOption::Timestamps { echo: 0, .. }));
        assert_eq!(options[3..], [TcpOption::WindowScale(10)]);
    }
}

#[test]
fn datagrams() {
    for text in [UDP_V4, UDP_V6] {
        let packet = hex(text);
        let ip = IpView::parse(&packet).unwrap();
        assert!(ip.header_checksum_valid());
        let Transport::Udp(udp) = ip.transport().unwrap() else { panic!("not UDP") };
        assert!(udp.checksum_valid(ip.src(), ip.dst()));
        assert_eq!((udp.dst_port(), udp.payload()), (53, &b"real"[..]));
        // The same datagram made here has the same transport header.
        let mut made = Vec::new();
        let src = SocketAddr::new(ip.src(), udp.src_port());
        emit::udp_datagram(&mut made, src, SocketAddr::new(ip.dst(), 53), b"real").unwrap();
        assert_eq!(made[ip.header_len()..], *ip.payload());
    }
}

#[test]
fn a_segment_made_here_is_the_same() {
    let packet = hex(SYN_V6);
    let header =
        TcpHeader { seq: 0xb6f4_0ba0, ack: 0, flags: Flags::SYN, window: 64_800, options: &packet[60..80] };
    let mut made = Vec::new();
    let (src, dst) = ("[2001:db8::1]:49584".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap());
    emit::tcp_segment(&mut made, src, dst, &header, &[]).unwrap();
    // But for the flow label.
    assert_eq!((made[0], &made[4..]), (0x60, &packet[4..]));
}

#[test]
fn router_solicitation() {
    let packet = hex(ROUTER_SOLICITATION);
    let ip = IpView::parse(&packet).unwrap();
    let Transport::Icmp(icmp) = ip.transport().unwrap() else { panic!("not ICMP") };
    assert!(icmp.checksum_valid(ip.src(), ip.dst()) && !icmp.is_error());
    assert_eq!((icmp.kind(), icmp.message()), (133, Message::Other));
}

#[test]
fn rewriting_there_and_back_is_nothing() {
    for text in [SYN_V4, SYN_V6, UDP_V4, UDP_V6] {
        let original = hex(text);
        let ip = IpView::parse(&original).unwrap();
        let (src_port, dst_port) = ip.ports().unwrap();
        let (src, dst) = (SocketAddr::new(ip.src(), src_port), SocketAddr::new(ip.dst(), dst_port));
        let other: [SocketAddr; 2] = if src.is_ipv4() {
            ["198.51.100.7:40000".parse().unwrap(), "203.0.113.9:8443".parse().unwrap()]
        } else {
            ["[fd00::7]:40000".parse().unwrap(), "[fd00::9]:8443".parse().unwrap()]
        };
        let mut packet = original.clone();
        rewrite(&mut packet, other[0], other[1], false).unwrap();
        let rewritten = IpView::parse(&packet).unwrap();
        assert!(rewritten.header_checksum_valid());
        let (from, to) = (rewritten.src(), rewritten.dst());
        assert!(checksum::transport_valid(from, to, rewritten.protocol(), rewritten.payload()));
        rewrite(&mut packet, src, dst, false).unwrap();
        assert_eq!(packet, original);
    }
}

#[test]
fn fragments_are_cut_as_linux_cuts_them() {
    for (pieces, id) in [(FRAGMENTS_V4, 0xb2ba), (FRAGMENTS_V6, 0x7c18_8ea0)] {
        let first = whole(pieces[0]);
        let view = IpView::parse(&first).unwrap();
        assert_eq!(view.protocol(), protocol::UDP);
        let (src_port, dst_port) = view.ports().unwrap();
        let mut datagram = Vec::new();
        emit::udp_datagram(
            &mut datagram,
            SocketAddr::new(view.src(), src_port),
            SocketAddr::new(view.dst(), dst_port),
            &[b'z'; 1500],
        )
        .unwrap();
        let made = emit::fragments(&datagram, 1500, id).unwrap();
        assert_eq!(made.len(), 2);
        for (made, captured) in made.iter().zip(pieces.map(whole)) {
            let (made, captured) = (IpView::parse(made).unwrap(), IpView::parse(&captured).unwrap());
            assert!(captured.header_checksum_valid());
            assert_eq!((made.total_len(), made.payload()), (captured.total_len(), captured.payload()));
            let (made, captured) = (made.fragment().unwrap(), captured.fragment().unwrap());
            assert_eq!((made.offset, made.more, captured.id), (captured.offset, captured.more, id));
        }
    }
}
