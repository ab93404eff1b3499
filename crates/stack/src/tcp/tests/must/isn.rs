//! RFC 9293 3.4.1, RFC 6528: initial sequence numbers.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::super::super::*;

fn pair(port: u16) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new([192, 0, 2, 1].into(), port), "198.51.100.1:443".parse().unwrap())
}

/// MUST-8: a clock of 4 microseconds drives them.
#[test]
fn must_8_the_clock_drives_the_numbers() {
    let generator = IsnGenerator::new();
    let (local, remote) = pair(1);
    let at = |micros| generator.isn(Time::from_micros(micros), local, remote);
    assert_eq!(at(4) - at(0), 1);
    assert_eq!(at(3) - at(0), 0);
    // A cycle of about 4.55 hours, and no jump at its end.
    assert_eq!(at(4 << 32), at(0));
    assert_eq!(at((4 << 32) + 4) - at((4 << 32) - 4), 2);
}

/// MUST-9 and RFC6528-1: F cannot be computed from outside: it depends on both ends and on a secret that is another in
/// each process and each generator.
#[test]
fn must_9_and_rfc6528_1_nobody_can_compute_them() {
    let (one, other) = (IsnGenerator::new(), IsnGenerator::new());
    let mut seen = HashSet::new();
    for port in 0..1000 {
        let (local, remote) = pair(port);
        for generator in [&one, &other] {
            seen.insert(generator.isn(Time::from_micros(0), local, remote).0);
            seen.insert(generator.isn(Time::from_micros(0), remote, local).0);
        }
    }
    // 4000 numbers of 32 bits: that two are the same happens twice in a thousand runs; that ten are, never.
    assert!(seen.len() > 3990);
}
