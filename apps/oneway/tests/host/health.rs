//! What it costs to leave it running, and how it speaks of what is wrong.

use std::time::{Duration, Instant};

use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::program::CapabilitySet;
use oneway_lab::servers::origin::port;
use oneway_lab::servers::{SocksOptions, SocksServer};
use oneway_lab::topology::{self, address};
use oneway_lab::{Snapshot, Topology};

use crate::common::{
    ONEWAY, SECOND, TUN, ask, command, expect_connectivity, program, reaches_origin, run, stop,
};

pub fn idle_costs_nothing() -> TestResult {
    const WATCHED: Duration = Duration::from_secs(5);
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    // A session and a connection stay open: idle is not empty.
    let _idle = lab.host.client().tcp_many(address::ORIGIN.v4_port(port::ECHO), 100, 2 * SECOND)?;
    assert!(reaches_origin(&lab.host, SECOND));
    let used = oneway.cpu_time()?;
    std::thread::sleep(WATCHED);
    let used = oneway.cpu_time()? - used;
    assert!(used < WATCHED / 100, "{used:?} of processor time in {WATCHED:?}");
    assert!(oneway.alive() && oneway.stderr().len() < 64 << 10);
    stop(&mut oneway, &lab.host, &before)
}

pub fn descriptors_come_back() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &["--dns", "off"])?;
    let client = lab.host.client();
    // It says that it is ready while its threads still open what they keep.
    let (mut start, mut since) = (0, Instant::now());
    wait_until(5 * SECOND, "the number of descriptors is steady", || {
        let now = oneway.fd_count().unwrap_or_default();
        if now != start {
            (start, since) = (now, Instant::now());
        }
        since.elapsed() > SECOND / 2
    })?;
    for to in address::ORIGIN.ports(port::ECHO) {
        let load = client.tcp_load(to, 500, 100, 10_000)?;
        assert_eq!(load.failed, 0);
    }
    // DNS sessions are those that end soonest.
    for server in address::DNS.ports(topology::port::DNS) {
        for _ in 0..50 {
            let answer = client.udp(server, b"no question", SECOND / 100)?;
            assert_ne!(answer.outcome, Outcome::Refused);
        }
    }
    let mut last = 0;
    let back = wait_until(30 * SECOND, "all descriptors came back", || {
        last = oneway.fd_count().unwrap_or(usize::MAX);
        last <= start
    });
    back.map_err(|error| format!("{error}: {start} at the start, {last} at the end"))?;
    stop(&mut oneway, &lab.host, &before)
}

fn health(host: &oneway_lab::NetNs) -> Result<String, Failed> {
    let status = ask(host, "status")?;
    let outbounds = status["outbounds"].as_array().ok_or("no outbounds")?;
    let proxy = outbounds.iter().find(|outbound| outbound["name"] == "proxy").ok_or("no proxy")?;
    Ok(proxy["health"].as_str().unwrap_or_default().to_owned())
}

pub fn a_proxy_that_is_down_refuses_and_recovers() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let here = address::SPARE.ports(1080);
    let start = || {
        let options = SocksOptions { zone: topology::zone(), ..SocksOptions::default() };
        SocksServer::start(&lab.net, &here, options)
    };
    let proxy = start()?;
    let mut oneway = run(&lab.host, &["--proxy", &format!("socks5://{}", here[0])])?;
    assert_eq!(health(&lab.host)?, "unknown");
    assert!(reaches_origin(&lab.host, SECOND), "{}", oneway.stderr());
    assert_eq!(health(&lab.host)?, "up");

    drop(proxy);
    // A program that is just being started by another test may hold the listeners for a moment yet.
    wait_until(5 * SECOND, "nothing listens at the proxy's address", || {
        let refused =
            |to| lab.net.client().tcp(to, SECOND).is_ok_and(|dial| dial.outcome == Outcome::Refused);
        here.into_iter().all(refused)
    })?;
    let client = lab.host.client();
    for to in address::ORIGIN.ports(port::HTTP) {
        let dial = client.tcp(to, 2 * SECOND)?;
        assert_eq!(dial.outcome, Outcome::Refused, "{to}");
        assert!(dial.took < SECOND / 2, "{to} refused after {:?}", dial.took);
    }
    assert_eq!(health(&lab.host)?, "down");
    for to in address::ORIGIN.ports(port::ECHO) {
        let exchange = client.udp(to, b"?", 2 * SECOND)?;
        assert_eq!(exchange.outcome, Outcome::Refused, "{to}");
        assert!(exchange.took < SECOND / 2, "{to} refused after {:?}", exchange.took);
    }

    let proxy = start()?;
    expect_connectivity(&lab.host)?;
    assert_eq!(health(&lab.host)?, "up");
    assert!(!proxy.requests().is_empty());
    stop(&mut oneway, &lab.host, &before)
}

pub fn a_deleted_device_ends_it() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    let _idle = lab.host.client().tcp_many(address::ORIGIN.v4_port(port::ECHO), 10, 2 * SECOND)?;
    lab.host.delete_link(TUN)?;
    let status = oneway.wait(5 * SECOND)?;
    assert_eq!(status.code(), Some(1), "{}", oneway.stderr());
    assert!(oneway.stderr().contains(TUN), "{}", oneway.stderr());
    before.expect_same(&lab.host)?;
    Ok(())
}

pub fn wrong_use_changes_nothing() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let wrong: &[&[&str]] = &[
        &["--nonsense"],
        &["--stack", "imaginary"],
        &["--proxy", "gopher://203.0.113.1:70"],
        &["--proxy", "socks5://"],
        &["--mtu", "9"],
        &["--include", "everything"],
        &["--config", "/nonexistent/oneway.toml"],
        &["--tun", "a name that is too long"],
        &["--capture", "elsewhere"],
    ];
    for options in wrong {
        let finished = command(&lab.host, &[&["run"], *options].concat())?;
        assert_eq!(finished.code, Some(2), "{options:?}: {}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{options:?}: {}", finished.stderr);
        assert_eq!(finished.stdout, "", "{options:?}");
        before.expect_same(&lab.host)?;
    }
    // No privilege.
    let mut refused = program(&lab.host, ONEWAY, &[]).capabilities(CapabilitySet::empty()).start();
    let error = match &mut refused {
        Ok(_) => return Err("it runs without any capability".into()),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("ended with exit code 1") && error.contains("CAP_NET_ADMIN"), "{error}");
    before.expect_same(&lab.host)?;
    Ok(())
}
