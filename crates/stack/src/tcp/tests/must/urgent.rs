//! RFC 9293 3.8.5, RFC 6093: urgent data.

use oneway_wire::tcp::Flags;

use super::*;

/// MUST-31: urgent data of any length arrive; they are data in their place, as RFC 6093 6 asks of those who read.
#[test]
fn must_31_urgent_data_are_data() {
    let mut bench = Bench::open();
    let mut expected = Vec::new();
    for len in [1, 2, 1000, 30_000] {
        let seg = bench.seg().len(len).flags(Flags::ACK | Flags::URG);
        expected.extend_from_slice(&seg.data);
        bench.say(seg);
        bench.seq += len as u32;
    }
    assert_eq!(bench.got, expected);
}
