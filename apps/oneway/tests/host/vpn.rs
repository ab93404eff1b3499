//! Beside another VPN, of the kind that wg-quick sets up (S17).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use oneway_lab::capture::{Direction, Packet, Recorder};
use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{NetNs, Oneway, Snapshot, Topology};
use socket2::SockRef;

use crate::common::{SECOND, TUN, ask, expect_connectivity, number, reaches_origin, run, stop};
use crate::drift::tool;

const VPN: &str = "vpn0";
/// What its own transport carries; it is the number of its table, too.
const MARK: u32 = 51_820;
/// Its address in each family.
const ADDRESSES: [&str; 2] = ["10.66.0.2/24", "fd66::2/64"];
const IPS: [&str; 2] = ["ip -4", "ip -6"];

/// Makes it. Where the priorities are not given, they are below all that there are, as always.
pub fn begin(host: &NetNs) -> Result<OwnedFd, Failed> {
    let vpn = host.tun(VPN, false)?;
    for (ip, address) in IPS.into_iter().zip(ADDRESSES) {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        tool(host, &format!("{ip} address add {address} dev {VPN}{nodad}"))?;
    }
    host.up(VPN)?;
    // The answers to its transport have its mark, too: rp_filter would not let them in otherwise.
    for line in [
        format!("add table inet {VPN}"),
        format!("add chain inet {VPN} in {{ type filter hook prerouting priority mangle; }}"),
        format!("add chain inet {VPN} out {{ type filter hook postrouting priority mangle; }}"),
        format!("add rule inet {VPN} in meta l4proto udp ct mark {MARK} meta mark set ct mark"),
        format!("add rule inet {VPN} out meta l4proto udp mark {MARK} ct mark set mark"),
    ] {
        tool(host, &format!("nft {line}"))?;
    }
    for ip in IPS {
        tool(host, &format!("{ip} route add default dev {VPN} table {MARK}"))?;
        tool(host, &format!("{ip} rule add not fwmark {MARK} table {MARK}"))?;
        tool(host, &format!("{ip} rule add table main suppress_prefixlength 0"))?;
    }
    Ok(vpn)
}

/// Ends it as wg-quick does: by deleting what looks like its rules until none is left. The kernel compares only what is
/// said, so that one of ours is what goes first.
pub fn end(host: &NetNs, vpn: OwnedFd) -> TestResult {
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
    tool(host, &format!("nft delete table inet {VPN}"))?;
    drop(vpn);
    Ok(())
}

/// Families, priorities and tables of rules.
type Rules = Vec<(&'static str, u32, String)>;

/// Ours, and those of others but the kernel's own.
fn rules(host: &NetNs) -> Result<[Rules; 2], Failed> {
    let mut found = [Vec::new(), Vec::new()];
    for ip in IPS {
        for line in tool(host, &format!("{ip} rule list"))?.lines() {
            let (priority, rule) = line.split_once(':').ok_or("no priority")?;
            let priority: u32 = priority.parse()?;
            let table = rule.split_whitespace().skip_while(|word| *word != "lookup").nth(1);
            let ours = usize::from(!rule.ends_with("proto 162"));
            if !matches!(priority, 0 | 32_766 | 32_767) {
                found[ours].push((ip, priority, table.unwrap_or_default().to_owned()));
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
    let lab = Topology::standard()?;
    keep_apart(&lab.host, || Ok(run(&lab.host, &[])?), true)
}

/// The other's rules are seen before it has made all that it makes: the first handshake is for what it is given then.
pub fn a_mark_is_exempt_while_more_changes_come() -> TestResult {
    /// Less than is waited for quiet otherwise, and much more than a look takes.
    const AT_ONCE: Duration = Duration::from_millis(120);
    const TRIES: usize = 8;
    let lab = Topology::standard()?;
    let host = &lab.host;
    let mut oneway = run(host, &[])?;
    expect_connectivity(host)?;
    let rule = |what: &str| tool(host, &format!("ip rule {what} not fwmark {MARK} table {MARK}"));
    let exempt = || tool(host, "ip rule list").is_ok_and(|rules| rules.contains("fwmark 0xca6c goto"));
    let mut took = Vec::new();
    for _ in 0..TRIES {
        // It hurries once a second.
        std::thread::sleep(SECOND + SECOND / 10);
        rule("add")?;
        let begin = Instant::now();
        while !exempt() && begin.elapsed() < 2 * SECOND {
            for what in ["add", "del"] {
                tool(host, &format!("ip address {what} 198.51.100.77/32 dev lo"))?;
            }
        }
        took.push(begin.elapsed());
        rule("del")?;
        wait_until(2 * SECOND, "it is not exempt any more", || !exempt())?;
        // Others may have the processors.
        if took.iter().any(|took| *took < AT_ONCE) {
            let (status, _) = oneway.stop(2 * SECOND)?;
            assert!(status.success(), "{}", oneway.stderr());
            return Ok(());
        }
    }
    Err(format!("{took:?}: {}", oneway.stderr()).into())
}

/// Runs the program beside the other, which is there before it or comes later. `by_vpn`: where our own packets leave.
pub fn keep_apart(host: &NetNs, start: impl Fn() -> Result<Oneway, Failed>, by_vpn: bool) -> TestResult {
    for first in [true, false] {
        both(host, first, &start, by_vpn).map_err(|error| {
            let order = if first { "there before us" } else { "come later" };
            format!("{order}: {}", error.message().unwrap_or("no message"))
        })?;
    }
    Ok(())
}

fn both(host: &NetNs, first: bool, start: &impl Fn() -> Result<Oneway, Failed>, by_vpn: bool) -> TestResult {
    host.set_sysctl("ipv4/conf/all/src_valid_mark", "1")?;
    let before = Snapshot::take(host)?;
    let mut vpn = if first { Some(begin(host)?) } else { None };
    let mut oneway = start()?;
    if vpn.is_none() {
        expect_connectivity(host)?;
        vpn = Some(begin(host)?);
    }
    let to = address::ORIGIN.ports(port::ECHO);
    let tun = Recorder::start(host, Some(TUN))?;
    let others = Recorder::start(host, Some(VPN))?;
    let program = |p: &Packet| out(p) && p.payload == b"from a program";
    wait_until(2 * SECOND, "programs are captured, and the VPN has its own", || {
        let _ = tun.forget();
        let sent = to.into_iter().all(|to| send(host, to).is_ok());
        sent && tun.count(program).is_ok_and(|seen| seen == to.len())
            && to.into_iter().all(|to| transport(host, to).is_ok_and(|answered| answered))
    })
    .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    let _ = (tun.forget(), others.forget());
    for to in to {
        let from = send(host, to)?;
        tun.wait_for(SECOND, "the program is captured", move |p| out(p) && p.ports.0 == from)?;
        if by_vpn {
            others.wait_for(SECOND, "it goes on by the VPN", move |p| program(p) && p.dst == to.ip())?;
        }
        assert_eq!(others.count(move |p| out(p) && p.ports.0 == from)?, 0, "{to}: not past us");
        assert!(transport(host, to)?, "{to}: the VPN's own transport is answered");
    }
    for (captor, name) in [(&tun, TUN), (&others, VPN)] {
        assert_eq!(captor.count(|p| p.payload == b"sealed")?, 0, "in {name}");
    }
    assert_eq!(tun.count(program)?, to.len(), "nothing of ours comes back");
    assert_eq!(number(&ask(host, "status")?, "/guard/returned"), 0);
    let mut seen = rules(host)?;
    // Theirs came one by one, and ours have made room for each.
    wait_until(3 * SECOND, "no rule of ours is in the place of theirs", || {
        seen = rules(host).unwrap_or_default();
        let [ours, theirs] = &seen;
        let place = |(family, priority, _): &(&'static str, u32, String)| (*family, *priority);
        theirs.len() == 4 && ours.iter().all(|our| theirs.iter().all(|their| place(our) != place(their)))
    })
    .map_err(|error| format!("{error}: {seen:?}"))?;
    let [ours, theirs] = &seen;
    assert!(!ours.is_empty());
    for (_, _, table) in theirs {
        assert!(table == "main" || ours.iter().all(|(_, _, other)| other != table), "{seen:?}");
    }
    if let Some(vpn) = vpn {
        end(host, vpn)?;
    }
    wait_until(3 * SECOND, "without it everything is as before", || reaches_origin(host, SECOND / 5))
        .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    stop(&mut oneway, host, &before)
}
