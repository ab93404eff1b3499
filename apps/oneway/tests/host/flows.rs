//! What is captured and sent on directly is neither lost nor multiplied (S2).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::IpAddr;

use oneway_lab::capture::{Direction, Packet, Recorder, flag, protocol};
use oneway_lab::client::{Load, Outcome, parallel, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Standard, address, port as socks};
use oneway_lab::{Injector, Snapshot, Topology};
use oneway_wire::emit::{TcpHeader, fragments, tcp_segment};
use oneway_wire::tcp::Flags;

use crate::common::{SECOND, TUN, ask, number, run, stop};
use crate::drift::tool;

pub fn one_datagram_is_one_flow_and_one_packet() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    let (tun, wire) = (Recorder::start(&lab.host, Some(TUN))?, Recorder::start(&lab.host, None)?);
    let answer = lab.host.client().udp(address::ORIGIN.v6_port(port::ECHO), b"four", SECOND)?;
    assert_eq!(answer.data, b"four");
    wire.settle(SECOND / 5, 5 * SECOND, Packet::is_udp)?;
    for (device, recorder) in [(TUN, &tun), (Standard::UP1, &wire)] {
        let count = |direction, involved: fn(&Packet) -> IpAddr| {
            recorder.count(|p| {
                p.is_udp()
                    && p.device == device
                    && p.direction == direction
                    && involved(p) == address::ORIGIN.v6
            })
        };
        let there = count(Direction::Out, |p| p.dst)?;
        let back = count(Direction::In, |p| p.src)?;
        assert_eq!((there, back), (1, 1), "{device}");
        assert_eq!(recorder.count(|p| p.is_udp() && p.device == device)?, 2, "{device}");
    }
    assert_eq!(wire.count(|p| p.is_traffic() && p.device == Standard::UP2)?, 0);
    assert_eq!(lab.origin.udp_datagrams(), 1);
    let status = ask(&lab.host, "status")?;
    assert_eq!(number(&status, "/counters/udp/opened"), 1);
    assert_eq!(number(&status, "/counters/bytes/up"), 4);
    let flows = ask(&lab.host, "flows")?;
    let flows = flows["flows"].as_array().ok_or("no flows")?;
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0]["target"], format!("{}", address::ORIGIN.v6_port(port::ECHO)));
    stop(&mut oneway, &lab.host, &before)
}

/// By `-v`, and only so: once when it is open, with what was decided.
pub fn each_flow_is_logged_once_when_asked_for() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    for (options, lines) in [(&["-v"][..], 1), (&[], 0)] {
        let mut oneway = run(&lab.host, options)?;
        let mut session = lab.host.client().tcp(to, SECOND)?.connected()?;
        for _ in 0..2 {
            session.write_all(b"x")?;
            session.read_exact(&mut [0])?;
            lab.host.client().udp(to, b"x", SECOND)?;
        }
        drop(session);
        stop(&mut oneway, &lab.host, &before)?;
        let log = oneway.stderr();
        let about = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        let decided = format!("target={to} rule=MATCH outbound=direct");
        // Each of the two exchanges by UDP has a port of its own.
        assert_eq!(about("tcp flow is open client="), lines, "{log}");
        assert_eq!(about("udp flow is open client="), 2 * lines, "{log}");
        assert_eq!(about(&decided), 3 * lines, "{log}");
    }
    Ok(())
}

/// What is refused says which rule did it, and a reload says its outbounds in words.
pub fn what_is_refused_is_logged_with_its_rule() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let rule = format!("DST-PORT,{},REJECT", port::ECHO);
    let write =
        |more: &str| std::fs::write(&file, format!("dns.mode = \"real\"\nrules.list = [\"{rule}\"]\n{more}"));
    write("")?;
    let options = ["-v", "--log-format", "json", "--config", &*file.to_string_lossy()];
    let mut oneway = run(&lab.host, &options)?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    assert_eq!(lab.host.client().tcp(to, SECOND)?.outcome, Outcome::Refused);
    assert_eq!(lab.host.client().udp(to, b"x", SECOND)?.outcome, Outcome::Refused);
    for (more, changed) in [("outbound.b = { type = \"socks5\", server = \"192.0.2.1:1\" }", "b"), ("", "")] {
        write(more)?;
        let before = oneway.stderr().len();
        oneway.signal(rustix::process::Signal::HUP.as_raw())?;
        let words = format!("\"changed\":\"{changed}\"");
        wait_until(10 * SECOND, &words, || oneway.stderr()[before..].contains(&words))?;
    }
    stop(&mut oneway, &lab.host, &before)?;
    let log = oneway.stderr();
    let (rule, target) = (format!("\"rule\":\"{rule}\""), format!("\"target\":\"{to}\""));
    let about = |what: &str| {
        log.lines()
            .filter(|line| line.contains(what) && line.contains(&rule) && line.contains(&target))
            .count()
    };
    assert_eq!((about("not connected"), about("no UDP")), (1, 1), "{log}");
    Ok(())
}

/// Connections, and datagram sockets, of each client in each family.
const EACH: usize = 50;
/// Bytes that each sends and gets back.
const BYTES: usize = 1_000;

pub fn counters_match_what_programs_sent() -> TestResult {
    hundreds_of_flows(&[])
}

pub fn counters_match_what_programs_and_containers_sent() -> TestResult {
    hundreds_of_flows(&["--forwarded"])
}

/// One direction of a flow, as it is on a wire.
type Name = (u8, IpAddr, u16, IpAddr, u16);

fn name(packet: &Packet) -> Name {
    (packet.protocol, packet.src, packet.ports.0, packet.dst, packet.ports.1)
}

fn hundreds_of_flows(options: &[&str]) -> TestResult {
    let forwarded = !options.is_empty();
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, options)?;
    let (tun, wire) =
        (Recorder::start(&lab.host, Some(TUN))?, Recorder::start(&lab.host, Some(Standard::UP1))?);
    let loads: Vec<Result<Load, Failed>> = parallel(8, |n| {
        let client = if n & 1 == 0 { lab.host.client() } else { lab.container.client() };
        let to = address::ORIGIN.ports(port::ECHO)[n >> 1 & 1];
        Ok(match n >> 2 {
            0 => client.tcp_load(to, EACH, EACH, BYTES)?,
            _ => client.udp_load(to, EACH, EACH, BYTES, 5 * SECOND)?,
        })
    });
    for load in loads {
        let load = load?;
        assert_eq!((load.completed, load.failed, load.bytes), (EACH as u64, 0, (EACH * BYTES) as u64));
    }
    assert_eq!(lab.origin.tcp_connections(), 4 * EACH as u64);
    assert_eq!(lab.origin.udp_datagrams(), 4 * EACH as u64);

    // The container's share is captured only when it is asked for.
    let captured = EACH * if forwarded { 4 } else { 2 };
    wait_until(5 * SECOND, "all connections ended", || {
        ask(&lab.host, "status").is_ok_and(|status| number(&status, "/counters/tcp/active") == 0)
    })?;
    tun.settle(SECOND / 5, 5 * SECOND, |_| true)?;
    let status = ask(&lab.host, "status")?;
    assert_eq!(number(&status, "/counters/tcp/opened"), captured as u64);
    assert_eq!(number(&status, "/counters/udp/opened"), captured as u64);
    assert_eq!(number(&status, "/counters/bytes/up"), (2 * captured * BYTES) as u64);
    assert_eq!(number(&status, "/counters/bytes/down"), (2 * captured * BYTES) as u64);
    for pointer in ["tun/malformed", "tun/refused", "tcp/refused", "udp/refused"] {
        assert_eq!(number(&status, &format!("/counters/{pointer}")), 0, "{pointer}");
    }
    // The kernel may say something of its own between one look and the other.
    wait_until(5 * SECOND, "the kernel's counters of the TUN are those of the program", || {
        let (Ok(counted), Ok(status)) = (lab.host.link_counters(TUN), ask(&lab.host, "status")) else {
            return false;
        };
        number(&status, "/counters/tun/packets_read") == counted.tx_packets
            && number(&status, "/counters/tun/packets_written") == counted.rx_packets
    })?;
    let counted = lab.host.link_counters(TUN)?;
    assert_eq!((counted.tx_dropped, counted.rx_dropped), (0, 0));

    let to_origin = |p: &Packet| p.direction == Direction::Out && address::ORIGIN.both().contains(&p.dst);
    let from_origin = |p: &Packet| p.direction == Direction::In && address::ORIGIN.both().contains(&p.src);
    for (recorder, flows) in [(&tun, captured), (&wire, 4 * EACH)] {
        assert_eq!(recorder.count(|p| p.is_udp() && to_origin(p))?, flows);
        assert_eq!(recorder.count(|p| p.is_udp() && from_origin(p))?, flows);
        // A SYN may be sent again when the machine is busy.
        let asked: BTreeSet<Name> =
            recorder.matching(|p| p.is_syn() && to_origin(p))?.iter().map(name).collect();
        assert_eq!(asked.len(), flows);
    }
    let containers = address::CONTAINER.both();
    if !forwarded {
        assert_eq!(tun.count(|p| containers.contains(&p.src) || containers.contains(&p.dst))?, 0);
    }
    // Nothing that left by the uplink was read from the TUN before, but under another name. Of UDP the exact counts above
    // say so; there, a port that a client has given back may be ours next.
    let named = |recorder: &Recorder| -> Result<BTreeSet<Name>, Failed> {
        let sent = |p: &Packet| p.direction == Direction::Out && p.protocol == protocol::TCP;
        Ok(recorder.matching(sent)?.iter().map(name).collect())
    };
    let (read, left) = (named(&tun)?, named(&wire)?);
    let both: Vec<_> = read.intersection(&left).collect();
    assert!(both.is_empty(), "read from the TUN, and on the wire: {both:?}");
    assert!(oneway.stderr().len() < 64 << 10, "{} bytes of log", oneway.stderr().len());
    stop(&mut oneway, &lab.host, &before)
}

/// A connection in the place of one in TIME-WAIT is known to the workers that do not own it: the fragments of all
/// connections come to one worker, whoever has the connection.
pub fn fragments_find_a_connection_made_again() -> TestResult {
    let lab = Topology::simple()?;
    let _oneway = run(&lab.host, &[])?;
    let to = address::ORIGIN.v6_port(port::FIN_FIRST);
    let tun = Recorder::start(&lab.host, Some(TUN))?;
    let injector = Injector::open(&lab.host, TUN)?;
    let mut held = Vec::new();
    for number in 20_000..20_016 {
        let client = address::HOST_UP1.v6_port(number);
        for _ in 0..2 {
            held.truncate(usize::from(number) - 20_000);
            let mut dial = None;
            wait_until(5 * SECOND, "the port is free again", || {
                dial = lab.host.client().source_port(client).tcp(to, 5 * SECOND).ok();
                dial.is_some()
            })?;
            let mut stream = dial.ok_or("no connection")?.connected()?;
            let mut bye = String::new();
            stream.read_to_string(&mut bye)?;
            assert_eq!(bye, "bye\n");
            held.push(stream);
        }
        tun.forget()?;
        let mut segment = Vec::new();
        let header = TcpHeader { seq: 1, ack: 1, flags: Flags::ACK, window: 1000, options: &[] };
        tcp_segment(&mut segment, client, to, &header, &[7; 2000])?;
        for fragment in fragments(&segment, 1400, number.into())? {
            injector.send(&fragment)?;
        }
        let denials = tun.settle(SECOND / 10, 5 * SECOND, |p| {
            p.direction == Direction::In && p.ports == (to.port(), client.port()) && p.is_tcp(flag::RST)
        })?;
        assert_eq!(denials, 0, "{client}: a connection that lives is denied");
    }
    Ok(())
}

/// Programs' ports and ours are of one range, and connection tracking remembers who had them, with where it was led to.
pub fn ports_change_hands_beside_a_redirection() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--capture", "redirect"])?;
    let client = host.client();
    for round in 0..3_000 {
        // A port that nobody listens at.
        let refused = client.tcp(address::ORIGIN.v4_port(4), SECOND)?;
        assert!(
            matches!(refused.outcome, Outcome::Done | Outcome::Refused | Outcome::Reset),
            "{round}: {refused:?}"
        );
    }
    assert_eq!(number(&ask(host, "status")?, "/guard/returned"), 0, "{}", oneway.stderr());
    // So few ports meet the listener's own memory of them, too.
    let origin = address::ORIGIN.v4_port(port::HTTP);
    wait_until(5 * SECOND, "the same host answers", || client.http_get(origin, "/", SECOND).is_ok())?;
    stop(&mut oneway, host, &before)
}

/// A client's address is gone, and this host forwards: what is said to it must not be led on by another uplink.
pub fn answers_to_an_address_that_is_gone_stay_here() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let proxy = format!("socks5://{}", address::SOCKS.v4_port(socks::SOCKS));
    for options in [&[][..], &["--strict"]] {
        let mut oneway = run(host, &[&["--proxy", &proxy], options].concat())?;
        let wire = Recorder::start(host, None)?;
        let client = host.client();
        let streams = (0..8)
            .map(|_| Ok(client.tcp(address::ORIGIN.v4_port(port::ECHO), 2 * SECOND)?.connected()?))
            .collect::<Result<Vec<_>, Failed>>()?;
        let own = "192.0.2.2/26";
        tool(host, &format!("ip address del {own} dev {}", Standard::UP1))?;
        wait_until(10 * SECOND, "the flows end", || {
            ask(host, "status").is_ok_and(|status| number(&status, "/counters/tcp/active") == 0)
        })?;
        drop(streams);
        let past =
            |p: &Packet| p.device != TUN && p.direction == Direction::Out && p.src == address::ORIGIN.v4;
        assert_eq!(wire.count(past)?, 0, "{options:?}: {:?}", wire.matching(past)?);
        oneway.stop(SECOND)?;
        tool(host, &format!("ip address add {own} dev {}", Standard::UP1))?;
        tool(host, &format!("ip route replace default via 192.0.2.1 dev {}", Standard::UP1))?;
    }
    Ok(())
}
