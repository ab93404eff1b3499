//! What is left to the kernel of the way of a connection's packets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern::{self, Sum};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Simple, Topology, address};
use oneway_lab::{Oneway, kernel};
use serde_json::Value;
use socket2::SockRef;

use crate::common::{SECOND, TCX, ask, lab, run};

/// Bytes of a transfer: at least 300 superpackets.
const BYTES: usize = 20_000_003;
const SUPERPACKETS: u64 = (BYTES / 65_536) as u64;

fn counter(lab: &Simple, path: &str) -> Result<u64, Failed> {
    let status = ask(&lab.host, "status")?;
    Ok(status.pointer(path).and_then(Value::as_u64).ok_or("no such counter")?)
}

fn upload(lab: &Simple, to: SocketAddr) -> TestResult {
    let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
    let data = pattern::bytes(BYTES);
    stream.write_all(&data)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)), "{to}: {answer:?}");
    Ok(())
}

fn download(lab: &Simple, to: SocketAddr) -> TestResult {
    let reply = lab.host.client().http_get(to, &format!("/bytes/{BYTES}"), 20 * SECOND)?;
    assert!(reply.body == pattern::bytes(BYTES), "{to}");
    Ok(())
}

pub fn what_carries_much_is_renamed_in_the_kernel() -> TestResult {
    let (lab, _oneway): (Simple, Oneway) = lab(Some("socks5"), &[])?;
    let mut shortened = 0;
    for family in 0..2 {
        let ports = |port| address::ORIGIN.ports(port)[family];
        for (name, transfer) in [
            ("up", &(|| upload(&lab, ports(port::SUM))) as &dyn Fn() -> TestResult),
            ("down", &|| download(&lab, ports(port::HTTP))),
        ] {
            let before = counter(&lab, "/counters/tun/packets_read")?;
            transfer()?;
            let read = counter(&lab, "/counters/tun/packets_read")? - before;
            if kernel() < TCX {
                assert_eq!(counter(&lab, "/counters/tcp/shortened")?, 0, "{name}, family {family}");
                assert!(read >= SUPERPACKETS, "{name}, family {family}: the program has read {read} packets");
                continue;
            }
            shortened += 1;
            assert_eq!(counter(&lab, "/counters/tcp/shortened")?, shortened, "{name}, family {family}");
            // Data and acknowledgments of both sides would be more than twice as many as there are superpackets.
            assert!(read < SUPERPACKETS, "{name}, family {family}: the program has read {read} packets");
        }
    }
    // Few packets are not worth it.
    lab.host.client().http_get(address::ORIGIN.v4_port(port::HTTP), "/bytes/1000", 5 * SECOND)?;
    assert_eq!(counter(&lab, "/counters/tcp/shortened")?, shortened);
    Ok(())
}

pub fn what_is_recorded_comes_by_the_program() -> TestResult {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("packets.pcap");
    let file = file.to_str().ok_or("the folder's name is no text")?;
    let (lab, _oneway) = lab(Some("socks5"), &["--pcap", file])?;
    upload(&lab, address::ORIGIN.v4_port(port::SUM))?;
    assert_eq!(counter(&lab, "/counters/tcp/shortened")?, 0);
    assert!(counter(&lab, "/counters/tun/packets_read")? >= SUPERPACKETS);
    Ok(())
}

pub fn a_captured_program_is_not_paced() -> TestResult {
    for (default, captured) in [("bbr", "reno"), ("cubic", "cubic"), ("reno", "reno")] {
        let lab = Topology::simple()?;
        // A module may have to be loaded for it, which a namespace may not do, and the host may allow it to root alone
        // (`net.ipv4.tcp_allowed_congestion_control`).
        if lab.host.set_sysctl("ipv4/tcp_congestion_control", default).is_err() {
            assert_ne!(default, "reno", "every kernel has it and allows it");
            continue;
        }
        let _oneway = run(&lab.host, None, &[])?;
        for to in address::ORIGIN.ports(port::ECHO) {
            let stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
            let used = SockRef::from(&stream).tcp_congestion()?;
            let used = String::from_utf8(used)?;
            assert_eq!(used.trim_end_matches('\0'), captured, "{to} on a host whose default is {default}");
        }
    }
    Ok(())
}
