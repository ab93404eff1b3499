//! With `--strict` and a proxy no query is seen on the wire but the bootstrap (S16).

use oneway_lab::Topology;
use oneway_lab::capture::Recorder;
use oneway_lab::client::{Outcome, RecordType};
use oneway_lab::harness::TestResult;
use oneway_lab::servers::dns::Question;
use oneway_lab::topology::{Simple, address, name, port};

use crate::common::{address_of, ask, expect_reachable, is_fake, program, proxy, upstream};

pub fn no_query_is_on_the_wire() -> TestResult {
    let lab = Topology::simple()?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    // The rule has every name looked up before a flow leaves.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let text = format!(
        "[outbound.out]\ntype = \"socks5\"\nserver = \"{}\"\n\
         [rules]\nlist = [\"IP-CIDR,{}/32,direct\", \"MATCH,out\"]\n",
        proxy().trim_start_matches("socks5://"),
        address::SPARE.v4
    );
    std::fs::write(&file, text)?;
    let file = file.to_string_lossy();
    let _oneway =
        program(&lab.host, &["--strict", "--config", &file, "--dns-upstream", &upstream()]).start()?;
    asked_of_all_kinds(&lab, 1)?;
    let for_rule = |question: &Question| question.name == name::ORIGIN && question.kind == RecordType::A;
    assert!(lab.dns.questions().iter().any(for_rule), "the rule has not asked for it");
    let queries = wire.matching(|packet| packet.ports.1 == port::DNS || packet.ports.0 == port::DNS)?;
    assert!(queries.is_empty(), "{queries:#?}");
    Ok(())
}

/// The one question that must be asked outside: where the proxy is.
pub fn the_bootstrap_is_the_only_query() -> TestResult {
    let lab = Topology::simple()?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    let proxy = format!("socks5://{}:{}", name::SOCKS, port::SOCKS);
    let resolv_conf = format!("nameserver {}\n", address::DNS.v4);
    let _oneway = program(&lab.host, &["--strict", "--proxy", &proxy]).resolv_conf(resolv_conf).start()?;
    asked_of_all_kinds(&lab, 2)?;
    // What comes from the server by way of the proxy is no query on this wire; what goes to port 53 is.
    let queries = wire.matching(|packet| packet.ports.1 == port::DNS && packet.payload_length > 0)?;
    let about_the_proxy = |payload: &[u8]| payload.windows(5).any(|label| label == b"socks");
    assert!(!queries.is_empty() && queries.iter().all(|q| about_the_proxy(&q.payload)), "{queries:#?}");
    Ok(())
}

/// `servers` are asked: the one that is configured, or each that the program has chosen.
fn asked_of_all_kinds(lab: &Simple, servers: usize) -> TestResult {
    for kind in [RecordType::A, RecordType::AAAA] {
        let ip = address_of(lab, name::ORIGIN, kind)?;
        assert!(is_fake(ip), "{ip}");
        expect_reachable(lab, ip)?;
    }
    // What has no fake address is asked for by way of the proxy, whole.
    let cut = ask(lab, name::LARGE, RecordType::TXT, false, false)?;
    assert!(cut.truncated && cut.size <= 512, "{} bytes", cut.size);
    for v6 in [false, true] {
        let whole = ask(lab, name::LARGE, RecordType::TXT, v6, true)?;
        assert!(!whole.truncated && whole.size > 3000, "{} bytes", whole.size);
    }
    assert_eq!(lab.dns.asked(name::LARGE), servers, "{:?}", lab.dns.questions());
    for kind in [RecordType::MX, RecordType::SRV, RecordType::HTTPS] {
        let answer = ask(lab, name::ORIGIN, kind, false, false)?;
        assert_eq!(answer.outcome, Outcome::Done, "{kind}");
    }
    // A name that is excluded from the fake addresses.
    assert_eq!(ask(lab, "printer.lan", RecordType::A, false, false)?.code.to_string(), "Non-Existent Domain");
    Ok(())
}
