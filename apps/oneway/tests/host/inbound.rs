//! The machine's other jobs: it goes on serving others, as it did (S12, S14).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::client::{Outcome, Ping};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::Origin;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Pair, Standard, address};
use oneway_lab::{NetNs, Snapshot, Topology};

use crate::common::{SECOND, TUN, reaches_origin, run, stop};
use crate::drift::tool;

/// Servers on the wildcard addresses.
pub fn serve(namespace: &NetNs) -> Result<Origin, Failed> {
    Ok(Origin::start(namespace, &[Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()])?)
}

/// Servers on each of the uplinks' addresses, which answer from where they were asked also by UDP.
fn serve_uplinks(host: &NetNs) -> Result<Origin, Failed> {
    let addresses: Vec<_> = [address::HOST_UP1, address::HOST_UP2].into_iter().flat_map(Pair::both).collect();
    Ok(Origin::start(host, &addresses)?)
}

/// What somebody far away sees of a service, and how the answers left.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    what: String,
    tcp: bool,
    udp_from: Option<IpAddr>,
    left_by: Vec<(u8, String, IpAddr)>,
}

/// Asks the services of both uplinks' addresses from the far side of both routers.
pub fn visit(lab: &Standard, service: u16) -> Result<Vec<Seen>, Failed> {
    let all = Recorder::start(&lab.host, None)?;
    let mut found = Vec::new();
    let uplinks: [(Pair, Pair); 2] =
        [(address::HOST_UP1, address::NET_R1), (address::HOST_UP2, address::NET_R2)];
    for (host, visitor) in uplinks {
        for (to, from) in host.ports(service).into_iter().zip(visitor.both()) {
            all.forget()?;
            let client = lab.net.client().source(from);
            let patience = SECOND / 4;
            let tcp = match client.tcp(to, patience)?.stream {
                Some(mut stream) => {
                    stream.set_read_timeout(Some(patience))?;
                    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut [0; 5])).is_ok()
                }
                None => false,
            };
            let socket = client.udp_socket(to.is_ipv6())?;
            socket.set_read_timeout(Some(patience))?;
            socket.send_to(b"hello", to)?;
            // A server on the wildcard address may send from another address than it was asked at: that answers nobody,
            // with us or without. Every other datagram leaves as it came.
            let asked = |ip: &IpAddr| *ip == to.ip();
            let udp_from = socket.recv_from(&mut [0; 16]).ok().map(|(_, from)| from.ip()).filter(asked);
            let answers = |p: &Packet| {
                let said = p.is_udp() || p.payload_length > 0;
                let ours = asked(&p.src) || address::CONTAINER.both().contains(&p.src);
                said && ours && p.dst == from && p.ports.0 == service
            };
            let mut left_by: Vec<_> = all
                .matching(|p| answers(p) && p.device != Standard::BRIDGE && p.device != "ct0")?
                .into_iter()
                .map(|p| (p.protocol, p.device, p.src))
                .collect();
            left_by.sort();
            left_by.dedup();
            assert!(left_by.iter().all(|(_, device, _)| device != TUN), "{from} to {to}: {left_by:?}");
            found.push(Seen { what: format!("{from} to {to}"), tcp, udp_from, left_by });
        }
    }
    Ok(found)
}

/// Visits before the start, while it runs with each of `options`, and after the stop: always the same.
fn compare(lab: &Standard, service: u16, runs: &[&[&str]]) -> Result<Vec<Seen>, Failed> {
    let before = Snapshot::take(&lab.host)?;
    let without = visit(lab, service)?;
    for options in runs {
        let mut oneway = run(&lab.host, options)?;
        assert_eq!(visit(lab, service)?, without, "{options:?}");
        assert!(reaches_origin(&lab.host, SECOND), "{options:?}");
        stop(&mut oneway, &lab.host, &before)?;
    }
    assert_eq!(visit(lab, service)?, without);
    Ok(without)
}

fn answered(seen: &[Seen]) -> bool {
    seen.iter().all(|seen| seen.tcp && seen.udp_from.is_some())
}

pub fn a_published_container_answers_as_without_us() -> TestResult {
    let lab = Topology::standard()?;
    lab.masquerade_container()?;
    lab.publish_container_port(port::ECHO)?;
    let _servers = serve(&lab.container)?;
    let seen =
        compare(&lab, port::ECHO, &[&[], &["--forwarded"], &["--strict"], &["--strict", "--forwarded"]])?;
    assert!(answered(&seen), "{seen:?}");
    Ok(())
}

/// Says something and hears it back.
fn talk(stream: &mut TcpStream) -> Result<(), Failed> {
    stream.set_read_timeout(Some(2 * SECOND))?;
    stream.write_all(b"uptime")?;
    let mut back = [0; 6];
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"uptime");
    Ok(())
}

pub fn sessions_survive_start_and_stop() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let _servers = serve(&lab.host)?;
    let open = || -> Result<Vec<TcpStream>, Failed> {
        let mut sessions = Vec::new();
        for (host, visitor) in [(address::HOST_UP1, address::NET_R1), (address::HOST_UP2, address::NET_R2)] {
            for (to, from) in host.ports(port::ECHO).into_iter().zip(visitor.both()) {
                sessions.push(lab.net.client().source(from).tcp(to, SECOND)?.connected()?);
            }
        }
        Ok(sessions)
    };
    let mut older = open()?;
    older.iter_mut().try_for_each(talk)?;
    for options in [&[][..], &["--forwarded"]] {
        let mut oneway = run(&lab.host, options)?;
        older.iter_mut().try_for_each(talk)?;
        let mut younger = open()?;
        younger.iter_mut().try_for_each(talk)?;
        stop(&mut oneway, &lab.host, &before)?;
        older.iter_mut().try_for_each(talk)?;
        younger.iter_mut().try_for_each(talk)?;
    }
    Ok(())
}

pub fn a_bound_program_is_captured() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    bound_programs_are_captured(&lab)?;
    stop(&mut oneway, &lab.host, &before)
}

/// Programs bound to either uplink's address, while it runs.
pub fn bound_programs_are_captured(lab: &Standard) -> TestResult {
    let tun = Recorder::start(&lab.host, Some(TUN))?;
    for uplink in [address::HOST_UP1, address::HOST_UP2] {
        for (from, to) in uplink.both().into_iter().zip(address::ORIGIN.both()) {
            tun.forget()?;
            let client = lab.host.client().source(from);
            let reply = client.http_get(SocketAddr::new(to, port::HTTP), "/", 2 * SECOND)?;
            assert_eq!(reply.status, 200);
            let echo = client.udp(SocketAddr::new(to, port::ECHO), b"bound", 2 * SECOND)?;
            assert_eq!(echo.data, b"bound");
            assert!(tun.count(|p| p.is_syn() && p.src == from && p.dst == to)? >= 1, "{from} escaped");
            assert_eq!(tun.count(|p| p.is_udp() && p.src == from && p.dst == to)?, 1, "{from} escaped");
        }
    }
    Ok(())
}

pub fn servers_answer_as_without_us() -> TestResult {
    let lab = Topology::standard()?;
    let _servers = serve(&lab.host)?;
    let runs: &[&[&str]] = &[
        &[],
        &["--forwarded"],
        &["--protect", "bind"],
        &["--strict"],
        &["--capture", "redirect"],
        &["--capture", "tproxy"],
        &["--strict", "--forwarded"],
    ];
    let seen = compare(&lab, port::ECHO, runs)?;
    assert!(seen.iter().all(|seen| seen.tcp), "{seen:?}");
    // On another laboratory: a program that is just being started may hold the listeners for a moment yet.
    let lab = Topology::standard()?;
    let _servers = serve_uplinks(&lab.host)?;
    let seen = compare(&lab, port::ECHO, runs)?;
    assert!(answered(&seen), "{seen:?}");
    Ok(())
}

pub fn servers_answer_as_without_us_beside_source_rules() -> TestResult {
    let lab = Topology::standard()?;
    lab.add_source_rules()?;
    let _servers = serve_uplinks(&lab.host)?;
    let seen = compare(&lab, port::ECHO, &[&[], &["--forwarded"]])?;
    assert!(answered(&seen), "{seen:?}");
    // Both by the uplink that was asked.
    for (at, device) in [(address::HOST_UP1, Standard::UP1), (address::HOST_UP2, Standard::UP2)] {
        let answers: Vec<_> =
            seen.iter().flat_map(|seen| &seen.left_by).filter(|(.., src)| at.both().contains(src)).collect();
        assert!(answers.len() == 4 && answers.iter().all(|(_, left, _)| left == device), "{answers:?}");
    }
    Ok(())
}

/// The rule for the host's own addresses stands behind others, as VRFs have it.
pub fn own_addresses_are_reached_where_they_are_asked_for_late() -> TestResult {
    let lab = Topology::standard()?;
    for ip in ["ip", "ip -6"] {
        tool(&lab.host, &format!("{ip} rule add pref 32765 lookup local"))?;
        tool(&lab.host, &format!("{ip} rule del pref 0"))?;
    }
    let _servers = serve_uplinks(&lab.host)?;
    let before = Snapshot::take(&lab.host)?;
    let including = ["--include", "192.0.2.0/24", "--include", "2001:db8:1::/64"];
    for options in [&[][..], &["--strict"], &["--protect", "bind"], &including] {
        let mut oneway = run(&lab.host, options)?;
        let client = lab.host.client();
        for to in address::HOST_UP1.ports(port::ECHO) {
            assert_eq!(client.tcp(to, SECOND)?.outcome, Outcome::Done, "{to} {options:?}");
            assert_eq!(client.udp(to, b"?", SECOND)?.outcome, Outcome::Done, "{to} {options:?}");
        }
        assert!(reaches_origin(&lab.host, SECOND), "{options:?}");
        stop(&mut oneway, &lab.host, &before)?;
    }
    Ok(())
}

/// What programs on the host get: a representative set.
fn results(lab: &Standard) -> Result<Vec<String>, Failed> {
    let client = lab.host.client();
    let mut found = Vec::new();
    for to in address::ORIGIN.both() {
        let reply = client.http_get(SocketAddr::new(to, port::HTTP), "/bytes/300000", 3 * SECOND)?;
        found.push(format!("{to} {} {}", reply.status, reply.body.len()));
        let closed = client.tcp(SocketAddr::new(to, 4), SECOND)?;
        found.push(format!("{to} {:?}", closed.outcome));
        let echo = client.udp(SocketAddr::new(to, port::ECHO), &[7; 1200], SECOND)?;
        found.push(format!("{to} {:?} {}", echo.outcome, echo.data.len()));
        let closed = client.udp(SocketAddr::new(to, 4), b"?", SECOND)?;
        found.push(format!("{to} {:?}", closed.outcome));
        let echo = matches!(client.ping(to, SECOND)?, Ping::Reply { from, .. } if from == to);
        found.push(format!("{to} replies to ping: {echo}"));
    }
    for to in address::HOST_UNREACHABLE.ports(80) {
        // About once in thousands, on a busy machine, the socket reports its end without an error; one more attempt
        // tells that from an answer that never comes.
        let unreachable = |outcome| matches!(outcome, Outcome::HostUnreachable | Outcome::NetUnreachable);
        let mut told = false;
        for _ in 0..2 {
            told = told || unreachable(client.tcp(to, 2 * SECOND)?.outcome);
        }
        assert!(told, "{to} is not told to be unreachable");
    }
    Ok(found)
}

pub fn strict_reverse_path_filter_changes_nothing() -> TestResult {
    let lab = Topology::standard()?;
    lab.strict_rp_filter()?;
    nothing_is_filtered(&lab)
}

/// The packet filter asks the same question, as on NixOS, where it is on from the first day: by iptables' `rpfilter
/// --validmark` at the priority of mangle, or by nftables a little later.
pub fn a_reverse_path_filter_of_nftables_changes_nothing() -> TestResult {
    for priority in ["mangle", "mangle + 10"] {
        let lab = Topology::standard()?;
        for words in [
            "add table inet fw",
            &format!(
                "add chain inet fw rpfilter {{ type filter hook prerouting priority {priority} ; policy drop ; }}"
            ),
            "add rule inet fw rpfilter fib saddr . mark . iif oif exists accept",
        ] {
            tool(&lab.host, &format!("nft {words}"))?;
        }
        nothing_is_filtered(&lab)?;
    }
    Ok(())
}

/// What programs of the host, its containers and others get is what they get without us.
fn nothing_is_filtered(lab: &Standard) -> TestResult {
    let _servers = serve(&lab.host)?;
    let without = results(lab)?;
    assert!(without.iter().all(|line| !line.contains("TimedOut") && !line.contains("false")), "{without:?}");
    let before = Snapshot::take(&lab.host)?;
    for options in [&[][..], &["--protect", "bind"], &["--forwarded"], &["--strict"]] {
        let mut oneway = run(&lab.host, options)?;
        assert_eq!(results(lab)?, without, "{options:?}");
        if options.contains(&"--forwarded") {
            for to in address::ORIGIN.both() {
                let client = lab.container.client();
                let reply = client.http_get(SocketAddr::new(to, port::HTTP), "/", 2 * SECOND)?;
                assert_eq!(reply.status, 200, "{to}");
            }
        }
        stop(&mut oneway, &lab.host, &before)?;
    }
    let seen = compare(lab, port::ECHO, &[&[], &["--forwarded"]])?;
    let first = |seen: &&Seen| address::NET_R1.both().iter().any(|ip| seen.what.starts_with(&ip.to_string()));
    assert!(seen.iter().filter(first).all(|seen| seen.tcp && seen.udp_from.is_some()), "{seen:?}");
    Ok(())
}
