//! ICMP echo is answered by the truth alone.

use std::net::IpAddr;

use oneway_lab::capture::{Direction, Recorder};
use oneway_lab::client::{Ping, parallel};
use oneway_lab::harness::TestResult;
use oneway_lab::topology::{Simple, Topology, address};

use crate::common::{SECOND, TUN, lab, run};

pub fn directly_it_is_the_far_end_that_answers() -> TestResult {
    let (lab, _oneway) = lab(None, &[])?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    for to in address::ORIGIN.both() {
        let answer = lab.host.client().ping(to, 5 * SECOND)?;
        assert!(matches!(answer, Ping::Reply { from, .. } if from == to), "{to}: {answer:?}");
        let asked =
            |p: &oneway_lab::capture::Packet| p.is_icmp() && p.direction == Direction::Out && p.dst == to;
        let answered =
            |p: &oneway_lab::capture::Packet| p.is_icmp() && p.direction == Direction::In && p.src == to;
        assert_eq!((wire.count(asked)?, wire.count(answered)?), (1, 1), "{to}: one round trip on the wire");
    }
    Ok(())
}

pub fn nobody_answers_for_the_dead() -> TestResult {
    let (lab, _oneway) = lab(None, &[])?;
    let tun = Recorder::start(&lab.host, Some(TUN))?;
    for to in address::BLACK_HOLE.both() {
        assert_eq!(lab.host.client().ping(to, SECOND)?, Ping::Silent, "{to}");
        let replies = tun.count(|p| p.direction == Direction::In && p.src == to)?;
        assert_eq!(replies, 0, "{to}: something was written to the device in its name");
    }
    for (to, kind) in address::HOST_UNREACHABLE.both().into_iter().zip([3, 1]) {
        let answer = lab.host.client().ping(to, 5 * SECOND)?;
        assert!(matches!(answer, Ping::Error { kind: found, .. } if found == kind), "{to}: {answer:?}");
    }
    Ok(())
}

pub fn through_a_proxy_it_is_refused_and_nothing_leaks() -> TestResult {
    let (lab, _oneway) = lab(Some("socks5"), &[])?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    let targets: Vec<IpAddr> =
        [address::ORIGIN, address::BLACK_HOLE].into_iter().flat_map(|pair| pair.both()).collect();
    for to in targets {
        let answer = lab.host.client().ping(to, SECOND)?;
        assert!(matches!(answer, Ping::Error { .. }), "{to}: {answer:?}");
        assert_eq!(wire.count(|p| p.is_icmp() && p.dst == to)?, 0, "{to}: on the wire past the proxy");
    }
    Ok(())
}

/// Whatever worker has which of them.
pub fn many_at_once_get_one_reply_each() -> TestResult {
    const PINGS: usize = 60;
    let (lab, _oneway) = lab(None, &[])?;
    let tun = Recorder::start(&lab.host, Some(TUN))?;
    let client = lab.host.client();
    for to in address::ORIGIN.both() {
        let answers = parallel(PINGS, |n| client.ping_as(to, 7000 + n as u16, 5 * SECOND));
        for answer in answers {
            let answer = answer?;
            assert!(matches!(answer, Ping::Reply { from, .. } if from == to), "{to}: {answer:?}");
        }
        let replies = tun.count(|p| p.is_icmp() && p.direction == Direction::In && p.src == to)?;
        assert_eq!(replies, PINGS, "{to}");
    }
    Ok(())
}

/// Raw sockets of one host see each other's errors.
pub fn errors_about_another_stop_no_ping() -> TestResult {
    const ERRORS: usize = 600;
    let (lab, _oneway) = lab(None, &[])?;
    let client = lab.host.client();
    for (alive, dead) in address::ORIGIN.both().into_iter().zip(address::HOST_UNREACHABLE.both()) {
        let is_alive = |answer: &Ping| matches!(answer, Ping::Reply { from, .. } if *from == alive);
        let answer = client.ping_as(alive, 7, 5 * SECOND)?;
        assert!(is_alive(&answer), "{alive}: {answer:?}");
        // One, and then more than fit a socket's buffer.
        for count in [1, ERRORS] {
            for _ in 0..count {
                let answer = client.ping_as(dead, 9, 5 * SECOND)?;
                assert!(matches!(answer, Ping::Error { .. }), "{dead}: {answer:?}");
            }
            let answer = client.ping_as(alive, 7, 5 * SECOND)?;
            assert!(is_alive(&answer), "{alive} after {count} errors about {dead}: {answer:?}");
        }
    }
    Ok(())
}

/// The same where this program may have ping sockets, as on most desktops.
pub fn a_socket_for_pings_alone_tells_the_truth() -> TestResult {
    let lab = Topology::simple()?;
    lab.host.set_sysctl("ipv4/ping_group_range", "0 2147483647")?;
    let _oneway = run(&lab.host, None, &[])?;
    let client = lab.host.client();
    for to in address::ORIGIN.both() {
        let answer = client.ping(to, 5 * SECOND)?;
        assert!(matches!(answer, Ping::Reply { from, .. } if from == to), "{to}: {answer:?}");
    }
    for (to, kind) in address::HOST_UNREACHABLE.both().into_iter().zip([3, 1]) {
        for _ in 0..3 {
            let answer = client.ping_as(to, 7, 2 * SECOND)?;
            assert!(matches!(answer, Ping::Error { kind: found, .. } if found == kind), "{to}: {answer:?}");
        }
    }
    Ok(())
}
