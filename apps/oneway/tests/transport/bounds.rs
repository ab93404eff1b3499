//! What connections cost that do not get on, and what a bad link costs.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use oneway_lab::client::wait_until;
use oneway_lab::harness::TestResult;
use oneway_lab::pattern::{self, Sum};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Topology, address};

use crate::common::{SECOND, TUN, ask, lab, lab_with, run};

/// Bytes that one connection may hold in the program in one direction, rounded up: its window.
const WINDOW: u64 = 1 << 20;

pub fn ended_connections_leave_no_memory() -> TestResult {
    let (lab, oneway) = lab(None, &[])?;
    let some = |count: usize| -> TestResult {
        for round in 0..count / 100 {
            let to = address::ORIGIN.ports(port::ECHO)[round % 2];
            drop(lab.host.client().tcp_many(to, 100, 5 * SECOND)?);
        }
        wait_until(10 * SECOND, "no flow is left", || {
            ask(&lab.host, "flows").is_ok_and(|flows| flows["flows"].as_array().is_some_and(Vec::is_empty))
        })?;
        Ok(())
    };
    // Names of ended connections stay for two seconds and more: as many as there will be at once have been there.
    some(9_000)?;
    let before = oneway.rss()?;
    some(5_000)?;
    let grown = oneway.rss()?.saturating_sub(before);
    assert!(grown < 1 << 20, "5,000 connections left {grown} bytes");
    Ok(())
}

/// A client that does not hear our answer to its SYN holds its place, and its outbound, for 20 s and not for minutes.
pub fn a_handshake_that_is_never_finished_is_given_up() -> TestResult {
    let (lab, oneway) = lab(None, &[])?;
    let rules = format!(
        "table inet deaf {{\nchain input {{\ntype filter hook input priority 0;\n\
         iifname \"{TUN}\" tcp flags & (syn | ack) == (syn | ack) drop\n}}\n}}\n"
    );
    #[allow(clippy::disallowed_methods, reason = "the administrator of the host is played")]
    let made = lab.host.run(|| std::process::Command::new("nft").arg(&rules).status())??;
    assert!(made.success());
    let dials = address::ORIGIN.ports(port::ECHO).map(|to| {
        let client = lab.host.client();
        std::thread::spawn(move || client.tcp(to, 10 * SECOND).is_ok())
    });
    let live = || {
        let flows = ask(&lab.host, "flows").ok()?;
        Some(flows["flows"].as_array()?.len())
    };
    wait_until(5 * SECOND, "both are dialled", || live() == Some(2))?;
    wait_until(30 * SECOND, "both are given up", || live() == Some(0))
        .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    assert!(dials.into_iter().all(|dial| dial.join().expect("a thread")));
    Ok(())
}

/// Datagrams that wait for a proxy which does not answer.
pub fn a_silent_proxy_holds_a_bounded_amount() -> TestResult {
    const CLIENTS: usize = 600;
    let lab = Topology::simple()?;
    let silent = format!("socks5://{}", address::BLACK_HOLE.v4_port(1080));
    let oneway = run(&lab.host, None, &["--proxy", &silent])?;
    let before = oneway.rss()?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    let client = lab.host.client();
    let sockets: Vec<_> = (0..CLIENTS).map(|_| client.udp_socket(false)).collect::<Result<_, _>>()?;
    // In rounds, as the device loses what comes faster than it is read.
    for _ in 0..4 {
        for socket in &sockets {
            for _ in 0..50 {
                socket.send_to(&[0; 1000], to)?;
            }
        }
    }
    wait_until(5 * SECOND, "most sessions were there", || {
        let status = ask(&lab.host, "status").unwrap_or_default();
        status.pointer("/counters/udp/opened").and_then(serde_json::Value::as_u64) > Some(CLIENTS as u64 / 2)
    })?;
    let grown = oneway.rss()?.saturating_sub(before);
    assert!(grown < 36 << 20, "datagrams of {CLIENTS} sockets hold {grown} bytes");
    Ok(())
}

pub fn slow_readers_hold_a_bounded_amount() -> TestResult {
    const READERS: usize = 60;
    let (lab, oneway) = lab(Some("socks5"), &[])?;
    let client = lab.host.client();
    client.http_get(address::ORIGIN.v4_port(port::HTTP), "/bytes/3000000", 5 * SECOND)?;
    let before = oneway.rss()?;
    let mut readers = Vec::new();
    for n in 0..READERS {
        let to = address::ORIGIN.ports(port::CHARGEN)[n % 2];
        readers.push(client.tcp(to, 5 * SECOND)?.connected()?);
    }
    // Each has all that fits on the way once nothing comes any more.
    let (mut worked, mut since) = (Duration::ZERO, Instant::now());
    wait_until(20 * SECOND, "the readers are full", || {
        let cpu = oneway.cpu_time().unwrap_or_default();
        if std::mem::replace(&mut worked, cpu) != cpu {
            since = Instant::now();
        }
        since.elapsed() > SECOND / 2
    })?;
    let grown = oneway.rss()?.saturating_sub(before);
    assert!(grown < READERS as u64 * WINDOW, "{READERS} readers that do not read hold {grown} bytes");
    // They hold up nobody, and get all bytes in order when they read on.
    client.http_get(address::ORIGIN.v4_port(port::HTTP), "/bytes/100000", 5 * SECOND)?;
    for stream in &mut readers {
        let mut bytes = vec![0; 2_000_000];
        stream.set_read_timeout(Some(10 * SECOND))?;
        stream.read_exact(&mut bytes)?;
        assert!(bytes == pattern::bytes(2_000_000));
    }
    Ok(())
}

pub fn slow_servers_hold_a_bounded_amount() -> TestResult {
    const WRITERS: usize = 40;
    let (lab, oneway) = lab(Some("socks5"), &[])?;
    let client = lab.host.client();
    client.http_get(address::ORIGIN.v4_port(port::HTTP), "/", 5 * SECOND)?;
    let before = oneway.rss()?;
    let mut writers = Vec::new();
    let some = pattern::bytes(256 * 1024);
    for n in 0..WRITERS {
        let to = address::ORIGIN.ports(port::SILENT)[n % 2];
        let stream = client.tcp(to, 5 * SECOND)?.connected()?;
        stream.set_nonblocking(true)?;
        writers.push((stream, 0_usize));
    }
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < SECOND {
        for (stream, sent) in &mut writers {
            while let Ok(len) = stream.write(&some) {
                *sent += len;
                quiet_since = Instant::now();
            }
        }
        assert!(writers.iter().all(|(_, sent)| *sent < 64 << 20), "a sender is held up");
        std::thread::yield_now();
    }
    let grown = oneway.rss()?.saturating_sub(before);
    assert!(grown < WRITERS as u64 * WINDOW, "{WRITERS} connections nobody reads hold {grown} bytes");
    client.http_get(address::ORIGIN.v4_port(port::HTTP), "/bytes/100000", 5 * SECOND)?;
    Ok(())
}

/// How long 8 MB take each way over a link that loses and delays.
fn transfer(stack: &'static str, fault: &str) -> Result<[Duration; 2], oneway_lab::harness::Failed> {
    const BYTES: usize = 8_000_000;
    let (lab, _oneway) = lab_with(stack, None, &["--fault", fault, "--mtu", "1500"])?;
    let client = lab.host.client();
    let begin = Instant::now();
    let reply =
        client.http_get(address::ORIGIN.v4_port(port::HTTP), &format!("/bytes/{BYTES}"), 100 * SECOND)?;
    assert!(reply.body == pattern::bytes(BYTES));
    let down = begin.elapsed();
    let begin = Instant::now();
    let mut stream = client.tcp(address::ORIGIN.v4_port(port::SUM), 10 * SECOND)?.connected()?;
    stream.set_read_timeout(Some(100 * SECOND))?;
    let data = pattern::bytes(BYTES);
    stream.write_all(&data)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)));
    Ok([down, begin.elapsed()])
}

pub fn a_bad_link_costs_no_more_than_with_the_kernels_tcp() -> TestResult {
    const ROUNDS: u32 = 8;
    for faults in ["loss=1%,delay=1ms", "loss=3%,reorder=3%"] {
        // Chance and the machine's other work decide much: the best of both counts, and rounds are added while it does
        // not say so.
        let mut best = [[Duration::MAX; 2]; 2];
        let good =
            |[user, system]: [[Duration; 2]; 2]| (0..2).all(|way| user[way].mul_f64(0.8) < system[way]);
        for seed in 1..=ROUNDS {
            for (best, stack) in best.iter_mut().zip(["user", "system"]) {
                let took = transfer(stack, &format!("{faults},seed={seed}"))?;
                *best = [best[0].min(took[0]), best[1].min(took[1])];
            }
            if seed >= 2 && good(best) {
                break;
            }
        }
        assert!(good(best), "{faults}: down and up, own stack and the kernel's: {best:?}");
    }
    Ok(())
}
