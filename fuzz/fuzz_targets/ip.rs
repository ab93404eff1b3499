//! The IP view, and every answer that is made from one packet alone.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use oneway_wire::emit::{Unreachable, fragments, icmp_echo_reply, icmp_error_for, tcp_rst_for};
use oneway_wire::ip::{IpView, Transport};

/// Parses a packet made by us, which must be right.
fn assert_right(packet: &[u8]) {
    let ip = IpView::parse(packet).expect("our own packet");
    assert_eq!(ip.total_len(), packet.len());
    assert!(ip.header_checksum_valid());
    match ip.transport().expect("our own transport header") {
        Transport::Tcp(tcp) => assert!(tcp.checksum_valid(ip.src(), ip.dst())),
        Transport::Udp(udp) => assert!(udp.checksum_valid(ip.src(), ip.dst())),
        Transport::Icmp(icmp) => assert!(icmp.checksum_valid(ip.src(), ip.dst())),
        Transport::Other => panic!("nothing"),
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(ip) = IpView::parse_quoted(data) {
        assert!(ip.header_len() <= ip.packet().len());
        assert!(ip.packet().len() <= ip.total_len());
        let _ = (ip.src(), ip.dst(), ip.ports(), ip.fragment(), ip.fragment_header(), ip.ttl());
        let _ = (ip.traffic_class(), ip.dont_fragment(), ip.is_partial(), ip.header_checksum_valid());
    }
    let v4 = IpAddr::from([192, 0, 2, 1]);
    let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
    let Ok(ip) = IpView::parse(data) else {
        assert!(icmp_error_for(data, Unreachable::Port, v4).is_none());
        assert!(icmp_error_for(data, Unreachable::Port, v6).is_none());
        return;
    };
    assert_eq!(ip.packet().len(), ip.total_len());
    let source = if ip.src().is_ipv4() { v4 } else { v6 };
    for kind in [Unreachable::Port, Unreachable::FragNeeded { mtu: 1280 }, Unreachable::TtlExceeded] {
        if let Some(error) = icmp_error_for(data, kind, source) {
            assert_right(&error);
            assert!(error.len() <= if source.is_ipv4() { 576 } else { 1280 });
            assert!(icmp_error_for(&error, kind, source).is_none(), "an error about an error");
        }
    }
    if let Some(reply) = icmp_echo_reply(&ip) {
        assert_right(&reply);
        let reply = IpView::parse(&reply).expect("our own packet");
        assert!(icmp_echo_reply(&reply).is_none(), "an echo without end");
    }
    if let Ok(Transport::Tcp(tcp)) = ip.transport()
        && let Some(reset) = tcp_rst_for(&ip, &tcp)
    {
        assert_right(&reset);
        let reset = IpView::parse(&reset).expect("our own packet");
        let Ok(Transport::Tcp(tcp)) = reset.transport() else { panic!("no reset") };
        assert!(tcp_rst_for(&reset, &tcp).is_none(), "a reset about a reset");
    }
    if let Ok(pieces) = fragments(data, 1280, 1) {
        let payload: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| {
                let piece = IpView::parse(piece).expect("our own fragment");
                assert!(piece.total_len() <= 1280);
                piece.payload().to_vec()
            })
            .collect();
        assert_eq!(payload, ip.payload());
    }
});
