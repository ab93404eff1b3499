//! RFC 9293 3.8.2, RFC 5681: congestion control.

use oneway_wire::tcp::Flags;

use super::super::super::*;
use super::*;

fn len(out: &[Out]) -> usize {
    out.iter().map(|segment| segment.data.len()).sum()
}

/// Much to send, and what leaves at once.
fn sending(syn: SynOptions) -> (Bench, usize) {
    let mut bench = Bench::open_with(config(), syn, false);
    bench.conn.send(vec![0; 500_000]);
    let sent = len(&bench.flush());
    (bench, sent)
}

/// RFC5681-1 (3.1, as RFC 6928 2 has it): the initial window.
#[test]
fn rfc5681_1_the_initial_window() {
    assert_eq!(sending(plain()).1, 10_000);
}

/// RFC5681-2 (3.1): neither the SYN-ACK nor its acknowledgment makes it larger.
#[test]
fn rfc5681_2_the_handshake_does_not_count() {
    let bench = Bench::open();
    assert_eq!(bench.conn.reno.window(), 10_000);
    let mut bench = Bench::connect(config());
    bench.say(bench.syn(Flags::SYN | Flags::ACK));
    assert_eq!(bench.conn.reno.window(), 10_000);
}

/// MUST-19 and RFC5681-3 (3.1): slow start grows the window by what is acknowledged, and by no more.
#[test]
fn must_19_and_rfc5681_3_slow_start() {
    let (mut bench, mut window) = sending(plain());
    for _ in 0..3 {
        let mut grown = 0;
        for _ in 0..window / 1000 {
            grown += len(&bench.acks(1000));
        }
        assert_eq!(grown, (2 * window).min(60_000), "what left, and as much again");
        window = grown;
    }
}

/// MUST-19 and RFC5681-4 (3.1): congestion avoidance grows it by no more than a segment in a round trip.
#[test]
fn must_19_and_rfc5681_4_congestion_avoidance() {
    let (mut bench, _) = sending(plain());
    bench.next_timer();
    bench.ack = bench.conn.nxt;
    bench.say(bench.seg());
    let mut last = 0;
    for _ in 0..20 {
        let flight = bench.conn.nxt - bench.ack;
        let before = bench.conn.reno.window();
        if last >= 5000 {
            assert!(before <= last + 1000, "{last} to {before}");
        }
        last = before;
        for _ in 0..flight / 1000 {
            bench.acks(1000);
        }
        if flight % 1000 > 0 {
            bench.acks(flight % 1000);
        }
    }
    assert!(last > 10_000, "and it grows");
}

/// RFC5681-5 (3.1, equation 4) and RFC5681-7: a time-out leaves half of the flight as the threshold, and one segment.
#[test]
fn rfc5681_5_and_7_a_time_out() {
    let (mut bench, sent) = sending(plain());
    assert_eq!(sent, 10_000);
    let out = bench.next_timer();
    assert_eq!((out.len(), len(&out), out[0].seq), (1, 1000, ISS + 1));
    assert_eq!(bench.conn.reno.window(), 1000);
    // Slow start up to 5000, half of the flight, and then no faster than a segment in a round trip.
    bench.ack += 1000;
    while bench.conn.reno.window() < 5000 {
        let before = bench.conn.reno.window();
        bench.say(bench.seg());
        bench.ack += 1000;
        assert!(bench.conn.reno.window() <= before + 1000);
    }
    let before = bench.conn.reno.window();
    bench.say(bench.seg());
    bench.ack += 1000;
    bench.say(bench.seg());
    assert!(bench.conn.reno.window() <= before + 1000);
}

/// RFC5681-6 (3.1): a further time-out of the same data holds the threshold.
#[test]
fn rfc5681_6_the_threshold_is_held() {
    let (mut bench, _) = sending(plain());
    for _ in 0..4 {
        assert_eq!(len(&bench.next_timer()), 1000);
    }
    bench.ack += 10_000;
    bench.say(bench.seg());
    assert_eq!(bench.conn.reno.window(), 1000 + 10_000);
    let (mut bench, _) = sending(plain());
    for _ in 0..4 {
        bench.next_timer();
    }
    for _ in 0..4 {
        bench.acks(1000);
    }
    assert_eq!(bench.conn.reno.window(), 5000, "slow start goes up to the first half");
    bench.acks(1000);
    assert_eq!(bench.conn.reno.window(), 5000);
}

/// RFC5681-8 (3.1, as RFC 6928 2 has it): when the SYN or its answer was lost more than once, data begin with one
/// segment.
#[test]
fn rfc5681_8_one_segment_after_lost_syns() {
    for (lost, window) in [(1, 10_000), (2, 1000), (3, 1000)] {
        let mut bench = Bench::accept(config(), plain(), false, false);
        bench.flush();
        for _ in 0..lost {
            bench.next_timer();
        }
        bench.say(bench.seg());
        assert_eq!(len(&bench.write(50_000)), window);
    }
}

/// RFC5681-9 (3.2): the third duplicate acknowledgment sends the segment again and halves; the further ones let new data
/// out; new data acknowledged take the window back to the threshold.
#[test]
fn rfc5681_9_fast_retransmit_and_recovery() {
    let (mut bench, _) = sending(plain());
    assert!(bench.acks(0).is_empty() && bench.acks(0).is_empty());
    let out = bench.acks(0);
    assert_eq!((out.len(), len(&out), out[0].seq), (1, 1000, ISS + 1));
    assert_eq!(bench.conn.reno.window(), 5000);
    let mut new = 0;
    for _ in 0..7 {
        for segment in bench.acks(0) {
            assert!(segment.seq.ge(ISS + 10_001));
            new += segment.data.len();
        }
    }
    assert!((1000..=5000).contains(&new), "{new}");
    bench.ack += 10_000;
    bench.say(bench.seg());
    assert_eq!((bench.conn.reno.window(), bench.conn.inflated, bench.conn.recovery), (5000, 0, None));
}

/// RFC5681-9: segments with data, or with another window, are no duplicates.
#[test]
fn rfc5681_9_what_is_no_duplicate() {
    let (mut bench, _) = sending(plain());
    for n in 0..10 {
        let out = if n % 2 == 0 { bench.data(10) } else { bench.say(bench.seg().window(59_000 - n)) };
        assert_eq!(len(&out), 0);
    }
    assert_eq!(bench.conn.reno.window(), 10_000);
}

/// RFC5681-12 (4.3): the loss of a retransmission lowers the window a second time.
#[test]
fn rfc5681_12_a_lost_retransmission_counts_again() {
    let (mut bench, sent) = sending(with_sack());
    assert_eq!(sent, 10_000);
    let first = ISS + 1;
    // All but the first segment arrive; it is sent again.
    bench.now = bench.now + MS(10);
    let out = bench.say(bench.seg().sack(&[(first + 1000, first + 10_000)]));
    assert_eq!(out[0].seq, first);
    let lowered = bench.conn.reno.window();
    assert_eq!(lowered, 5000);
    let newest = out.last().unwrap().end();
    assert!(newest.gt(first + 10_000), "new data left after it");
    // They arrive, what was sent again does not.
    bench.now = bench.now + MS(10);
    let out = bench.say(bench.seg().sack(&[(first + 1000, newest)]));
    let out = if out.iter().any(|segment| segment.seq == first) { out } else { bench.next_timer() };
    assert!(out.iter().any(|segment| segment.seq == first), "it is sent a third time");
    assert_eq!(bench.conn.reno.window(), lowered / 2);
}

/// RFC 5681 4.1: after a pause longer than the time-out the window is no more than the initial one.
#[test]
fn rfc5681_13_restart_after_idle() {
    let (mut bench, window) = sending(plain());
    for _ in 0..window / 1000 {
        bench.acks(1000);
    }
    bench.ack = bench.conn.nxt;
    while !bench.conn.all_acknowledged() {
        bench.say(bench.seg());
        bench.ack = bench.conn.nxt;
    }
    assert!(bench.conn.reno.window() > 20_000);
    bench.now = bench.now + MS(10_000);
    assert_eq!(len(&bench.write(60_000)), 10_000);
}

/// RFC5681-14 (3.1): nothing is sent beyond the smaller of both windows.
#[test]
fn rfc5681_14_the_smaller_window_counts() {
    let mut bench = Bench::open();
    bench.conn.send(vec![0; 500_000]);
    for round in 0..30 {
        bench.window = 3000 * (1 + round % 7);
        bench.say(bench.seg());
        let flight = bench.conn.nxt - bench.ack;
        assert!(flight <= bench.conn.reno.window().min(21_000));
        bench.acks(flight);
    }
}
