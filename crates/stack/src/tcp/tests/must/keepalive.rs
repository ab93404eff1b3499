//! RFC 9293 3.8.4: keep-alive.

use std::time::Duration;

use super::super::super::*;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn probing() -> Config {
    Config { keep_alive: Some(KeepAlive::default()), ..config() }
}

/// MUST-24: it can be turned on and off for each connection, which has its own configuration; MUST-25: it is off by
/// default.
#[test]
fn must_24_and_25_keep_alive_is_off_by_default() {
    assert_eq!(Config::default().keep_alive, None);
    let mut bench = Bench::open();
    assert!(bench.wait(100 * HOUR).is_empty());
    assert_eq!(bench.conn.state(), State::Established);
    let mut bench = Bench::open_with(probing(), plain(), false);
    assert!(!bench.wait(3 * HOUR).is_empty());
}

/// MUST-26: probes only when nothing is outstanding and nothing came for the interval; MUST-28: two hours by default.
#[test]
fn must_26_and_28_probes_only_after_two_hours_of_silence() {
    let mut bench = Bench::open_with(probing(), plain(), false);
    // Data, an acknowledgment, the peer's own keep-alive: each is a sign of life.
    for n in 0..9 {
        assert!(bench.wait(2 * HOUR - MS(20)).is_empty());
        let seg = match n % 3 {
            0 => bench.seg(),
            1 => bench.seg().seq(bench.seq - 1),
            _ => {
                bench.data(10);
                bench.wait(MS(10));
                continue;
            }
        };
        bench.say(seg);
    }
    assert!(bench.wait(2 * HOUR - MS(20)).is_empty());
    let probes = bench.wait(MS(21));
    assert_eq!(probes.len(), 1);
    let probe = &probes[0].1;
    assert!(probe.is_pure_ack() && probe.seq == ISS);
    // While data are outstanding they are what is sent, and no probe.
    let mut bench = Bench::open_with(Config { give_up: 10 * HOUR, ..probing() }, plain(), false);
    bench.write(10);
    assert!(bench.wait(4 * HOUR).iter().all(|(_, segment)| segment.data.len() == 10));
}

/// MUST-27: the interval can be chosen.
#[test]
fn must_27_the_interval_is_configurable() {
    let keep = KeepAlive { idle: Duration::from_secs(7), interval: Duration::from_secs(2), probes: 3 };
    let mut bench = Bench::open_with(Config { keep_alive: Some(keep), ..config() }, plain(), false);
    let begin = bench.now;
    let times: Vec<_> =
        bench.wait(Duration::from_secs(60)).iter().map(|(at, _)| at.since(begin).as_secs()).collect();
    assert_eq!(times, [7, 9, 11, 13], "three probes, and the reset");
    assert_eq!(bench.conn.broken(), Some(Broken::TimedOut));
}

/// MUST-29: one probe without an answer is no dead connection, and the peer has time for each, though the caller comes
/// late.
#[test]
fn must_29_one_lost_probe_is_no_dead_connection() {
    let mut bench = Bench::open_with(probing(), plain(), false);
    for _ in 0..8 {
        assert_eq!(bench.next_timer().len(), 1);
    }
    bench.say(bench.seg());
    assert_eq!(bench.conn.state(), State::Established);
    assert!(bench.wait(2 * HOUR - MS(1)).is_empty());
    // As after a suspend: all probes would be due by now.
    bench.now = bench.now + 10 * HOUR;
    bench.conn.timeout(bench.now);
    assert_eq!(bench.flush().len(), 1);
    bench.conn.timeout(bench.now);
    assert!(bench.flush().is_empty());
    assert_eq!(bench.conn.next_timeout(), Some(bench.now + Duration::from_secs(75)));
}
