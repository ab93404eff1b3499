//! Beside another VPN, of the kind that wg-quick sets up (S17).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use oneway_lab::capture::{Direction, Packet, Recorder};
use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{NetNs, Snapshot, Topology};
use socket2::SockRef;

use crate::common::{SECOND, TUN, expect_connectivity, run, stop};
use crate::drift::tool;

const VPN: &str = "vpn0";
/// What its own transport carries; it is the number of its table, too.
const MARK: u32 = 51_820;
/// Its address in each family.
const ADDRESSES: [&str; 2] = ["10.66.0.2/24", "fd66::2/64"];
const IPS: [&str; 2] = ["ip -4", "ip -6"];

/// Makes it. Where the priorities are not given, they are below all that there are, as always.
fn begin(host: &NetNs) -> Result<OwnedFd, Failed> {
    let vpn = host.tun(VPN, false)?;
    for (ip, address) in IPS.into_iter().zip(ADDRESSES) {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        tool(host, &format!("{ip} address add {address} dev {VPN}{nodad}"))?;
    }
    host.up(VPN)?;
    for ip in IPS {
        tool(host, &format!("{ip} route add default dev {VPN} table {MARK}"))?;
        tool(host, &format!("{ip} rule add not fwmark {MARK} table {MARK}"))?;
        tool(host, &format!("{ip} rule add table main suppress_prefixlength 0"))?;
    }
    Ok(vpn)
}

/// Ends it as wg-quick does: by deleting what looks like its rules until none is left. The kernel compares only what is
/// said, so that one of ours is what goes first.
fn end(host: &NetNs, vpn: OwnedFd) -> TestResult {
    for ip in IPS {
        tool(host, &format!("{ip} rule del table {MARK}"))?;
        for _ in 0..100 {
            if !tool(host, &format!("{ip} rule list"))?
                .contains("from all lookup main suppress_prefixlength 0")
            {
                break;
            }
            tool(host, &format!("{ip} rule del table main suppress_prefixlength 0"))?;
        }
    }
    drop(vpn);
    Ok(())
}

/// Priorities and tables of rules: ours, and those of others but the kernel's own.
fn rules(host: &NetNs) -> Result<[Vec<(u32, String)>; 2], Failed> {
    let mut found = [Vec::new(), Vec::new()];
    for ip in IPS {
        for line in tool(host, &format!("{ip} rule list"))?.lines() {
            let (priority, rule) = line.split_once(':').ok_or("no priority")?;
            let priority: u32 = priority.parse()?;
            let table = rule.split_whitespace().skip_while(|word| *word != "lookup").nth(1);
            let ours = usize::from(!rule.ends_with("proto 162"));
            if !matches!(priority, 0 | 32_766 | 32_767) {
                found[ours].push((priority, table.unwrap_or_default().to_owned()));
            }
        }
    }
    Ok(found)
}

/// A program's datagram: the port that it came from. Nobody need answer.
fn send(host: &NetNs, to: SocketAddr) -> Result<u16, Failed> {
    let socket = host.client().udp_socket(to.is_ipv6())?;
    socket.send_to(b"from a program", to)?;
    Ok(socket.local_addr()?.port())
}

/// The other's own transport: what it asks beyond the uplink is answered.
fn transport(host: &NetNs, to: SocketAddr) -> Result<bool, Failed> {
    let socket = host.client().udp_socket(to.is_ipv6())?;
    socket.set_read_timeout(Some(SECOND))?;
    SockRef::from(&socket).set_mark(MARK)?;
    socket.send_to(b"sealed", to)?;
    Ok(socket.recv_from(&mut [0; 64]).is_ok())
}

fn out(packet: &Packet) -> bool {
    packet.is_udp() && packet.direction == Direction::Out
}

pub fn neither_captures_the_other() -> TestResult {
    for first in [true, false] {
        let lab = Topology::standard()?;
        let host = &lab.host;
        let before = Snapshot::take(host)?;
        let mut vpn = if first { Some(begin(host)?) } else { None };
        let mut oneway = run(host, &[])?;
        if vpn.is_none() {
            expect_connectivity(host)?;
            vpn = Some(begin(host)?);
        }
        let to = address::ORIGIN.ports(port::ECHO);
        let tun = Recorder::start(host, Some(TUN))?;
        let others = Recorder::start(host, Some(VPN))?;
        wait_until(2 * SECOND, "programs are captured, and we leave by the VPN", || {
            let _ = (tun.forget(), others.forget());
            let sent = to.into_iter().all(|to| send(host, to).is_ok());
            let carried = || others.count(out).is_ok_and(|seen| seen >= to.len());
            sent && tun.count(out).is_ok_and(|seen| seen >= to.len())
                && wait_until(SECOND / 5, "it goes on", carried).is_ok()
        })
        .map_err(|error| format!("first: {first}: {error}: {}", oneway.stderr()))?;
        let up1 = Recorder::start(host, Some("up1"))?;
        let up2 = Recorder::start(host, Some("up2"))?;
        for to in to {
            let from = send(host, to)?;
            tun.wait_for(SECOND, "the program is captured", move |p| out(p) && p.ports.0 == from)?;
            others.wait_for(SECOND, "it goes on by the VPN", move |p| {
                out(p) && p.payload == b"from a program"
            })?;
            assert_eq!(others.count(move |p| out(p) && p.ports.0 == from)?, 0, "{to}: not past us");
            assert!(transport(host, to)?, "first: {first}: {to}: the VPN's own transport is answered");
        }
        for (captor, name) in [(&tun, TUN), (&others, VPN)] {
            assert_eq!(captor.count(|p| p.payload == b"sealed")?, 0, "first: {first}: in {name}");
        }
        let left = |wire: &Recorder| wire.count(|p| out(p) && p.payload == b"sealed");
        assert_eq!(left(&up1)? + left(&up2)?, to.len());
        for wire in [&up1, &up2] {
            assert_eq!(wire.count(|p| out(p) && p.payload == b"from a program")?, 0, "all goes by the VPN");
        }
        let [ours, theirs] = rules(host)?;
        assert!(!ours.is_empty() && theirs.len() == 4, "{ours:?} {theirs:?}");
        for (priority, table) in &theirs {
            assert!(ours.iter().all(|(other, _)| other != priority), "{ours:?} {theirs:?}");
            assert!(table == "main" || ours.iter().all(|(_, other)| other != table), "{ours:?} {theirs:?}");
        }
        if let Some(vpn) = vpn {
            end(host, vpn)?;
        }
        wait_until(3 * SECOND, "without it everything is as before", || {
            let client = host.client();
            to.into_iter()
                .all(|to| client.udp(to, b"echo", SECOND / 5).is_ok_and(|e| e.outcome == Outcome::Done))
        })
        .map_err(|error| format!("first: {first}: {error}: {}", oneway.stderr()))?;
        stop(&mut oneway, host, &before)?;
    }
    Ok(())
}
