//! RFC 7323 3 to 5: timestamps, round trips by them, and protection against wrapped sequence numbers.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::super::super::*;
use super::*;

fn open() -> Bench {
    Bench::open_with(config(), plain(), true)
}

/// RFC7323-9 (3.2): once agreed upon, they are in every segment but resets.
#[test]
fn rfc7323_9_timestamps_in_every_segment() {
    let mut bench = Bench::accept(config(), plain(), true, false);
    let mut sent = bench.flush();
    bench.say(bench.seg());
    sent.extend(bench.data(5000));
    sent.extend(bench.write(5000));
    sent.extend(bench.next_timer());
    sent.extend(bench.close());
    assert!(sent.len() > 5 && sent.iter().all(|segment| segment.timestamps.is_some()));
}

/// RFC7323-10 (3.2): where they were not agreed upon they are not sent, and ignored when they come.
#[test]
fn rfc7323_10_timestamps_nobody_agreed_upon_are_ignored() {
    let mut bench = Bench::open();
    let seg = Seg { timestamps: Some(Timestamps { value: 7, echo: 9 }), ..bench.seg().len(5000) };
    let out = bench.say(seg);
    assert_eq!(bench.got.len(), 5000);
    assert!(out.iter().all(|segment| segment.timestamps.is_none()));
    // A client whose peer does not answer with them goes on without.
    let mut bench = Bench::connect(config());
    bench.say(bench.syn(Flags::SYN | Flags::ACK));
    assert_eq!(bench.write(10)[0].timestamps, None);
}

/// RFC7323-11 (3.2): with an ACK the peer's timestamp is echoed; without one the echo is zero.
#[test]
fn rfc7323_11_the_echo() {
    let mut bench = Bench::accept(config(), plain(), true, false);
    assert_eq!(bench.flush()[0].timestamps.unwrap().echo, clock(start()));
    let mut conn: Connection<Vec<u8>> =
        Connection::connect(&std::sync::Arc::new(config()), false, ISS, 77, start());
    conn.transmit(start(), |syn| {
        assert_eq!(syn.timestamps, Some(Timestamps { value: start().as_millis() + 77, echo: 0 }));
    });
}

/// RFC7323-12 (3.2): a segment that lacks them is dropped and aborts nothing; a reset needs none.
#[test]
fn rfc7323_12_a_segment_without_them_aborts_nothing() {
    let mut bench = open();
    let seg = Seg { timestamps: None, ..bench.seg().len(10) };
    assert!(bench.say(seg).is_empty());
    assert!(bench.got.is_empty());
    assert_eq!(bench.conn.state(), State::Established);
    let seg = Seg { timestamps: None, ..bench.seg().flags(Flags::RST) };
    bench.say(seg);
    assert_eq!(bench.conn.broken(), Some(Broken::Reset));
}

/// RFC7323-13 (4.1): an echo counts as a round trip only where something new is acknowledged.
#[test]
fn rfc7323_13_round_trips_only_of_new_acknowledgments() {
    let mut bench = open();
    let before = bench.conn.rtt.smoothed();
    let old = bench.echo;
    bench.write(100);
    bench.now = bench.now + MS(500);
    bench.echo = old;
    for _ in 0..10 {
        bench.acks(0);
        bench.data(10);
    }
    assert_eq!(bench.conn.rtt.smoothed(), before);
}

/// RFC7323-14 (4.3): the echo is the timestamp of the segment that advanced the window last: of delayed acknowledgments
/// the first, with a hole the one before it.
#[test]
fn rfc7323_14_which_timestamp_is_echoed() {
    let mut bench = open();
    let first = clock(bench.now);
    assert!(bench.data(10).is_empty());
    bench.now = bench.now + MS(2);
    assert!(bench.data(10).is_empty());
    let out = bench.next_timer();
    assert_eq!(out[0].timestamps.unwrap().echo, first, "the earliest that is acknowledged");
    // Out of order: not that one's.
    bench.now = bench.now + MS(2);
    let later = clock(bench.now);
    let out = bench.say(bench.seg().seq(bench.seq + 10).len(10));
    assert_ne!(out[0].timestamps.unwrap().echo, later);
    // What fills the hole.
    bench.now = bench.now + MS(2);
    let filling = clock(bench.now);
    let out = bench.data(10);
    assert_eq!(out[0].timestamps.unwrap().echo, filling);
}

/// RFC7323-15 (5.3, R1): an older timestamp makes a segment unacceptable: it is dropped, and answered.
#[test]
fn rfc7323_15_old_segments_are_dropped() {
    let mut bench = open();
    let recent = clock(bench.now);
    let seg = bench.seg().len(10).value(recent.wrapping_sub(1));
    let out = bench.say(seg);
    assert!(bench.got.is_empty());
    assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].ack == bench.seq);
    // Its ACK does not count either.
    bench.write(100);
    let seg = bench.seg().ack(bench.ack + 100).value(recent.wrapping_sub(1));
    bench.say(seg);
    assert!(!bench.conn.all_acknowledged());
    // The order goes over the wrap of the clock, which comes a second after the start.
    bench.now = bench.now + Duration::from_secs(3);
    assert!(clock(bench.now) < recent);
    bench.data(10);
    assert_eq!(bench.got.len(), 10);
}

/// RFC7323-16 (5.2, 5.3): it is checked when a segment arrives, also of one that is to be queued; resets are exempt.
#[test]
fn rfc7323_16_the_check_comes_first_and_spares_resets() {
    let mut bench = open();
    let old = clock(bench.now).wrapping_sub(1);
    bench.say(bench.seg().seq(bench.seq + 100).len(10).value(old));
    assert_eq!(bench.conn.held(), 0);
    bench.say(bench.seg().flags(Flags::RST).value(old));
    assert_eq!(bench.conn.broken(), Some(Broken::Reset));
}

/// RFC7323-17 (5.4): the clock ticks every millisecond, from another beginning for each pair of ends, and goes on with
/// the same two ends.
#[test]
fn rfc7323_17_the_clock() {
    let mut bench = open();
    let first = bench.write(1)[0].timestamps.unwrap().value;
    bench.now = bench.now + MS(250);
    assert_eq!(bench.write(1)[0].timestamps.unwrap().value - first, 250);
    assert_eq!(first, (start() + MS(10)).as_millis() + 77);
}

/// RFC7323-18 (5.5): after more than 24 days of silence the last timestamp says nothing; the new one takes its place.
#[test]
fn rfc7323_18_outdated_timestamps() {
    let mut bench = open();
    bench.now = bench.now + Duration::from_secs(25 * 24 * 3600);
    // Half of its clock's circle has passed.
    let recent = clock(start() + MS(10));
    assert!((clock(bench.now).wrapping_sub(recent) as i32) < 0);
    let out = bench.data(5000);
    assert_eq!(bench.got.len(), 5000);
    assert_eq!(out[0].timestamps.unwrap().echo, clock(bench.now));
}
