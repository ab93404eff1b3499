//! UDP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use oneway_lab::NetNs;
use oneway_lab::capture::{Direction, Recorder};
use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern;
use oneway_lab::servers::origin::port;
use oneway_lab::servers::{BindAnswer, SocksOptions};
use oneway_lab::topology::{Simple, address};
use oneway_wire::checksum;
use oneway_wire::emit::udp_datagram;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::common::{SECOND, ask, lab};

pub fn one_mapping_for_all_destinations() -> TestResult {
    const DESTINATIONS: u16 = 500;
    let (lab, _oneway) = lab(None, &[])?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    let socket = lab.host.client().udp_socket(false)?;
    for n in 0..DESTINATIONS {
        // An ICMP error about an earlier one may be reported here; it is not about this one.
        while socket.send_to(b"x", address::SPARE.v4_port(20_000 + n)).is_err() {}
    }
    let ours = |p: &oneway_lab::capture::Packet| {
        p.is_udp() && p.direction == Direction::Out && p.dst == address::SPARE.v4
    };
    wait_until(5 * SECOND, "all are on the wire", || {
        wire.matching(ours).is_ok_and(|found| {
            found.iter().map(|p| p.ports.1).collect::<BTreeSet<_>>().len() == usize::from(DESTINATIONS)
        })
    })?;
    let sources: BTreeSet<_> = wire.matching(ours)?.iter().map(|p| p.ports.0).collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    let status = ask(&lab.host, "status")?;
    assert_eq!(status.pointer("/counters/udp/active").and_then(serde_json::Value::as_u64), Some(1));
    Ok(())
}

/// What a full queue of the uplink drops is lost as on the way, though the kernel tells our socket of it (`ENOBUFS`): a
/// QUIC client that heard of an unreachable port would end its connection.
pub fn what_the_uplink_has_no_room_for_is_lost_in_silence() -> TestResult {
    const MANY: usize = 200;
    for scheme in [None, Some("socks5")] {
        let (lab, _oneway) = lab(scheme, &[])?;
        let host = &lab.host;
        for to in address::ORIGIN.ports(port::ECHO) {
            let socket = host.client().udp_socket(to.is_ipv6())?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(SECOND))?;
            let mut buffer = [0; 1200];
            socket.send(b"before")?;
            assert_eq!(socket.recv(&mut buffer)?, 6, "{scheme:?}, {to}");
            let dropped = || {
                let status = ask(host, "status").ok()?;
                status.pointer("/counters/tun/dropped").and_then(Value::as_u64)
            };
            let before = dropped();
            queue(host, "add")?;
            for _ in 0..MANY {
                socket.send(&[7; 1200]).map_err(|error| format!("{scheme:?}, {to}: {error}"))?;
            }
            wait_until(5 * SECOND, "all are dropped", || {
                dropped().zip(before).is_some_and(|(now, before)| now >= before + MANY as u64)
            })?;
            assert!(socket.take_error()?.is_none(), "{scheme:?}, {to}: the program is told");
            queue(host, "delete")?;
            socket.send(b"behind")?;
            assert_eq!(socket.recv(&mut buffer)?, 6, "{scheme:?}, {to}");
        }
    }
    Ok(())
}

/// Adds or deletes a queue of the uplink that has room for nothing.
#[allow(clippy::disallowed_methods, reason = "the administrator of the host is played")]
fn queue(host: &NetNs, verb: &str) -> TestResult {
    let words = ["qdisc", verb, "dev", Simple::UP1, "root", "pfifo", "limit", "0"];
    let done = host.run(|| std::process::Command::new("tc").args(words).output())??;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into()) }
}

/// Those that come while it is found out whose they are: all of them go on once that is known, and wait for no other packet.
pub fn what_was_asked_about_waits_for_nothing_else() -> TestResult {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    std::fs::write(&file, "[rules]\nlist = [\"PROCESS-NAME,nobody,block\", \"MATCH,direct\"]\n")?;
    let (lab, oneway) = lab(None, &["-c", file.to_str().ok_or("a path that is no text")?])?;
    for to in address::ORIGIN.ports(port::ECHO) {
        let socket = lab.host.client().udp_socket(to.is_ipv6())?;
        socket.set_read_timeout(Some(2 * SECOND))?;
        let stopped = oneway.suspend()?;
        for text in [b"one", b"two", b"six"] {
            socket.send_to(text, to)?;
        }
        drop(stopped);
        for text in [b"one", b"two", b"six"] {
            let mut answer = [0; 8];
            let len = socket.recv(&mut answer).map_err(|error| format!("{to}: {error}"))?;
            assert_eq!(&answer[..len], text, "{to}");
        }
    }
    Ok(())
}

/// Fragments of two datagrams to a client are told apart by their identification alone.
pub fn no_two_answers_have_the_same_identification() -> TestResult {
    const DATAGRAMS: usize = 50;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("packets.pcap");
    let (lab, mut oneway) = lab(None, &["--pcap", path.to_str().ok_or("a path that is no text")?])?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    let socket = lab.host.client().udp_socket(false)?;
    socket.set_read_timeout(Some(2 * SECOND))?;
    for _ in 0..DATAGRAMS {
        socket.send_to(&[7; 3000], to)?;
        socket.recv(&mut [0; 4000])?;
    }
    oneway.stop(2 * SECOND)?;
    let file = std::fs::read(&path)?;
    let mut records = &file[24..];
    let mut identifications = BTreeSet::new();
    while let Some((header, rest)) = records.split_first_chunk::<16>() {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let (packet, rest) = rest.split_at(len);
        records = rest;
        if packet[0] == 0x45 && packet[9] == 17 && packet[12..16] == address::ORIGIN.v4.octets() {
            assert_eq!(packet[6] & 0x40, 0, "it may be fragmented");
            assert!(identifications.insert([packet[4], packet[5]]), "{identifications:?}");
        }
    }
    assert_eq!(identifications.len(), DATAGRAMS);
    Ok(())
}

pub fn third_parties_answer_with_their_true_source() -> TestResult {
    for scheme in [None, Some("socks5")] {
        let (lab, _oneway) = lab(scheme, &[])?;
        for (to, from) in address::ORIGIN
            .ports(port::FROM_OTHER_PORT)
            .into_iter()
            .zip(address::ORIGIN.ports(port::STRANGER))
        {
            let socket = lab.host.client().udp_socket(to.is_ipv6())?;
            socket.set_read_timeout(Some(5 * SECOND))?;
            socket.send_to(b"who", to)?;
            let mut buffer = [0; 16];
            let (len, found) = socket.recv_from(&mut buffer)?;
            let found = SocketAddr::new(found.ip(), found.port());
            assert_eq!((&buffer[..len], found), (&b"who"[..], from), "{scheme:?}");
        }
    }
    Ok(())
}

pub fn a_lost_association_is_made_again() -> TestResult {
    let (lab, _oneway) = lab(Some("socks5"), &[])?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    for bind_answer in [BindAnswer::True, BindAnswer::Unspecified] {
        lab.socks.set_options(SocksOptions { bind_answer, ..lab.socks.options() });
        let socket = lab.host.client().udp_socket(false)?;
        socket.set_read_timeout(Some(SECOND / 10))?;
        let echoes = || {
            let mut buffer = [0; 16];
            socket.send_to(b"again", to).is_ok()
                && socket.recv_from(&mut buffer).is_ok_and(|(len, from)| (len, from) == (5, to))
        };
        wait_until(5 * SECOND, "the first association carries", echoes)?;
        lab.socks.kill_associations();
        wait_until(SECOND, "another association carries", echoes)?;
    }
    Ok(())
}

/// Payload bytes that the program says have gone up: those of the flows that live, and of all; and what it has dropped.
fn counted(host: &NetNs) -> Result<(u64, u64, u64), Failed> {
    let flows = ask(host, "flows")?["flows"].as_array().cloned().unwrap_or_default();
    let up = flows.iter().filter_map(|flow| flow.pointer("/bytes/up").and_then(Value::as_u64)).sum();
    let status = ask(host, "status")?;
    let number = |path| status.pointer(path).and_then(Value::as_u64).ok_or("no such counter");
    Ok((up, number("/counters/bytes/up")?, number("/counters/tun/dropped")?))
}

pub fn what_waits_is_counted_when_it_is_sent_or_dropped() -> TestResult {
    const LEN: u64 = 100;
    let (lab, oneway) = lab(Some("socks5"), &[])?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    let socket = lab.host.client().udp_socket(false)?;
    socket.set_read_timeout(Some(10 * SECOND))?;
    let send = |count: u64| (0..count).try_for_each(|_| socket.send_to(&[7; LEN as usize], to).map(drop));
    let receive = |count: u64| (0..count).try_for_each(|_| socket.recv(&mut [0; 200]).map(drop));
    let set = |udp, delay| lab.socks.set_options(SocksOptions { udp, delay, ..lab.socks.options() });
    let lose_association = || -> TestResult {
        let (mut descriptors, mut still) = (0, 0);
        wait_until(10 * SECOND, "nothing else is closed", || {
            let now = oneway.fd_count().unwrap_or(0);
            still = if now == descriptors { still + 1 } else { 0 };
            descriptors = now;
            still > 50
        })?;
        lab.socks.kill_associations();
        wait_until(5 * SECOND, "its connection is closed", || {
            oneway.fd_count().is_ok_and(|now| now < descriptors)
        })?;
        Ok(())
    };

    // What waits for the first association, and is refused.
    set(false, SECOND / 2);
    let (_, _, dropped) = counted(&lab.host)?;
    send(3)?;
    wait_until(5 * SECOND, "they are dropped", || {
        counted(&lab.host).is_ok_and(|(_, all, now)| now >= dropped + 3 && all == 0)
    })?;

    // A proxy that has refused is left alone for a moment.
    set(true, Duration::ZERO);
    wait_until(5 * SECOND, "another client's association carries", || {
        lab.host.client().udp(to, b"other", SECOND).is_ok_and(|exchange| exchange.data == b"other")
    })?;
    let other = counted(&lab.host)?.0;
    set(true, SECOND / 2);
    send(3)?;
    receive(3)?;
    assert_eq!(counted(&lab.host)?.0, other + 3 * LEN);

    // For another one, which comes.
    lose_association()?;
    send(5)?;
    receive(5)?;
    assert_eq!(counted(&lab.host)?.0, other + 8 * LEN);

    // And for one that does not.
    let (_, _, dropped) = counted(&lab.host)?;
    set(false, SECOND);
    lose_association()?;
    send(5)?;
    wait_until(5 * SECOND, "they are dropped", || {
        counted(&lab.host).is_ok_and(|(_, _, now)| now >= dropped + 5)
    })?;
    let (up, all, _) = counted(&lab.host)?;
    assert_eq!((up, all), (other + 8 * LEN, other + 8 * LEN));
    Ok(())
}

pub fn a_proxy_that_cannot_carry_them_is_told_at_once() -> TestResult {
    for scheme in ["http", "socks4", "socks5"] {
        let (lab, _oneway) = lab(Some(scheme), &[])?;
        lab.socks.set_options(SocksOptions { udp: false, ..lab.socks.options() });
        for to in address::ORIGIN.ports(port::ECHO) {
            let exchange = lab.host.client().udp(to, b"x", 5 * SECOND)?;
            assert_eq!(exchange.outcome, Outcome::Refused, "{scheme} {to}");
            assert!(exchange.took < SECOND / 4, "{scheme} {to}: after {:?}", exchange.took);
        }
        assert_eq!(lab.origin.udp_datagrams(), 0, "{scheme}: nothing leaked");
    }
    Ok(())
}

pub fn every_size_arrives_whole() -> TestResult {
    for scheme in [None, Some("socks5")] {
        for mtu in ["65535", "9000", "1500"] {
            let (lab, _oneway) = lab(scheme, &["--mtu", mtu])?;
            for to in address::ORIGIN.ports(port::ECHO) {
                for size in [0, 1, 1_400, 1_473, 3_000, 9_000] {
                    let data = pattern::bytes(size);
                    let exchange = lab.host.client().udp(to, &data, 5 * SECOND)?;
                    assert!(
                        exchange.data == data && exchange.from == Some(to),
                        "{scheme:?}, MTU {mtu}, {to}, {size} bytes: {:?} {} bytes",
                        exchange.outcome,
                        exchange.data.len()
                    );
                }
            }
        }
    }
    Ok(())
}

pub fn a_closed_port_is_reported() -> TestResult {
    let (lab, _oneway) = lab(None, &[])?;
    for to in address::SPARE.ports(4) {
        let exchange = lab.host.client().udp(to, b"x", 5 * SECOND)?;
        assert_eq!(exchange.outcome, Outcome::Refused, "{to}");
    }
    Ok(())
}

/// What a program answers to somebody it has sent nothing to before is captured as all else is: no packet of it leaves by
/// the uplink past the outbound.
pub fn answers_to_third_parties_are_captured() -> TestResult {
    for scheme in [None, Some("socks5")] {
        let (lab, _oneway) = lab(scheme, &[])?;
        let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
        let to = address::ORIGIN.v4_port(port::FROM_OTHER_ADDRESS);
        let socket = lab.host.client().udp_socket(false)?;
        socket.send_to(b"who", to)?;
        let (_, stranger) = socket.recv_from(&mut [0; 16])?;
        assert_ne!(stranger, to, "{scheme:?}");
        socket.send_to(b"a word for a stranger", stranger)?;
        let local = socket.local_addr()?.port();
        wait_until(5 * SECOND, "the answer was carried", || {
            let flows = ask(&lab.host, "flows").unwrap_or_default();
            flows.pointer("/flows/0/bytes/up").and_then(serde_json::Value::as_u64) == Some(24)
        })?;
        assert_eq!(
            wire.count(|p| p.is_udp() && p.ports.0 == local)?,
            0,
            "{scheme:?}: it left past the outbound"
        );
    }
    Ok(())
}

/// Whatever a router says of one destination's datagrams, those to the others go on, by the same socket.
#[allow(clippy::disallowed_methods, reason = "the router's socket is not ours to protect")]
pub fn no_icmp_error_ends_a_session() -> TestResult {
    const IN_A_ROW: usize = 5;
    let (lab, _oneway) = lab(None, &[])?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    let socket = lab.host.client().udp_socket(false)?;
    socket.set_read_timeout(Some(SECOND / 5))?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    let echoes = || {
        let mut buffer = [0; 16];
        // An error about the other destination may be reported here.
        while socket.send_to(b"on", to).is_err() {}
        socket.recv_from(&mut buffer).is_ok_and(|(len, from)| (len, from) == (2, to))
    };
    wait_until(5 * SECOND, "the session carries", echoes)?;
    let sent =
        |p: &oneway_lab::capture::Packet| p.is_udp() && p.direction == Direction::Out && p.dst == to.ip();
    let ports = || wire.matching(sent).map(|sent| sent.iter().map(|p| p.ports.0).collect::<BTreeSet<_>>());
    let before = ports()?;
    let own = *before.first().ok_or("nothing was sent")?;
    let router = lab.net.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))??;
    let mut quoted = Vec::new();
    udp_datagram(&mut quoted, address::HOST_UP1.v4_port(own), address::SPARE.v4_port(5_000), b"quoted")?;
    // Destination unreachable, each code; time exceeded; parameter problem (RFC 792, RFC 1812 5.2.7).
    let kinds = (0..16).map(|code| (3, code)).chain([(11, 0), (11, 1), (12, 0)]);
    for (kind, code) in kinds {
        let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&quoted);
        let sum = !checksum::sum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        for _ in 0..IN_A_ROW {
            router.send_to(&message, &address::HOST_UP1.v4_port(0).into())?;
        }
        wait_until(5 * SECOND, &format!("the session carries after {kind}, {code}"), echoes)?;
        assert_eq!(ports()?, before, "after {kind}, {code}: another session");
    }
    Ok(())
}
