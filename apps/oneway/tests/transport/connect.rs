//! Connect means connected.

use oneway_lab::capture::{Direction, Recorder};
use oneway_lab::client::{Outcome, parallel};
use oneway_lab::harness::TestResult;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;

use crate::common::{SECOND, TUN, lab};

/// SYN and ACK.
const SYN_ACK: u8 = 0x12;

pub fn a_closed_port_is_refused_before_any_syn_ack() -> TestResult {
    for scheme in [None, Some("socks5"), Some("http")] {
        let (lab, _oneway) = lab(scheme, &[])?;
        let tun = Recorder::start(&lab.host, Some(TUN))?;
        for to in address::SPARE.ports(4) {
            let dial = lab.host.client().tcp(to, 5 * SECOND)?;
            assert_eq!(dial.outcome, Outcome::Refused, "{scheme:?} {to}");
            assert!(dial.took < SECOND, "{scheme:?} {to}: after {:?}", dial.took);
            let accepted =
                tun.count(|p| p.is_tcp(SYN_ACK) && p.src == to.ip() && p.direction == Direction::In)?;
            assert_eq!(accepted, 0, "{scheme:?} {to}: a SYN-ACK before the refusal");
        }
    }
    Ok(())
}

pub fn a_black_hole_stays_silent() -> TestResult {
    for scheme in [None, Some("socks5")] {
        let (lab, _oneway) = lab(scheme, &[])?;
        let tun = Recorder::start(&lab.host, Some(TUN))?;
        for to in address::BLACK_HOLE.ports(80) {
            let dial = lab.host.client().tcp(to, SECOND)?;
            assert_eq!(dial.outcome, Outcome::TimedOut, "{scheme:?} {to}");
            let answers = tun.count(|p| p.direction == Direction::In && (p.src == to.ip() || p.is_icmp()))?;
            assert_eq!(answers, 0, "{scheme:?} {to}: something answered");
        }
    }
    Ok(())
}

pub fn unreachable_is_unreachable() -> TestResult {
    for scheme in [None, Some("socks5")] {
        let (lab, _oneway) = lab(scheme, &[])?;
        let client = lab.host.client();
        for (to, wanted) in [
            (address::HOST_UNREACHABLE.v4_port(80), Outcome::HostUnreachable),
            (address::HOST_UNREACHABLE.v6_port(80), Outcome::HostUnreachable),
            (address::NET_UNREACHABLE.v4_port(80), Outcome::NetUnreachable),
            (address::NET_UNREACHABLE.v6_port(80), Outcome::NetUnreachable),
        ] {
            let dial = client.tcp(to, 5 * SECOND)?;
            assert_eq!(dial.outcome, wanted, "{scheme:?} {to} after {:?}", dial.took);
        }
    }
    Ok(())
}

pub fn a_scan_shows_exactly_the_open_ports() -> TestResult {
    let (lab, _oneway) = lab(Some("socks5"), &[])?;
    let client = lab.host.client();
    let open: Vec<_> = (1..=1000)
        .filter(|&port| {
            let dial = client.tcp(address::ORIGIN.v4_port(port), 5 * SECOND);
            dial.is_ok_and(|dial| dial.outcome == Outcome::Done)
        })
        .collect();
    assert_eq!(open, [port::ECHO, port::DISCARD, port::CHARGEN, port::HTTP]);
    Ok(())
}

pub fn hanging_dials_delay_nobody() -> TestResult {
    for scheme in [None, Some("socks5")] {
        hanging_dials(scheme)?;
    }
    Ok(())
}

fn hanging_dials(scheme: Option<&str>) -> TestResult {
    let (lab, _oneway) = lab(scheme, &[])?;
    let client = lab.host.client();
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| {
            parallel(300, |_| {
                client.tcp(address::BLACK_HOLE.v4_port(80), 3 * SECOND).map(|dial| dial.outcome)
            })
        });
        for _ in 0..10 {
            let reply = client.http_get(address::ORIGIN.v4_port(port::HTTP), "/", 5 * SECOND)?;
            assert_eq!(reply.status, 200);
            assert!(reply.took < SECOND, "delayed by {:?}", reply.took);
        }
        let outcomes = hanging.join().map_err(|_| "the hanging dials panicked")?;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Outcome::TimedOut))));
        Ok(())
    })
}
