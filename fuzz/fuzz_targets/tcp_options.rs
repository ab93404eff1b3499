//! TCP headers and their options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_wire::tcp::{TcpOption, TcpOptions, TcpView};

fn walk(mut options: TcpOptions<'_>, len: usize) {
    let mut count = 0;
    for option in options.by_ref() {
        count += 1;
        if let TcpOption::Sack(blocks) = option {
            assert!((1..=4).contains(&blocks.iter().count()));
        }
    }
    assert!(count <= len / 2);
    assert!(options.next().is_none());
}

fuzz_target!(|data: &[u8]| {
    walk(TcpOptions::new(data), data.len());
    if let Ok(tcp) = TcpView::parse(data) {
        assert_eq!(tcp.header_len() + tcp.payload().len(), data.len());
        let _ = (tcp.src_port(), tcp.dst_port(), tcp.seq(), tcp.ack(), tcp.window(), tcp.urgent());
        let _ = (tcp.flags(), tcp.checksum(), tcp.sequence_len(), format!("{:?}", tcp.flags()));
        walk(tcp.options(), tcp.header_len());
    }
});
