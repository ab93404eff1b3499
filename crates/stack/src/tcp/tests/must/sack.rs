//! RFC 2018, RFC 6675 and RFC 8985: selective acknowledgments and what is made of them.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::super::super::*;
use super::*;

fn open() -> Bench {
    Bench::open_with(config(), with_sack(), false)
}

/// Ten segments under way, for 10 ms.
fn ten() -> Bench {
    let mut bench = open();
    assert_eq!(bench.write(10_000).len(), 10);
    bench.now = bench.now + MS(10);
    bench
}

/// The range of the segments `from..to` of those.
fn block(from: u32, to: u32) -> (Seq, Seq) {
    (ISS + 1 + 1000 * from, ISS + 1 + 1000 * to)
}

/// RFC2018-1 (2): SACK-permitted is sent in SYNs only.
#[test]
fn rfc2018_1_sack_is_offered_in_syns_only() {
    let mut bench = Bench::accept(config(), with_sack(), false, false);
    assert!(bench.flush()[0].syn.sack_permitted);
    bench.say(bench.seg());
    let mut sent = bench.write(10);
    sent.extend(bench.data(5000));
    sent.extend(bench.close());
    assert!(sent.iter().all(|segment| !segment.syn.sack_permitted));
}

/// RFC2018-2 (3): to a peer that did not permit it, no SACK option is sent; what such a peer sends is not heeded.
#[test]
fn rfc2018_2_no_sack_to_who_did_not_permit_it() {
    let mut bench = Bench::accept(config(), plain(), false, false);
    assert!(!bench.flush()[0].syn.sack_permitted);
    bench.say(bench.seg());
    let out = bench.say(bench.seg().seq(bench.seq + 100).len(10));
    assert!(out.len() == 1 && out[0].sack.is_empty());
    bench.write(10_000);
    bench.say(bench.seg().sack(&[block(1, 5)]));
    assert_eq!(bench.conn.board.sacked(), 0);
}

/// RFC2018-3 (4): the first block holds the segment that brought this acknowledgment about.
#[test]
fn rfc2018_3_the_first_block_is_the_latest() {
    let mut bench = open();
    for at in [100, 300, 500, 700, 900, 310, 110] {
        let (left, right) = (bench.seq + at, bench.seq + at + 10);
        let out = bench.say(bench.seg().seq(left).len(10));
        let first = out[0].sack[0];
        assert!(first.0.le(left) && first.1.ge(right), "{at}: {:?}", out[0].sack);
        assert!(out[0].sack.len() <= 4);
    }
}

/// RFC2018-4 (8): after a time-out the segment at the left edge is sent again, whether or not it was selectively
/// acknowledged.
#[test]
fn rfc2018_4_a_time_out_sends_the_left_edge() {
    let mut bench = ten();
    bench.say(bench.seg().sack(&[block(2, 10)]));
    // The peer drops again what it had: it acknowledges up to there and no further.
    bench.ack = ISS + 2001;
    bench.say(bench.seg());
    let sent = bench.wait(Duration::from_secs(2));
    assert!(sent.iter().any(|(_, segment)| segment.seq == ISS + 2001 && segment.data.len() == 1000));
}

/// RFC2018-5 (8): what is selectively acknowledged is kept until it is acknowledged.
#[test]
fn rfc2018_5_data_are_kept_until_they_are_acknowledged() {
    let mut bench = ten();
    bench.say(bench.seg().sack(&[block(1, 10)]));
    assert_eq!(bench.conn.queued(), 10_000);
    bench.acks(10_000);
    assert_eq!(bench.conn.queued(), 0);
}

/// RFC6675-1 (5): three segments' worth above a hole say that it is lost; it is sent again, once.
#[test]
fn rfc6675_1_a_hole_below_three_segments_is_lost() {
    let mut bench = ten();
    assert!(bench.say(bench.seg().sack(&[block(1, 2)])).is_empty());
    assert!(bench.say(bench.seg().sack(&[block(1, 3)])).is_empty());
    let out = bench.say(bench.seg().sack(&[block(1, 4)]));
    assert_eq!((out.len(), out[0].seq, out[0].data.len()), (1, ISS + 1, 1000));
    for end in 5..9 {
        let out = bench.say(bench.seg().sack(&[block(1, end)]));
        assert!(out.iter().all(|segment| segment.seq != ISS + 1));
    }
}

/// RFC6675-2 (5, C): what is in flight never exceeds the congestion window in recovery.
#[test]
fn rfc6675_2_the_window_bounds_recovery() {
    let mut bench = ten();
    bench.conn.send(vec![0; 50_000]);
    bench.say(bench.seg().sack(&[block(1, 4)]));
    assert_eq!(bench.conn.reno.window(), 5000);
    for end in 5..=10 {
        for segment in bench.say(bench.seg().sack(&[block(1, end)])) {
            assert!(!segment.data.is_empty());
            assert!(bench.conn.board.in_flight() <= bench.conn.reno.window() + 999);
        }
    }
}

/// RFC6675-3 (5.1): recovery begun by a time-out lasts until all that was sent before is acknowledged; nothing lowers
/// the window a second time for it.
#[test]
fn rfc6675_3_one_recovery_for_one_window() {
    let mut bench = ten();
    bench.say(bench.seg().sack(&[block(1, 4)]));
    let lowered = bench.conn.reno.window();
    assert!(bench.conn.recovery.is_some());
    for end in 5..=9 {
        bench.say(bench.seg().sack(&[block(1, end)]));
        assert_eq!(bench.conn.reno.window(), lowered);
    }
    bench.ack = ISS + 9001;
    bench.say(bench.seg());
    assert!(bench.conn.recovery.is_some(), "a segment of that window is not acknowledged");
    bench.acks(1000);
    assert_eq!(bench.conn.recovery, None);
}

/// RFC8985-1 (4): without SACK neither reordering timer nor tail loss probe.
#[test]
fn rfc8985_1_without_sack_neither_rack_nor_probe() {
    let mut bench = Bench::open();
    bench.write(3000);
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + MS(200)), "the retransmission timer");
    let mut bench = open();
    bench.write(3000);
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + MS(22)), "2 SRTT, and the least that timers wait");
}

/// RFC8985-2 (6.2, step 2): an acknowledgment faster than any round trip is of what was sent first, and says nothing of
/// what was sent again.
#[test]
fn rfc8985_2_too_fast_a_round_trip_does_not_count() {
    let mut bench = ten();
    let out = bench.say(bench.seg().sack(&[block(1, 4)]));
    assert_eq!(out[0].seq, ISS + 1);
    let before = bench.conn.board.in_flight();
    // 1 ms later the first is acknowledged: the original. Segments sent after it are not lost for that.
    bench.now = bench.now + MS(1);
    bench.ack = ISS + 4001;
    bench.say(bench.seg());
    assert_eq!(bench.conn.board.lost(), 0);
    assert!(bench.conn.board.in_flight() < before);
}

/// RFC8985-3 (7.3): one probe until it is answered, and RFC8985-4: after it the retransmission timer.
#[test]
fn rfc8985_3_and_4_one_probe_then_the_retransmission_timer() {
    let mut bench = open();
    bench.write(3000);
    let out = bench.next_timer();
    assert_eq!((out.len(), out[0].seq, out[0].data.len()), (1, ISS + 2001, 1000));
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + MS(200)));
    let out = bench.next_timer();
    assert_eq!(out[0].seq, ISS + 1, "a time-out begins with the first segment");
}

/// RFC 8985 7.3: a probe is new data where there are any and the window has room.
#[test]
fn rfc8985_3_a_probe_prefers_new_data() {
    let mut bench = open();
    bench.write(10_000);
    bench.conn.send(vec![0; 1000]);
    let out = bench.next_timer();
    assert_eq!((out.len(), out[0].seq), (1, ISS + 10_001));
}

/// RFC8985-5 (7.4.2): a probe that was answered as a duplicate found no loss; one whose data arrived by it only did.
#[test]
fn rfc8985_5_what_a_probe_has_found() {
    let probed = || {
        let mut bench = open();
        bench.write(3000);
        bench.next_timer();
        bench
    };
    // The acknowledgment was merely late. The probe then comes twice, and the peer says so.
    let mut bench = probed();
    bench.acks(3000);
    assert_eq!(bench.conn.reno.window(), 10_000, "the first acknowledgment may be of the original");
    bench.say(bench.seg().sack(&[(ISS + 2001, ISS + 3001)]));
    bench.write(1000);
    bench.acks(1000);
    assert_eq!(bench.conn.reno.window(), 10_000);
    // Nobody says that it came twice, and what was sent after it is acknowledged: the original was lost.
    let mut bench = probed();
    bench.acks(3000);
    bench.write(1000);
    bench.acks(1000);
    assert_eq!(bench.conn.reno.window(), 5000);
}

/// RFC8985-6 (6.2, step 4): what was sent before something that arrived is lost after the reordering window, and the
/// timer tells when (6.3).
#[test]
fn rfc8985_6_the_reordering_timer() {
    let mut bench = ten();
    bench.say(bench.seg().sack(&[block(1, 2)]));
    // A quarter of the shortest round trip of 10 ms.
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + Duration::from_micros(2500)));
    let out = bench.next_timer();
    assert_eq!((out[0].seq, out[0].data.len()), (ISS + 1, 1000));
}

/// The scoreboard is bounded, whatever blocks a peer sends.
#[test]
fn rfc2018_5_hostile_blocks_are_bounded() {
    let mut bench = open();
    bench.write(10_000);
    for n in 0..4000_u32 {
        let at = ISS + 2 + 2 * n;
        bench.give(&bench.seg().sack(&[(at, at + 1)]));
        bench.conn.board.check(bench.conn.una, bench.conn.nxt);
    }
    assert!(bench.conn.board.records() <= 2100, "{} records", bench.conn.board.records());
    bench.acks(10_000);
    assert!(bench.conn.all_acknowledged());
    assert!(!bench.close().is_empty() && bench.conn.state() == State::FinWait1);
    assert!(bench.say(bench.seg().flags(Flags::RST)).is_empty());
}
