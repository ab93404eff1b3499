//! Addresses that stand for names.

use std::net::{IpAddr, SocketAddr};

use oneway_lab::Topology;
use oneway_lab::capture::{Direction, Recorder};
use oneway_lab::client::{Outcome, RecordType};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Simple, name};

use crate::common::{SECOND, address_of, ask, expect_reachable, is_fake, number, proxy, run, upstream};

const KINDS: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

pub fn the_proxy_gets_the_name() -> TestResult {
    let lab = Topology::simple()?;
    let _oneway = run(&lab.host, &["--proxy", &proxy()])?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    // Whatever it is asked by: the same address.
    for kind in KINDS {
        let ip = address_of(&lab, name::ORIGIN, kind)?;
        assert!(is_fake(ip), "{ip}");
        for (v6, tcp) in [(false, true), (true, false), (true, true)] {
            assert_eq!(ask(&lab, name::ORIGIN, kind, v6, tcp)?.addresses, [ip], "{kind} {v6} {tcp}");
        }
        lab.socks.forget();
        expect_reachable(&lab, ip)?;
        let asked = lab.socks.requests_for(&format!("{}:{}", name::ORIGIN, port::HTTP));
        assert_eq!(asked.len(), 1, "{:?}", lab.socks.requests());
    }
    // The name has one address only; whichever family the program chose, it gets there.
    for (known, kind) in [(name::ORIGIN4, RecordType::AAAA), (name::ORIGIN6, RecordType::A)] {
        expect_reachable(&lab, address_of(&lab, known, kind)?)?;
    }
    // What would lead around the fake address.
    for kind in [RecordType::HTTPS, RecordType::SVCB] {
        let answer = ask(&lab, name::ORIGIN, kind, false, false)?;
        let records = answer.message.as_ref().map(|message| message.answers.len());
        assert_eq!(
            (answer.outcome, answer.code.to_string().as_str(), records),
            (Outcome::Done, "No Error", Some(0))
        );
    }
    assert_eq!(lab.dns.asked(name::ORIGIN), 0, "{:?}", lab.dns.questions());
    assert_eq!(wire.count(|packet| is_fake(packet.dst) || packet.ports.1 == 53)?, 0);
    assert!(number(&lab.host, "/counters/dns/fake")? >= 8);
    Ok(())
}

pub fn without_a_proxy_the_name_is_resolved_here() -> TestResult {
    let lab = Topology::simple()?;
    let _oneway = run(&lab.host, &["--dns", "fake-ip", "--dns-upstream", &upstream()])?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    for kind in KINDS {
        let ip = address_of(&lab, name::ALIAS, kind)?;
        assert!(is_fake(ip), "{ip}");
        expect_reachable(&lab, ip)?;
        let closed = lab.host.client().tcp(SocketAddr::new(ip, 4), 5 * SECOND)?;
        assert_eq!(closed.outcome, Outcome::Refused, "{ip}");
    }
    // The name exists, and its host does not answer for lack of one.
    let nowhere = address_of(&lab, "nobody.example", RecordType::A)?;
    let dial = lab.host.client().tcp(SocketAddr::new(nowhere, 80), 5 * SECOND)?;
    assert_eq!(dial.outcome, Outcome::HostUnreachable, "{:?}", dial.took);
    assert_eq!(wire.count(|packet| is_fake(packet.dst))?, 0);
    Ok(())
}

/// An address that stands for nothing is refused at once, over TCP and UDP.
fn expect_refused(lab: &Simple, ip: IpAddr) -> Result<(), Failed> {
    let client = lab.host.client();
    let to = SocketAddr::new(ip, port::HTTP);
    // The machine may be busy with something else once.
    let mut dial = client.tcp(to, 5 * SECOND)?;
    if dial.took > SECOND / 10 {
        dial = client.tcp(to, 5 * SECOND)?;
    }
    assert_eq!(dial.outcome, Outcome::Refused, "{to}");
    assert!(dial.took <= SECOND / 10, "{to} refused after {:?}", dial.took);
    assert_eq!(client.udp(to, b"?", 5 * SECOND)?.outcome, Outcome::Refused, "{to}");
    Ok(())
}

pub fn a_stale_address_is_refused_and_never_dialled() -> TestResult {
    let proxy = proxy();
    for options in [["--proxy", proxy.as_str()], ["--dns", "fake-ip"]] {
        let lab = Topology::simple()?;
        let _oneway = run(&lab.host, &options)?;
        let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
        for ip in ["198.18.0.1", "198.19.255.255", "198.18.0.0", "fc00:18::1", "fc00:18::ffff:1"] {
            expect_refused(&lab, ip.parse()?)?;
        }
        let out = wire.matching(|packet| packet.direction == Direction::Out && packet.is_traffic())?;
        assert!(out.is_empty(), "{out:?}");
        assert!(lab.socks.requests().is_empty());
    }
    Ok(())
}

pub fn a_restart_keeps_the_addresses() -> TestResult {
    let lab = Topology::simple()?;
    let proxy = proxy();
    let options = ["--proxy", proxy.as_str()];
    let mut first = run(&lab.host, &options)?;
    let v4 = address_of(&lab, name::ORIGIN, RecordType::A)?;
    let v6 = address_of(&lab, name::ORIGIN, RecordType::AAAA)?;
    // Without a chance to write anything down.
    first.kill()?;
    let mut second = run(&lab.host, &options)?;
    for ip in [v4, v6] {
        expect_reachable(&lab, ip)?;
    }
    let other = address_of(&lab, name::ORIGIN4, RecordType::A)?;
    assert!(is_fake(other) && other != v4, "{other}");
    second.stop(2 * SECOND)?;
    // Told to forget.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    std::fs::write(&file, "dns.fake-ip.persist = false\n")?;
    let file = file.to_string_lossy();
    let _third = run(&lab.host, &["--proxy", &proxy, "--config", &file])?;
    for ip in [v4, v6] {
        expect_refused(&lab, ip)?;
    }
    Ok(())
}

pub fn what_is_excluded_gets_its_own_address() -> TestResult {
    let lab = Topology::simple()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let text = format!("[dns]\nupstream = [\"{}\"]\nfake-ip.exclude = [\"v4.origin.example\"]\n", upstream());
    std::fs::write(&file, text)?;
    let _oneway = run(&lab.host, &["--proxy", &proxy(), "--config", &file.to_string_lossy()])?;
    let own = address_of(&lab, name::ORIGIN4, RecordType::A)?;
    assert!(!is_fake(own), "{own}");
    expect_reachable(&lab, own)?;
    assert!(is_fake(address_of(&lab, name::ORIGIN, RecordType::A)?));
    // Built in: names that say something about the network here.
    for excluded in ["printer", "nas.lan", "captive.apple.com", "time.apple.com"] {
        let answer = ask(&lab, excluded, RecordType::A, false, false)?;
        assert_eq!(answer.code.to_string(), "Non-Existent Domain", "{excluded}");
        assert_eq!(lab.dns.asked(excluded), 1, "{excluded}");
    }
    Ok(())
}
