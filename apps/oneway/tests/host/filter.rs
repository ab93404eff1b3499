//! Beside a packet filter that lets in nothing but answers, as most hosts have one.

use oneway_lab::harness::TestResult;
use oneway_lab::{NetNs, Snapshot, Topology};

use crate::common::{TUN, command, expect_connectivity, run, stack, stop};
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
