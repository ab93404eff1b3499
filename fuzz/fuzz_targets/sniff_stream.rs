//! What a client sends first over TCP: TLS and HTTP, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_sniff::{Sniffed, stream};

fuzz_target!(|data: &[u8]| {
    let found = stream(data);
    // More bytes never make another name of it; they may show that it makes no sense.
    for len in [data.len() / 2, data.len().saturating_sub(1)] {
        let before = stream(data.get(..len).unwrap_or_default());
        if let (Sniffed::Name(before), Sniffed::Name(found)) = (&before, &found) {
            assert_eq!(before, found);
        }
        assert!(before != Sniffed::Nothing || found == Sniffed::Nothing);
    }
});
