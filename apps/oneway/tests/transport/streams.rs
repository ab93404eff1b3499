//! Bytes, ends and resets of TCP connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::{Duration, Instant};

use oneway_lab::client::wait_until;
use oneway_lab::harness::TestResult;
use oneway_lab::pattern::{self, Sum};
use oneway_lab::servers::origin::port;
use oneway_lab::servers::socks::SocksCommand;
use oneway_lab::topology::address;
use socket2::SockRef;

use crate::common::{SECOND, ask, lab};

pub fn half_close_keeps_every_byte() -> TestResult {
    for scheme in [None, Some("socks5")] {
        let (lab, _oneway) = lab(scheme, &[])?;
        for to in address::ORIGIN.ports(port::SUM) {
            let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
            let data = pattern::bytes(5_000_011);
            stream.write_all(&data)?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)), "{scheme:?} {to}: {answer:?}");
        }
        for to in address::ORIGIN.ports(port::FIN_FIRST) {
            let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
            let mut bye = String::new();
            stream.read_to_string(&mut bye)?;
            assert_eq!(bye, "bye\n", "{scheme:?} {to}");
            stream.write_all(b"still here")?;
        }
    }
    Ok(())
}

pub fn a_reset_travels_as_a_reset() -> TestResult {
    for scheme in [None, Some("socks5")] {
        let (lab, _oneway) = lab(scheme, &[])?;
        for to in address::ORIGIN.ports(port::RESET) {
            let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
            let begin = Instant::now();
            stream.write_all(b"x")?;
            let error = stream.read(&mut [0; 8]).expect_err("a reset is an error");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{scheme:?} {to}");
            assert!(begin.elapsed() < SECOND / 2, "{scheme:?} {to}: after {:?}", begin.elapsed());
        }
    }
    Ok(())
}

/// A client that takes nothing, and never will, hears of a reset all the same, and nothing is kept for it.
pub fn a_reset_reaches_a_client_that_reads_nothing() -> TestResult {
    let (lab, _oneway) = lab(None, &[])?;
    for (family, to) in address::SPARE.ports(5001).into_iter().enumerate() {
        let listener = lab.net.run(|| TcpListener::bind(to))??;
        let client = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        let (mut server, _) = listener.accept()?;
        server.set_nonblocking(true)?;
        let mut sent = 0;
        let mut still = 0;
        wait_until(30 * SECOND, "nothing is taken any more", || {
            let before = sent;
            while let Ok(len) = server.write(&[7; 64 << 10]) {
                sent += len;
            }
            still = if sent == before { still + 1 } else { 0 };
            still > 100
        })?;
        assert!(sent > 1 << 16, "{sent} bytes");
        assert!(client.take_error()?.is_none(), "a reset before there was one");
        SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
        drop(server);
        wait_until(5 * SECOND, "the client hears of the reset", || {
            client
                .take_error()
                .is_ok_and(|error| error.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset))
        })
        .map_err(|error| format!("family {family}: {error}"))?;
        wait_until(5 * SECOND, "no flow is left", || {
            let flows = ask(&lab.host, "flows").ok();
            flows.and_then(|flows| flows["flows"].as_array().map(Vec::is_empty)).unwrap_or(false)
        })?;
    }
    Ok(())
}

pub fn short_flows_leave_nothing() -> TestResult {
    const FLOWS: usize = 5_000;
    let (lab, oneway) = lab(Some("socks5"), &[])?;
    let client = lab.host.client();
    client.http_get(address::ORIGIN.v4_port(port::HTTP), "/", 5 * SECOND)?;
    let empty = || {
        let flows = ask(&lab.host, "flows").ok();
        flows.and_then(|flows| flows["flows"].as_array().map(Vec::is_empty)).unwrap_or(false)
    };
    wait_until(5 * SECOND, "no flow is left", empty)?;
    let descriptors = oneway.fd_count()?;
    for round in 0..FLOWS / 100 {
        let to = address::ORIGIN.ports(port::ECHO)[round % 2];
        drop(client.tcp_many(to, 100, 5 * SECOND)?);
    }
    wait_until(10 * SECOND, "no flow is left", empty)?;
    wait_until(10 * SECOND, "the descriptors are back", || {
        oneway.fd_count().is_ok_and(|now| now <= descriptors)
    })?;
    let requests = lab.socks.requests();
    let connections = requests.iter().filter(|request| request.command == SocksCommand::Connect).count();
    assert_eq!(connections, FLOWS + 1);
    // Whether it takes requests together with greetings was asked once.
    assert!(requests.len() <= connections + 1, "{} requests", requests.len());
    Ok(())
}

pub fn every_proxy_protocol_carries() -> TestResult {
    for scheme in ["socks5", "socks5h", "socks4", "http"] {
        let (lab, _oneway) = lab(Some(scheme), &[])?;
        // SOCKS4 has no IPv6.
        let count = if scheme == "socks4" { 1 } else { 2 };
        for to in address::ORIGIN.ports(port::HTTP).into_iter().take(count) {
            let reply = lab.host.client().http_get(to, "/bytes/3000000", 10 * SECOND)?;
            assert!(reply.body == pattern::bytes(3_000_000), "{scheme} {to}");
        }
        let carried = lab.socks.requests().len() + lab.http_proxy.requests().len();
        assert_eq!(carried, count, "{scheme}: it went through the proxy");
    }
    Ok(())
}
