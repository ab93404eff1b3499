//! Destinations that would lead back into the TUN, or nowhere (S1).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::client::{Client, Outcome};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::topology::{Standard, address};
use oneway_lab::{NetNs, Snapshot, Topology};

use crate::common::{ONEWAY, SECOND, TUN, program, run, stop};

const OWN: &[&str] = &["--tun-address", "10.88.0.1/24", "--tun-address", "fd88::1/64"];
/// Within this time a client must have learned that it goes nowhere.
const PROMPT: Duration = Duration::from_millis(100);

/// Asked for by TCP and UDP by any program.
const PLAIN: &[&str] = &[
    // The TUN's own address, its peers, network and broadcast address. Not the network address of IPv6: on a router the
    // kernel itself owns it (RFC 4291, 2.6.1), and its TCP ignores what comes for an anycast address.
    "10.88.0.1",
    "10.88.0.2",
    "10.88.0.77",
    "10.88.0.0",
    "10.88.0.255",
    "fd88::1",
    "fd88::2",
    "fd88::77:1",
    // Martians.
    "0.1.2.3",
    "240.0.0.1",
    "255.255.255.254",
];

/// Asked for by programs that are bound to the TUN.
const BOUND: &[&str] = &["169.254.1.1", "192.0.2.63", "240.0.0.1", "10.88.0.2", "fe80::99", "fd88::2"];

/// One to many, by programs that are bound to the TUN: nobody is there, and RFC 1122 (3.2.2) wants no ICMP errors.
const MANY: &[&str] = &["224.0.0.251", "239.1.2.3", "255.255.255.255", "10.88.0.255", "ff02::fb", "ff05::2"];

fn socket_address(host: &NetNs, text: &str, port: u16, device: &str) -> Result<SocketAddr, Failed> {
    let ip: IpAddr = text.parse()?;
    Ok(match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast() => {
            SocketAddrV6::new(v6, port, 0, host.link_index(device)?).into()
        }
        ip => SocketAddr::new(ip, port),
    })
}

/// Tries until it is refused promptly, at most three times: the machine may be busy with something else. Returns how
/// many packets were sent for it at most.
fn refused_promptly(
    what: &str,
    mut attempt: impl FnMut() -> Result<(Outcome, Duration), Failed>,
) -> Result<usize, Failed> {
    let mut seen = Vec::new();
    for tries in 1..=3 {
        let (outcome, took) = attempt()?;
        if !matches!(outcome, Outcome::Done | Outcome::TimedOut) && took <= PROMPT {
            return Ok(tries);
        }
        seen.push((outcome, took));
    }
    Err(format!("{what}: {seen:?}").into())
}

fn try_both(client: &Client, to: SocketAddr) -> Result<usize, Failed> {
    let tcp = refused_promptly(&format!("TCP {to}"), || {
        let dial = client.tcp(to, SECOND)?;
        Ok((dial.outcome, dial.took))
    })?;
    let udp = refused_promptly(&format!("UDP {to}"), || {
        let exchange = client.udp(to, b"nobody", SECOND)?;
        Ok((exchange.outcome, exchange.took))
    })?;
    Ok(tcp + udp)
}

pub fn nothing_that_leads_nowhere_leaves_or_repeats() -> TestResult {
    nowhere(&Topology::standard()?, &[], &[])
}

/// The same with more options, and without some destinations.
pub fn nowhere(lab: &Standard, options: &[&str], but: &[&str]) -> TestResult {
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[OWN, options].concat())?;
    let all = Recorder::start(&lab.host, None)?;
    let mut failures = Vec::new();
    let mut sent = 0;
    let mut note = |result: Result<usize, Failed>| match result {
        Ok(packets) => sent += packets,
        Err(failed) => failures.push(failed.message().unwrap_or_default().to_owned()),
    };
    let (plain, bound) = (lab.host.client(), lab.host.client().device(TUN));
    for text in PLAIN {
        note(try_both(&plain, socket_address(&lab.host, text, 80, TUN)?));
    }
    for text in BOUND.iter().filter(|text| !but.contains(text)) {
        note(try_both(&bound, socket_address(&lab.host, text, 80, TUN)?));
    }
    for text in MANY {
        let to = socket_address(&lab.host, text, 5353, TUN)?;
        let socket = bound.udp_socket(to.is_ipv6())?;
        socket.set_broadcast(true)?;
        socket.send_to(b"anybody", to)?;
        note(Ok(1));
    }
    assert_eq!(failures, Vec::<String>::new());
    let on_tun = |p: &Packet| p.is_traffic() && p.device == TUN;
    let packets = all.settle(SECOND / 5, 5 * SECOND, on_tun)?;
    assert!(packets <= 2 * sent, "{packets} packets for {sent}");
    assert_eq!(all.matching(|p| p.is_traffic() && p.device != TUN)?, [], "left by an uplink");
    assert!(oneway.stderr().len() < 64 << 10, "{} bytes of log", oneway.stderr().len());
    stop(&mut oneway, &lab.host, &before)
}

/// Sends one datagram each to what is never captured and says what went where.
fn wanderings(lab: &Standard) -> Result<BTreeMap<(String, IpAddr), usize>, Failed> {
    let all = Recorder::start(&lab.host, None)?;
    let destinations =
        ["224.0.0.251", "239.1.2.3", "255.255.255.255", "192.0.2.63", "169.254.1.1", "ff02::fb"];
    for text in destinations {
        let to = socket_address(&lab.host, text, 5353, Standard::UP1)?;
        let socket = lab.host.client().udp_socket(to.is_ipv6())?;
        socket.set_broadcast(true)?;
        socket.send_to(b"anybody", to)?;
    }
    all.settle(SECOND / 5, 5 * SECOND, Packet::is_udp)?;
    let mut found = BTreeMap::new();
    for packet in all.matching(Packet::is_udp)? {
        *found.entry((packet.device, packet.dst)).or_default() += 1;
    }
    Ok(found)
}

pub fn what_is_never_captured_goes_as_without_us() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let without = wanderings(&lab)?;
    assert!(without.len() >= 5 && without.values().all(|count| *count == 1), "{without:?}");
    let mut oneway = run(&lab.host, &[])?;
    assert_eq!(wanderings(&lab)?, without);
    stop(&mut oneway, &lab.host, &before)
}

pub fn a_resolver_on_the_tun_keeps_quiet() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let resolver = "nameserver 10.88.0.2\nnameserver fd88::2\n";
    let mut oneway = program(&lab.host, ONEWAY, OWN).resolv_conf(resolver).start()?;
    let all = Recorder::start(&lab.host, None)?;
    // Nobody sends anything: whatever comes within this time is of our own making.
    std::thread::sleep(2 * SECOND);
    assert_eq!(all.matching(Packet::is_traffic)?, []);
    // And a query goes nowhere, at once.
    let client = lab.host.client();
    for to in ["10.88.0.2:53", "[fd88::2]:53"] {
        let sent = try_both(&client, to.parse()?)?;
        let packets = all.settle(SECOND / 5, 5 * SECOND, Packet::is_traffic)?;
        assert!(packets <= 2 * sent, "{packets} packets for {sent}");
        all.forget()?;
    }
    assert!(client.http_get(address::ORIGIN.v4_port(80), "/", SECOND)?.status == 200);
    stop(&mut oneway, &lab.host, &before)
}
