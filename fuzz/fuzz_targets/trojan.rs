//! What a Trojan server sends: datagrams in a stream; and the headers of relayed datagrams, however many come together.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_outbound::fuzzing::{relayed, trojan_datagram, trojan_frame};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(found) = trojan_datagram(rest) {
        let Some((datagram, len)) = found else {
            // What is incomplete is at most a header and a datagram of the greatest size.
            assert!(rest.len() < 1 + 1 + 255 + 2 + 4 + 65_535);
            break;
        };
        assert!(0 < len && len <= rest.len());
        for cut in [0, len / 2, len - 1] {
            assert_eq!(trojan_datagram(&rest[..cut]), Ok(None));
        }
        // Names that nobody may have are kept by this and refused by what takes the header off.
        if let Ok(framed) = trojan_frame(&datagram) {
            assert_eq!(framed, &rest[..len]);
        }
        rest = &rest[len..];
    }

    let Some((size, received)) = data.split_first() else { return };
    let (single, joined) = relayed("a.example", received, usize::from(*size));
    assert_eq!(single, joined, "what comes together is taken for something else");
});
