//! Beside a packet filter that lets in nothing but answers, as most hosts have one.

use oneway_lab::client::{Outcome, parallel, wait_until};
use oneway_lab::harness::TestResult;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{Injector, NetNs, Snapshot, Topology};
use oneway_wire::emit::{TcpHeader, tcp_segment};
use oneway_wire::tcp::Flags;

use crate::common::{SECOND, TUN, ask, command, expect_connectivity, run, stack, stop};
use crate::drift::tool;

/// What ufw and firewalld amount to where nothing was allowed in.
fn let_in_answers_only(host: &NetNs) -> TestResult {
    for words in [
        "add table inet filter",
        "add chain inet filter input { type filter hook input priority 0 ; policy drop ; }",
        "add rule inet filter input ct state established,related accept",
        "add rule inet filter input iif lo accept",
        "add rule inet filter input meta l4proto { icmp, ipv6-icmp } accept",
    ] {
        tool(host, &format!("nft {words}"))?;
    }
    Ok(())
}

pub fn what_begins_outside_is_dropped() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let_in_answers_only(host)?;
    let before = Snapshot::take(host)?;

    if stack() == "system" {
        // The filter would drop each captured connection, and its client would wait in vain.
        let refused = command(host, &["run", "--stack", "system"])?;
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        assert!(
            refused.stderr.contains(&format!("iifname \"{TUN}\" accept"))
                && refused.stderr.contains("--stack user"),
            "{}",
            refused.stderr
        );
        before.expect_same(host)?;
        tool(host, &format!("nft add rule inet filter input iifname {TUN} accept"))?;
    }
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &[])?;
    expect_connectivity(host)?;
    stop(&mut oneway, host, &before)
}

/// All workers find out within a second, and one of them says so.
pub fn what_begins_to_drop_is_named_once() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let mut oneway = run(host, &[])?;
    let_in_answers_only(host)?;
    let outcomes = parallel(32, |n| {
        let to = address::ORIGIN.ports(port::ECHO)[n % 2];
        host.client().tcp(to, 23 * SECOND).map(|dial| dial.outcome)
    });
    for outcome in outcomes {
        assert_eq!(outcome?, Outcome::TimedOut, "{}", oneway.stderr());
    }
    wait_until(3 * SECOND, "all are given up", || {
        ask(host, "flows").is_ok_and(|flows| flows["flows"].as_array().is_some_and(Vec::is_empty))
    })?;
    let said = oneway.stderr().matches("none arrives").count();
    assert_eq!(said, 1, "{}", oneway.stderr());
    oneway.stop(2 * SECOND)?;
    Ok(())
}

/// Clients that begin connections and never answer, whatever they are told.
pub fn a_flood_of_syns_is_not_taken_for_a_filter() -> TestResult {
    const SYNS: u16 = 20;
    let lab = Topology::simple()?;
    let mut oneway = run(&lab.host, &[])?;
    let injector = Injector::open(&lab.host, TUN)?;
    let count = || ask(&lab.host, "flows").ok().and_then(|flows| Some(flows["flows"].as_array()?.len()));
    for n in 0..SYNS {
        let header = TcpHeader { seq: 1, ack: 0, flags: Flags::SYN, window: 65_535, options: &[] };
        let mut syn = Vec::new();
        // Nobody in this host resets what is answered to another one.
        let from = address::SPARE.v4_port(20_000 + n);
        tcp_segment(&mut syn, from, address::ORIGIN.v4_port(port::ECHO), &header, &[])?;
        injector.send(&syn)?;
    }
    wait_until(5 * SECOND, "they are taken", || count() == Some(usize::from(SYNS)))?;
    wait_until(30 * SECOND, "all are given up", || count() == Some(0))?;
    assert!(!oneway.stderr().contains("none arrives"), "{}", oneway.stderr());
    oneway.stop(2 * SECOND)?;
    Ok(())
}
