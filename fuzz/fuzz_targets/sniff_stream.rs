//! What a client sends first over TCP: TLS and HTTP, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_sniff::{Sniffed, stream};

fuzz_target!(|data: &[u8]| {
    let found = stream(data);
    // More bytes never make another name of it.
    for len in [data.len() / 2, data.len().saturating_sub(1)] {
        match stream(data.get(..len).unwrap_or_default()) {
            Sniffed::More => {}
            known => assert_eq!(known, found),
        }
    }
});
