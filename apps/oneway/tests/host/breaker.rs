//! Packets of our own come back: the last defence (S5, L1 to L4).
//!
//! One rule of ours captures and exempts at once, so that removing it ends the capture and makes no loop. What makes one is a
//! rule of somebody else's that leads marked packets into our table.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Pair, Standard, address};
use oneway_lab::{NetNs, Snapshot, Topology};

use crate::common::{SECOND, TUN, ask, expect_connectivity, number, reaches_origin, run, stop};
use crate::drift::tool;

/// Packets that may come back of each destination.
const MOST: u64 = 3;
const RECOVERY: Duration = Duration::from_secs(5);

/// A table of somebody else's that leads into our device.
const ASTRAY: &str = "999";

/// Makes a rule of somebody else's, before all others, lead packets to `to`, or all, into a table.
fn lead(host: &NetNs, to: Option<Pair>, table: &str) -> TestResult {
    let selector = |v6: bool| match to {
        None => String::new(),
        Some(pair) if v6 => format!("to {}", pair.v6),
        Some(pair) => format!("to {}", pair.v4),
    };
    tool(host, &format!("ip rule add pref 1 {} lookup {table}", selector(false)))?;
    tool(host, &format!("ip -6 rule add pref 1 {} lookup {table}", selector(true)))?;
    Ok(())
}

fn lead_astray(host: &NetNs, to: Option<Pair>) -> TestResult {
    for ip in ["ip", "ip -6"] {
        tool(host, &format!("{ip} route add default dev {TUN} table {ASTRAY}"))?;
    }
    lead(host, to, ASTRAY)
}

fn lead_back(host: &NetNs) -> TestResult {
    tool(host, "ip rule del pref 1")?;
    tool(host, "ip -6 rule del pref 1")?;
    for ip in ["ip", "ip -6"] {
        let _ = tool(host, &format!("{ip} route flush table {ASTRAY}"));
    }
    Ok(())
}

/// Tries everything once: TCP, UDP and echo of both families.
fn try_all(host: &NetNs, pair: Pair) -> Result<Vec<Outcome>, Failed> {
    let client = host.client();
    let mut outcomes = Vec::new();
    for to in pair.ports(port::HTTP) {
        outcomes.push(client.tcp(to, SECOND / 2)?.outcome);
    }
    for to in pair.ports(port::ECHO) {
        outcomes.push(client.udp(to, b"?", SECOND / 2)?.outcome);
    }
    for to in pair.both() {
        client.ping(to, SECOND / 2)?;
    }
    Ok(outcomes)
}

pub fn a_foreign_rule_cannot_make_a_storm() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &[])?;
    expect_connectivity(host)?;
    let mut session = host.client().tcp(address::ORIGIN.v4_port(port::ECHO), SECOND)?.connected()?;
    let counters = host.link_counters(TUN)?;
    let canary = |packet: &Packet| packet.is_udp() && packet.ports.1 == port::DISCARD;
    let (leaving, beyond) = (Recorder::start(host, None)?, Recorder::start(&lab.net, None)?);
    let cpu = oneway.cpu_time()?;
    lead_astray(host, None)?;
    // At once, before anybody may have noticed; and then again and again.
    let mut tries = 0;
    for _ in 0..5 {
        let outcomes = try_all(host, address::ORIGIN)?;
        assert!(outcomes.iter().all(|outcome| *outcome != Outcome::Done), "{outcomes:?}: not led astray");
        tries += 1;
    }
    let status = ask(host, "status")?;
    assert_eq!(status["loops"]["verdict"], "LOOPS", "{status}");
    let returned = number(&status, "/guard/returned");
    // TCP, UDP and ICMP of two families: 6 kinds of packets of 2 destinations.
    assert!(returned <= 2 * 3 * MOST, "{returned} packets came back: {status}");
    // Refused promptly by now, and not silently.
    let dial = host.client().tcp(address::ORIGIN.v4_port(port::HTTP), SECOND)?;
    assert_eq!(dial.outcome, Outcome::Refused, "{}", oneway.stderr());
    assert!(dial.took < SECOND / 5, "{:?}", dial.took);
    let now = host.link_counters(TUN)?;
    let packets = now.tx_packets + now.rx_packets - counters.tx_packets - counters.rx_packets;
    assert!(packets < 40 * tries, "{packets} packets at the TUN for {tries} tries");
    let used = oneway.cpu_time()? - cpu;
    assert!(used < SECOND, "{used:?} of processor time");
    let log = oneway.stderr();
    assert_eq!(log.matches("packets of our own come back").count(), 1, "{log}");

    lead_back(host)?;
    wait_until(RECOVERY, "it works again", || reaches_origin(host, SECOND / 5))
        .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    // The way out was tried before, by datagrams that left by the uplink and came no further than to the first router.
    let sent = leaving.matching(canary)?;
    assert!(sent.iter().any(|packet| packet.device == Standard::UP1), "{sent:?}");
    assert!(sent.iter().all(|packet| packet.ttl == 1 && packet.payload_length == 0), "{sent:?}");
    assert_eq!(beyond.matching(canary)?, []);
    // What was open before goes on.
    session.set_read_timeout(Some(10 * SECOND))?;
    session.write_all(b"x")?;
    session.read_exact(&mut [0])?;
    let status = ask(host, "status")?;
    assert_ne!(status["loops"]["verdict"], "LOOPS", "{status}");
    stop(&mut oneway, host, &before)
}

pub fn one_destination_that_loops_leaves_the_others_alone() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &[])?;
    expect_connectivity(host)?;
    lead_astray(host, Some(address::ORIGIN))?;
    for _ in 0..3 {
        try_all(host, address::ORIGIN)?;
        let client = host.client();
        for to in address::ORIGIN_OTHER.ports(port::HTTP) {
            assert_eq!(client.http_get(to, "/", SECOND)?.status, 200, "{to}");
        }
        for to in address::ORIGIN_OTHER.ports(port::ECHO) {
            assert_eq!(client.udp(to, b"!", SECOND)?.outcome, Outcome::Done, "{to}");
        }
    }
    let status = ask(host, "status")?;
    assert!(number(&status, "/guard/returned") <= 2 * 3 * MOST, "{status}");
    let stopped = status["guard"]["quarantined"].as_array().ok_or("no list")?;
    assert_eq!(stopped.len(), 2, "{status}");
    lead_back(host)?;
    wait_until(RECOVERY, "it works again", || reaches_origin(host, SECOND / 5))
        .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    stop(&mut oneway, host, &before)
}

/// A rule that leads into our own table is left behind: the plan is made again with another table.
pub fn a_rule_into_our_table_leads_nowhere() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &[])?;
    expect_connectivity(host)?;
    let routes = tool(host, &format!("ip route show table all dev {TUN} proto 162"))?;
    let table = routes.split_whitespace().skip_while(|word| *word != "table").nth(1).ok_or("no table")?;
    lead(host, Some(address::ORIGIN), table)?;
    try_all(host, address::ORIGIN)?;
    wait_until(RECOVERY, "it works although the rule is there", || reaches_origin(host, SECOND / 5))
        .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    assert!(number(&ask(host, "status")?, "/guard/returned") <= 2 * 3 * MOST);
    lead_back(host)?;
    expect_connectivity(host)?;
    stop(&mut oneway, host, &before)
}

/// Somebody's route into our device, as OpenVPN makes one to its server when everything is captured: marked packets would
/// follow it past every rule. Nothing is sent there, so that nothing can come back.
pub fn a_route_into_our_device_is_not_followed() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--protect", "mark"])?;
    expect_connectivity(host)?;
    for (ip, to) in ["ip", "ip -6"].into_iter().zip(address::ORIGIN.both()) {
        tool(host, &format!("{ip} route add {to} dev {TUN}"))?;
    }
    let client = host.client();
    wait_until(RECOVERY, "both routes are noticed", || {
        oneway.stderr().matches("a route of another program leads into the TUN").count() == 2
    })?;
    wait_until(RECOVERY, "nothing is sent there", || {
        let refused = |to| client.tcp(to, SECOND).is_ok_and(|dial| dial.outcome == Outcome::Refused);
        address::ORIGIN.ports(port::HTTP).into_iter().all(refused)
    })?;
    let returned = number(&ask(host, "status")?, "/guard/returned");
    for _ in 0..3 {
        try_all(host, address::ORIGIN)?;
    }
    assert_eq!(number(&ask(host, "status")?, "/guard/returned"), returned, "none comes back any more");
    assert!(returned <= 2 * MOST, "{returned} before it was noticed");
    for to in address::ORIGIN_OTHER.ports(port::HTTP) {
        assert_eq!(client.http_get(to, "/", SECOND)?.status, 200, "{to}");
    }
    for (ip, to) in ["ip", "ip -6"].into_iter().zip(address::ORIGIN.both()) {
        tool(host, &format!("{ip} route del {to} dev {TUN}"))?;
    }
    wait_until(RECOVERY, "it works again", || reaches_origin(host, SECOND / 5))
        .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    stop(&mut oneway, host, &before)
}

/// Removing a rule of ours is no loop, and nothing of what programs send is multiplied meanwhile (S5).
pub fn removing_our_rules_makes_no_loop() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &[])?;
    expect_connectivity(host)?;
    let during = Snapshot::take(host)?;
    for _ in 0..3 {
        host.flush_rules(162)?;
        wait_until(RECOVERY, "restored", || during.expect_same(host).is_ok())?;
        assert!(reaches_origin(host, SECOND), "{}", oneway.stderr());
    }
    assert_eq!(number(&ask(host, "status")?, "/guard/returned"), 0);
    stop(&mut oneway, host, &before)
}

/// A container may send from the very port that one of our sockets has; that is no packet of ours.
pub fn others_with_the_same_port_are_not_taken_for_us() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--forwarded"])?;
    expect_connectivity(host)?;
    let client = host.client();
    for to in address::ORIGIN.ports(port::CLIENT) {
        // The origin tells the port that our own socket has.
        let seen = client.udp(to, b"who am I", SECOND)?;
        let ours: SocketAddr = String::from_utf8(seen.data)?.trim().parse()?;
        let own = if to.is_ipv4() { address::CONTAINER.v4.into() } else { address::CONTAINER.v6.into() };
        let container = lab.container.client().source_port(SocketAddr::new(own, ours.port()));
        let answer = container.udp(to, b"who am I", SECOND)?;
        assert_eq!(answer.outcome, Outcome::Done, "{to}: {}", oneway.stderr());
    }
    assert_eq!(number(&ask(host, "status")?, "/guard/returned"), 0);
    thread::sleep(SECOND / 5);
    stop(&mut oneway, host, &before)
}
