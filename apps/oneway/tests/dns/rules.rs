//! Rules on addresses, for flows of which a name is known alone.

use std::net::SocketAddr;

use oneway_lab::capture::Recorder;
use oneway_lab::client::{Outcome, RecordType};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::program::Program;

use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Simple, address, name};
use oneway_lab::{Oneway, Topology};
use serde_json::Value;

use crate::common::{ONEWAY, SECOND, address_of, expect_reachable, is_fake, proxy, run, upstream};

fn start(lab: &Simple, upstream: &str, rules: &[&str]) -> Result<(Oneway, tempfile::TempDir), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let text = format!(
        "[dns]\nupstream = [\"{upstream}\"]\n[outbound.out]\ntype = \"socks5\"\nserver = \"{}\"\n[rules]\nlist = {rules:?}\n",
        proxy().trim_start_matches("socks5://"),
    );
    std::fs::write(&file, text)?;
    Ok((run(&lab.host, &["--config", &file.to_string_lossy()])?, folder))
}

fn rules(more: &str) -> [String; 3] {
    let of = |kind, ip: std::net::IpAddr, len| format!("{kind},{ip}/{len},direct{more}");
    [
        of("IP-CIDR", address::ORIGIN.v4.into(), 32),
        of("IP-CIDR6", address::ORIGIN.v6.into(), 128),
        "MATCH,out".to_owned(),
    ]
}

fn words(rules: &[String]) -> Vec<&str> {
    rules.iter().map(String::as_str).collect()
}

pub fn a_name_is_looked_up_for_a_rule_on_addresses() -> TestResult {
    let lab = Topology::simple()?;
    let (_oneway, _folder) = start(&lab, &upstream(), &words(&rules("")))?;
    for kind in [RecordType::A, RecordType::AAAA] {
        let fake = address_of(&lab, name::ORIGIN, kind)?;
        assert!(is_fake(fake), "{fake}");
        // TCP and UDP.
        expect_reachable(&lab, fake)?;
    }
    assert!(lab.socks.requests().is_empty(), "{:?}", lab.socks.requests());
    assert_eq!(lab.dns.asked(name::ORIGIN), 2, "for both of its addresses, once");
    // And it can be asked about.
    let fake = address_of(&lab, name::ORIGIN, RecordType::A)?;
    let mut why = Program::new(&lab.host, ONEWAY, ["why", &format!("{fake}:80"), "--json"]).start()?;
    why.wait(10 * SECOND)?;
    let why: Value = serde_json::from_str(&why.stdout())?;
    let why = &why["answers"][0];
    assert_eq!(why["rule"], format!("IP-CIDR,{}/32,direct", address::ORIGIN.v4), "{why:#}");
    assert_eq!(why["dials"][0]["address"], format!("{}:80", address::ORIGIN.v4), "{why:#}");
    assert_eq!(why["loop_free"], "proven", "{why:#}");
    // Another one is elsewhere, or nowhere: the last rule takes it, and the proxy knows better.
    let other = address_of(&lab, name::SOCKS, RecordType::A)?;
    let nowhere = address_of(&lab, "nobody.example", RecordType::A)?;
    for fake in [other, nowhere] {
        let _ = lab.host.client().tcp(SocketAddr::new(fake, 4), 5 * SECOND)?;
    }
    let asked: Vec<_> = lab.socks.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(asked, [format!("{}:4", name::SOCKS), "nobody.example:4".to_owned()]);
    Ok(())
}

/// Whichever family is dialled: of a name with a refused address the other one is not taken instead, and we go ourselves only
/// to addresses that the rules lead to.
pub fn a_refused_address_is_not_come_to_by_the_other_family() -> TestResult {
    let lab = Topology::simple()?;
    let refused = format!("IP-CIDR,{}/32,REJECT", address::ORIGIN.v4);
    let led = format!("IP-CIDR6,{}/128,direct", address::ORIGIN.v6);
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    let dial = |rules: &[&str], port| {
        let (oneway, folder) = start(&lab, &upstream(), rules)?;
        let fake = address_of(&lab, name::ORIGIN, RecordType::AAAA)?;
        let dial = lab.host.client().tcp(SocketAddr::new(fake, port), 5 * SECOND)?;
        drop((oneway, folder));
        Ok::<_, Failed>(dial.outcome)
    };
    for last in ["MATCH,direct", "MATCH,out"] {
        assert_eq!(dial(&[&refused, last], port::HTTP)?, Outcome::Refused, "{last}");
    }
    assert!(lab.socks.requests().is_empty(), "{:?}", lab.socks.requests());
    // Where its own address is led to before, and does not take it, nothing is tried at the other one.
    assert_eq!(dial(&[&led, &refused, "MATCH,out"], port::HTTP)?, Outcome::Done);
    assert_eq!(dial(&[&led, &refused, "MATCH,out"], 4)?, Outcome::Refused);
    assert!(wire.count(|packet| packet.dst == address::ORIGIN.v6)? > 0);
    assert_eq!(wire.count(|packet| packet.dst == address::ORIGIN.v4)?, 0);
    Ok(())
}

pub fn why_tells_the_inner_rule_and_what_it_could_not_ask() -> TestResult {
    let lab = Topology::simple()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let inner = format!("IP-CIDR,{}/32,direct", address::ORIGIN.v4);
    for (first, asks) in [("PROCESS-NAME,nobody,REJECT", true), ("DST-PORT,4,REJECT", false)] {
        let rules = [first, "SUB-RULE,(NETWORK,tcp),sub", "MATCH,block"];
        std::fs::write(&file, format!("[rules]\nlist = {rules:?}\n[sub-rules]\nsub = [{inner:?}]\n"))?;
        let to = format!("{}:80", address::ORIGIN.v4);
        let words = ["why", "--config", &*file.to_string_lossy(), &to, "--json"];
        let mut why = Program::new(&lab.host, ONEWAY, words).start()?;
        why.wait(10 * SECOND)?;
        let why: Value = serde_json::from_str(&why.stdout())?;
        let why = &why["answers"][0];
        assert_eq!(why["rule"], format!("SUB-RULE,(NETWORK,tcp),sub: {inner}"), "{why:#}");
        let not_asked = why["not_asked"].as_str().unwrap_or_default();
        assert_eq!(not_asked.contains("programs"), asks, "{why:#}");
    }
    Ok(())
}

pub fn no_resolve_asks_nobody() -> TestResult {
    let lab = Topology::simple()?;
    let (_oneway, _folder) = start(&lab, &upstream(), &words(&rules(",no-resolve")))?;
    expect_reachable(&lab, address_of(&lab, name::ORIGIN, RecordType::A)?)?;
    assert_eq!(lab.dns.asked(name::ORIGIN), 0);
    assert_eq!(lab.socks.requests_for(&format!("{}:{}", name::ORIGIN, port::HTTP)).len(), 1);
    Ok(())
}

pub fn a_silent_server_costs_a_flow_two_seconds_once() -> TestResult {
    let lab = Topology::simple()?;
    let silent = format!("udp://{}", address::BLACK_HOLE.v4);
    let (_oneway, _folder) = start(&lab, &silent, &words(&rules("")))?;
    let to = SocketAddr::new(address_of(&lab, name::ORIGIN, RecordType::A)?, port::HTTP);
    for (least, most) in [(1, 4), (0, 1)] {
        let dial = lab.host.client().tcp(to, 10 * SECOND)?;
        assert_eq!(dial.outcome, Outcome::Done);
        assert!((least * SECOND..most * SECOND).contains(&dial.took), "{:?}", dial.took);
    }
    assert_eq!(lab.socks.requests_for(&format!("{}:{}", name::ORIGIN, port::HTTP)).len(), 2);
    Ok(())
}
