//! What `oneway reload` changes about names, and what it leaves.

use std::net::SocketAddr;
use std::path::Path;

use oneway_lab::Topology;
use oneway_lab::client::{Outcome, RecordType};
use oneway_lab::harness::TestResult;
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::servers::{SocksOptions, SocksServer};
use oneway_lab::topology::{self, Simple, address, name};

use crate::common::{ONEWAY, SECOND, address_of, expect_reachable, is_fake, proxy, run, upstream};

fn reload(lab: &Simple, code: i32) -> Result<String, oneway_lab::harness::Failed> {
    let mut reload = Program::new(&lab.host, ONEWAY, ["reload"]).start()?;
    let status = reload.wait(20 * SECOND)?;
    let said = reload.stdout() + &reload.stderr();
    assert_eq!(status.code(), Some(code), "{said}");
    Ok(said)
}

fn write(file: &Path, server: &str, upstream: &str, more: &str) -> TestResult {
    let text = format!(
        "[outbound.out]\ntype = \"socks5\"\nserver = \"{server}\"\n[rules]\nfinal = \"out\"\n\
         [dns]\nupstream = [\"{upstream}\"]\n{more}"
    );
    Ok(std::fs::write(file, text)?)
}

pub fn names_and_servers_may_change() -> TestResult {
    let lab = Topology::simple()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let dead = format!("udp://{}", address::SPARE.v4);
    let first = proxy();
    let first = first.trim_start_matches("socks5://");
    write(&file, first, &dead, "")?;
    let _oneway = run(&lab.host, &["--config", &file.to_string_lossy()])?;
    let fake = address_of(&lab, name::ORIGIN4, RecordType::A)?;
    assert!(is_fake(fake), "{fake}");

    // A proxy given by name, which the new server alone knows; and a name that is to keep its address.
    let options = SocksOptions { zone: topology::zone(), ..SocksOptions::default() };
    let second = SocksServer::start(&lab.net, &address::SOCKS.ports(1089), options)?;
    let named = format!("{}:1089", name::SOCKS);
    write(&file, &named, &dead, "")?;
    // It is not found: its flows are refused, until it is.
    let said = reload(&lab, 0)?;
    assert!(said.contains("outbound \"out\" is down: cannot find the address of proxy"), "{said}");
    let lost = lab.host.client().tcp(SocketAddr::new(fake, port::HTTP), 5 * SECOND)?;
    assert_eq!(lost.outcome, Outcome::Refused);
    assert!(second.requests().is_empty());
    write(&file, &named, &upstream(), "fake-ip.exclude = [\"origin.example\"]\n")?;
    reload(&lab, 0)?;
    let own = address_of(&lab, name::ORIGIN, RecordType::A)?;
    assert_eq!(own, address::ORIGIN.v4);
    // Addresses that were given out go on to stand for their names.
    lab.socks.forget();
    expect_reachable(&lab, fake)?;
    assert_eq!(address_of(&lab, name::ORIGIN4, RecordType::A)?, fake);
    assert_eq!(second.requests_for(&format!("{}:{}", name::ORIGIN4, port::HTTP)).len(), 1);
    assert!(lab.socks.requests().is_empty());
    assert_eq!(lab.host.client().http_get(SocketAddr::new(own, port::HTTP), "/", 5 * SECOND)?.status, 200);

    write(&file, &named, &upstream(), "mode = \"real\"\n")?;
    assert!(reload(&lab, 2)?.contains("dns.mode cannot change while oneway runs"));
    expect_reachable(&lab, fake)?;
    Ok(())
}
