//! RFC 9293 3.8.1 and 3.8.3, RFC 6298: when data are sent again, and when it is given up.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::super::super::*;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Milliseconds at which something is sent.
fn times(bench: &mut Bench, time: Duration) -> Vec<u128> {
    let begin = bench.now;
    bench.wait(time).iter().map(|(at, _)| at.since(begin).as_millis()).collect()
}

/// MUST-18 and RFC6298-3 (3): no sample is taken of data that were sent twice, but where timestamps tell which it was
/// (RFC 7323 4).
#[test]
fn must_18_and_rfc6298_3_karn() {
    let mut bench = Bench::open();
    let before = bench.conn.rtt.smoothed();
    bench.write(100);
    bench.next_timer();
    bench.now = bench.now + MS(50);
    bench.acks(100);
    assert_eq!(bench.conn.rtt.smoothed(), before);
    let mut bench = Bench::open_with(config(), plain(), true);
    let before = bench.conn.rtt.smoothed();
    bench.write(100);
    bench.next_timer();
    bench.now = bench.now + MS(50);
    bench.acks(100);
    assert_eq!(bench.conn.rtt.smoothed(), before.map(|smoothed| smoothed * 7 / 8 + MS(51) / 8));
}

/// MUST-19 and RFC6298-6 (5.5): the time-out doubles, and stays so until a sample is taken.
#[test]
fn must_19_and_rfc6298_6_the_time_out_doubles() {
    let mut bench = Bench::open();
    bench.write(100);
    assert_eq!(times(&mut bench, MS(7000)), [200, 600, 1400, 3000, 6200]);
    // Acknowledged, but nobody can tell which of them: the next data have the same time-out as the last.
    bench.acks(100);
    bench.write(100);
    assert_eq!(times(&mut bench, MS(7000)), [6400]);
    bench.acks(100);
    // New data that were sent once bring it back.
    bench.write(100);
    bench.now = bench.now + MS(10);
    bench.acks(100);
    bench.write(100);
    assert_eq!(times(&mut bench, MS(700)), [200, 600]);
}

/// MUST-20: after R2 the connection is closed; MUST-21: R2 can be chosen for a connection.
#[test]
fn must_20_and_21_it_is_given_up_after_r2() {
    for seconds in [100, 300, 1000] {
        let r2 = Duration::from_secs(seconds);
        let mut bench = Bench::open_with(Config { give_up: r2, ..config() }, plain(), false);
        bench.write(100);
        bench.wait(r2);
        assert_eq!(bench.conn.state(), State::Established);
        let last = bench.wait(100 * SECOND);
        assert_eq!(bench.conn.broken(), Some(Broken::TimedOut));
        assert!(last.last().unwrap().1.has(Flags::RST));
    }
    // RFC 9293 SHLD-11: at least 100 s by default.
    assert!(Config::default().give_up >= 100 * SECOND);
}

/// MUST-22: the same goes for SYNs, and the application learns of it; MUST-23: R2 of a SYN is at least 3 minutes.
#[test]
fn must_22_and_23_syns_are_sent_for_three_minutes() {
    let mut bench = Bench::connect(config());
    assert_eq!(times(&mut bench, 179 * SECOND), [1000, 3000, 7000, 15_000, 31_000, 63_000, 123_000]);
    assert_eq!(bench.conn.state(), State::SynSent);
    bench.wait(120 * SECOND);
    assert_eq!((bench.conn.state(), bench.conn.broken()), (State::Closed, Some(Broken::TimedOut)));
    // The SYN-ACK of a passive open as well.
    let mut bench = Bench::accept(config(), plain(), false, false);
    bench.flush();
    let sent = bench.wait(180 * SECOND);
    assert!(sent.len() > 5 && sent.iter().all(|(_, segment)| segment.has(Flags::SYN | Flags::ACK)));
    bench.wait(300 * SECOND);
    assert_eq!(bench.conn.broken(), Some(Broken::TimedOut));
}

/// RFC6298-1 (2.1, 2.2): 1 s before the first sample; then SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 RTTVAR.
#[test]
fn rfc6298_1_the_first_sample() {
    let mut bench = Bench::accept(config(), plain(), false, false);
    bench.flush();
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + SECOND));
    bench.now = bench.now + MS(100);
    bench.say(bench.seg());
    bench.write(1);
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + MS(300)));
}

/// RFC6298-2 (2.3): the further ones: RTTVAR first, with the old SRTT.
#[test]
fn rfc6298_2_the_next_samples() {
    let mut bench = Bench::accept(config(), plain(), false, false);
    bench.flush();
    bench.now = bench.now + MS(400);
    bench.say(bench.seg());
    bench.write(1);
    bench.now = bench.now + MS(800);
    bench.acks(1);
    // RTTVAR = 3/4 200 + 1/4 400 = 250, SRTT = 7/8 400 + 1/8 800 = 450.
    bench.write(1);
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + MS(450 + 4 * 250)));
}

/// RFC6298-4 (3, 4): at least one sample a round trip is taken.
#[test]
fn rfc6298_4_a_sample_in_each_round_trip() {
    let mut bench = Bench::open();
    let mut last = bench.conn.rtt.smoothed();
    for _ in 0..10 {
        bench.write(3000);
        bench.now = bench.now + MS(70);
        bench.acks(3000);
        let smoothed = bench.conn.rtt.smoothed();
        assert!(smoothed > last);
        last = smoothed;
    }
}

/// RFC6298-5 (5): nothing is sent again earlier than a time-out after it was last sent, and the timer starts anew with
/// each acknowledgment of new data (5.1 to 5.3).
#[test]
fn rfc6298_5_never_too_early() {
    let mut bench = Bench::open();
    bench.write(1000);
    bench.now = bench.now + MS(150);
    bench.write(1000);
    // (5.1): the timer runs already.
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + MS(50)));
    bench.now = bench.now + MS(40);
    bench.acks(1000);
    // (5.3): anew, by a whole time-out of SRTT = 7/8 10 + 1/8 190 = 32.5 and RTTVAR = 3/4 5 + 1/4 180 = 48.75.
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + Duration::from_micros(32_500 + 4 * 48_750)));
    // (5.2): and stops when all is acknowledged.
    bench.acks(1000);
    assert_eq!(bench.conn.next_timeout(), None);
}

/// RFC6298-7 (5.7): after the timer went off for a SYN, data begin with a time-out of 3 s.
#[test]
fn rfc6298_7_three_seconds_after_a_lost_syn() {
    let mut bench = Bench::accept(config(), plain(), false, false);
    bench.flush();
    bench.next_timer();
    bench.now = bench.now + MS(10);
    bench.say(bench.seg());
    bench.write(1);
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + 3 * SECOND));
    let mut bench = Bench::connect(config());
    bench.next_timer();
    bench.say(bench.syn(Flags::SYN | Flags::ACK));
    bench.write(1);
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + 3 * SECOND));
}

/// RFC6298-8 (2.5): the time-out is bounded, by no less than 60 s.
#[test]
fn rfc6298_8_the_bound_of_the_time_out() {
    let mut bench = Bench::open_with(Config { give_up: 3600 * SECOND, ..config() }, plain(), false);
    bench.write(1);
    let times = times(&mut bench, 1000 * SECOND);
    assert_eq!(times[times.len() - 1] - times[times.len() - 2], 60_000);
}

/// A FIN is sent again as data are, also at a window that stays shut, and the connection lives.
#[test]
fn must_20_a_lone_fin_is_sent_again() {
    let mut bench = Bench::open();
    bench.window = 0;
    bench.say(bench.seg());
    assert!(bench.close()[0].has(Flags::FIN));
    for _ in 0..20 {
        let out = bench.next_timer();
        assert!(out.len() == 1 && out[0].has(Flags::FIN) && out[0].seq == ISS + 1);
        bench.say(bench.seg());
    }
    // What the peer sends meanwhile is acknowledged where the peer looks: its window ends before our FIN.
    let out = bench.data(5000);
    assert!(!out.is_empty() && out.iter().all(|segment| segment.seq == ISS + 1));
    bench.acks(1);
    assert_eq!(bench.conn.state(), State::FinWait2);
}
