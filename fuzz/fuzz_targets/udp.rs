//! UDP headers, and datagrams made with any payload.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use oneway_wire::emit::udp_datagram;
use oneway_wire::ip::{IpView, Transport};
use oneway_wire::udp::UdpView;

fuzz_target!(|data: &[u8]| {
    if let Ok(udp) = UdpView::parse(data) {
        assert!(udp.total_len() <= data.len());
        assert_eq!(udp.payload().len() + 8, udp.total_len());
        let _ = (udp.src_port(), udp.dst_port(), udp.checksum());
        let _ = udp.checksum_valid([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    }
    for (src, dst) in [
        (SocketAddr::from(([192, 0, 2, 1], 1)), SocketAddr::from(([192, 0, 2, 2], 2))),
        (
            SocketAddr::from(([0x2001, 0, 0, 0, 0, 0, 0, 1], 1)),
            SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 2], 2)),
        ),
    ] {
        let mut packet = Vec::new();
        if udp_datagram(&mut packet, src, dst, data).is_ok() {
            let ip = IpView::parse(&packet).expect("our own packet");
            let Ok(Transport::Udp(udp)) = ip.transport() else { panic!("not UDP") };
            assert!(udp.checksum() != 0 && udp.checksum_valid(src.ip(), dst.ip()));
            assert_eq!(udp.payload(), data);
        }
    }
});
