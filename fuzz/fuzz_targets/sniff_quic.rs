//! A client's first QUIC datagrams.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_sniff::{Quic, initial};

fuzz_target!(|data: &[u8]| {
    // As datagrams from the network, and as frames of a client that has the keys.
    let mut quic = Quic::default();
    let mut sealed = Quic::default();
    for (number, part) in (0..8).zip(data.split(|byte| *byte == 0xfe)) {
        quic.datagram(part);
        if let Some(packet) = initial(1 + number % 2, b"client's", number, part) {
            sealed.datagram(&packet);
        }
    }
    quic.datagram(data);
});
