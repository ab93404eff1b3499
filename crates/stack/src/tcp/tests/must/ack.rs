//! RFC 9293 3.8.6.3, RFC 5681 4.2: when an acknowledgment is sent.

use super::super::super::*;
use super::*;

/// MUST-40: it is delayed by less than half a second, whatever the configuration says.
#[test]
fn must_40_no_acknowledgment_waits_half_a_second() {
    for (chosen, expected) in [(MS(5), 5), (MS(100), 100), (MS(5000), 499)] {
        let mut bench = Bench::open_with(Config { delayed_ack: chosen, ..config() }, plain(), false);
        assert!(bench.data(10).is_empty());
        let begin = bench.now;
        let sent = bench.wait(MS(10_000));
        assert_eq!(sent.len(), 1);
        assert!(sent[0].1.is_pure_ack() && sent[0].1.ack == bench.seq);
        assert_eq!(sent[0].0.since(begin), MS(expected));
    }
}

/// MUST-58: acknowledgments are put together where they can be; MUST-59: all segments that have come are looked at
/// before one is sent.
#[test]
fn must_58_and_59_one_acknowledgment_for_all_that_came() {
    let mut bench = Bench::open();
    for _ in 0..10 {
        let seg = bench.seg().len(1460);
        bench.seq += 1460;
        bench.give(&seg);
    }
    let out = bench.flush();
    assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].ack == bench.seq);
    assert!(bench.flush().is_empty());
    // Data take it with them.
    assert!(bench.data(10).is_empty());
    let out = bench.write(10);
    assert_eq!((out.len(), out[0].ack), (1, bench.seq));
    assert!(bench.wait(MS(100)).is_empty());
}

/// RFC5681-10 (4.2): at least every second full-sized segment is acknowledged, and the first within 500 ms (MUST-40).
#[test]
fn rfc5681_10_every_second_segment_is_acknowledged() {
    let mut bench = Bench::open();
    for _ in 0..50 {
        let out = [bench.data(1460), bench.data(1460)].concat();
        assert!(out.iter().any(|segment| segment.ack == bench.seq));
    }
}

/// RFC5681-11 (4.2): no more than one acknowledgment for a segment that came.
#[test]
fn rfc5681_11_no_more_than_one_acknowledgment_for_a_segment() {
    let mut bench = Bench::open_with(config(), with_sack(), false);
    for n in 0..200_u32 {
        let at = bench.seq + (n * 7919) % 20_000;
        let out = bench.say(bench.seg().seq(at).len(500));
        assert!(out.len() <= 1);
        bench.seq = bench.conn.receive_next();
        assert!(bench.flush().is_empty());
    }
}

/// RFC 5681 4.2: what is out of order, and what fills a hole, is acknowledged at once.
#[test]
fn rfc5681_10_out_of_order_at_once() {
    let mut bench = Bench::open();
    let hole = bench.seg().len(10);
    for n in 1..4 {
        let out = bench.say(bench.seg().seq(bench.seq + 10 * n).len(10));
        assert!(out.len() == 1 && out[0].ack == bench.seq);
    }
    let out = bench.say(hole);
    assert!(out.len() == 1 && out[0].ack == bench.seq + 40);
    assert_eq!(bench.got.len(), 40);
}

/// MUST-58: a segment that came twice, from a peer without SACK, does not end the delaying of acknowledgments.
#[test]
fn must_58_a_duplicate_does_not_end_the_delay() {
    let mut bench = Bench::open();
    bench.data(100);
    let again = bench.seg().seq(bench.seq - 100).len(100);
    assert_eq!(bench.say(again).len(), 1);
    for _ in 0..10 {
        assert!(bench.data(100).is_empty());
        assert_eq!(bench.next_timer().len(), 1);
    }
}
