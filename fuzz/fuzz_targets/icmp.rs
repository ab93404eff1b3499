//! ICMP messages of both families and the packets they quote.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_wire::icmp::{IcmpView, Message};
use oneway_wire::ip::IpView;

fuzz_target!(|data: &[u8]| {
    for icmp in [IcmpView::parse_v4(data), IcmpView::parse_v6(data)].into_iter().flatten() {
        let _ = (icmp.kind(), icmp.code(), icmp.checksum());
        let _ = icmp.checksum_valid([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        assert_eq!(icmp.body().len() + 8, data.len());
        if let Message::Error { quoted, .. } = icmp.message() {
            assert!(icmp.is_error());
            if let Ok(ip) = IpView::parse_quoted(quoted) {
                let _ = (ip.src(), ip.dst(), ip.ports(), ip.protocol());
            }
        }
    }
});
