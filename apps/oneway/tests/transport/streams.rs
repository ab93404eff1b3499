//! Bytes, ends and resets of TCP connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use oneway_lab::capture::{Recorder, flag};
use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern::{self, Sum};
use oneway_lab::servers::origin::port;
use oneway_lab::servers::socks::SocksCommand;
use oneway_lab::topology::{Simple, address};
use oneway_lab::{NetNs, kernel};
use socket2::SockRef;

use crate::common::{SECOND, TCX, TUN, ask, lab, stack};

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

/// With our own stack the client's end rests in TIME-WAIT for 4 s, with nothing behind it any more.
pub fn a_connection_at_rest_is_no_flow() -> TestResult {
    let (lab, _oneway) = lab(None, &[])?;
    for to in address::ORIGIN.ports(port::FIN_FIRST) {
        let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        stream.read_to_end(&mut Vec::new())?;
        drop(stream);
        wait_until(2 * SECOND, "it is not listed any more", || {
            let (flows, status) = (ask(&lab.host, "flows").ok(), ask(&lab.host, "status").ok());
            let listed = flows.and_then(|flows| flows["flows"].as_array().map(Vec::len));
            let active = status.and_then(|status| status["counters"]["tcp"]["active"].as_u64());
            (listed, active) == (Some(0), Some(0))
        })?;
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

/// Writes until nothing is taken any more; how much was.
pub fn fill(stream: &mut TcpStream) -> Result<usize, Failed> {
    stream.set_nonblocking(true)?;
    let (mut sent, mut still) = (0, 0);
    wait_until(30 * SECOND, "nothing is taken any more", || {
        let before = sent;
        while let Ok(len) = stream.write(&[7; 64 << 10]) {
            sent += len;
        }
        still = if sent == before { still + 1 } else { 0 };
        still > 100
    })?;
    assert!(sent > 1 << 16, "{sent} bytes");
    Ok(sent)
}

pub fn no_flow_is_left(host: &NetNs) -> TestResult {
    wait_until(5 * SECOND, "no flow is left", || {
        let flows = ask(host, "flows").ok();
        flows.and_then(|flows| flows["flows"].as_array().map(Vec::is_empty)).unwrap_or(false)
    })?;
    Ok(())
}

pub fn is_reset(stream: &TcpStream) -> bool {
    let error = stream.take_error().ok().flatten();
    error.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// A connection to a server that is played here. A process that another test has forked, and that has not begun its program
/// yet, has a copy of the listener of before: that is waited for.
pub fn pair(lab: &Simple, to: SocketAddr) -> Result<(TcpStream, TcpStream), Failed> {
    let deadline = Instant::now() + 5 * SECOND;
    let listener = loop {
        match lab.net.run(|| TcpListener::bind(to))? {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            bound => break bound?,
        }
    };
    let client = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
    Ok((client, listener.accept()?.0))
}

/// A client that resets the connection as soon as it is there.
pub fn a_reset_at_once_travels_as_a_reset() -> TestResult {
    let (lab, oneway) = lab(None, &[])?;
    for to in address::SPARE.ports(5001).into_iter().cycle().take(20) {
        let (client, server) = pair(&lab, to)?;
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        wait_until(5 * SECOND, "the server hears of the reset", || is_reset(&server))
            .map_err(|error| format!("{to}: {error}"))?;
    }
    // That it was never accepted is the client's own doing.
    assert!(!oneway.stderr().contains("packet filter"), "{}", oneway.stderr());
    no_flow_is_left(&lab.host)
}

/// An end that takes nothing, and never will, hears of the other one's reset all the same, and nothing is kept for it. That
/// its packets are recorded keeps them from being renamed in the kernel.
pub fn a_reset_reaches_an_end_that_reads_nothing() -> TestResult {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("packets.pcap");
    let file = file.to_str().ok_or("a path that is no text")?;
    for options in [&[][..], &["--pcap", file]] {
        let (lab, _oneway) = lab(None, options)?;
        let ends = address::SPARE.ports(5001).into_iter().flat_map(|to| [(to, false), (to, true)]);
        for (to, by_client) in ends {
            is_told(&lab, to, by_client)
                .map_err(|error| format!("{to}, by the client: {by_client}, {options:?}: {error:?}"))?;
        }
        let status = ask(&lab.host, "status")?;
        let shortened = status.pointer("/counters/tcp/shortened").and_then(serde_json::Value::as_u64);
        let renamed = stack() == "system" && options.is_empty() && kernel() >= TCX;
        let expected = if renamed { 4 } else { 0 };
        assert_eq!(shortened, Some(expected), "{options:?}");
    }
    Ok(())
}

fn is_told(lab: &Simple, to: SocketAddr, by_client: bool) -> TestResult {
    let tun = Recorder::start(&lab.host, Some(TUN))?;
    let uplink = Recorder::start(&lab.host, Some(Simple::UP1))?;
    let (client, server) = pair(lab, to)?;
    let (mut killer, victim) = if by_client { (client, server) } else { (server, client) };
    fill(&mut killer)?;
    assert!(victim.take_error()?.is_none(), "a reset before there was one");
    let told = || match by_client {
        true => uplink.count(move |packet| packet.is_tcp(flag::RST) && packet.dst == to.ip()),
        false => tun.count(move |packet| packet.is_tcp(flag::RST) && packet.src == to.ip()),
    };
    assert_eq!(told()?, 0, "a reset on the wire before there was one");
    SockRef::from(&killer).set_linger(Some(Duration::ZERO))?;
    drop(killer);
    wait_until(5 * SECOND, "the other end hears of the reset", || is_reset(&victim))?;
    assert!(told()? > 0, "it was on the wire");
    no_flow_is_left(&lab.host)
}

/// A server that is done is no reset: what it has said waits for the client, however long that takes, and costs nothing.
pub fn an_end_waits_for_a_client_that_reads_nothing() -> TestResult {
    let (lab, oneway) = lab(None, &[])?;
    for to in address::SPARE.ports(5001) {
        let (mut client, mut server) = pair(&lab, to)?;
        let sent = fill(&mut server)?;
        drop(server);
        let (begin, before) = (Instant::now(), oneway.cpu_time()?);
        wait_until(5 * SECOND, "a second has gone by", || begin.elapsed() > SECOND)?;
        let spent = oneway.cpu_time()? - before;
        assert!(spent < SECOND / 4, "{to}: {spent:?} for one that waits");
        assert!(client.take_error()?.is_none(), "{to}: it is reset");
        client.set_read_timeout(Some(10 * SECOND))?;
        let received = std::io::copy(&mut client, &mut std::io::sink())?;
        assert_eq!(received, sent as u64, "{to}");
        drop(client);
        no_flow_is_left(&lab.host)?;
    }
    Ok(())
}

/// What a server says right before a reset is heard, and the reset behind it: all of it is there before we look.
pub fn an_answer_before_a_reset_is_heard() -> TestResult {
    let (lab, oneway) = lab(None, &[])?;
    for (to, len) in address::SPARE.ports(5001).into_iter().flat_map(|to| [(to, 500), (to, 40_000)]) {
        let (mut client, mut server) = pair(&lab, to)?;
        client.write_all(b"x")?;
        server.read_exact(&mut [0])?;
        let stopped = oneway.suspend()?;
        server.write_all(&pattern::bytes(len))?;
        SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
        drop(server);
        drop(stopped);
        is_heard(&mut client, len).map_err(|error| format!("{to}, {len} bytes: {error:?}"))?;
        no_flow_is_left(&lab.host)?;
    }
    Ok(())
}

/// An urgent byte is one of the stream, at its place, whichever end sends it and however much is before it; and nothing
/// waits behind it.
pub fn urgent_bytes_are_bytes() -> TestResult {
    let (lab, _oneway) = lab(None, &[])?;
    for (to, before) in address::SPARE.ports(5001).into_iter().flat_map(|to| [(to, 5), (to, 1_000_000)]) {
        let (client, server) = pair(&lab, to)?;
        for (what, mut from, mut at) in [("down", &server, &client), ("up", &client, &server)] {
            let sent = pattern::bytes(before);
            at.set_read_timeout(Some(5 * SECOND))?;
            std::thread::scope(|scope| -> TestResult {
                let sends = scope.spawn(|| -> std::io::Result<()> {
                    from.write_all(&sent)?;
                    SockRef::from(from).send_out_of_band(b"!")?;
                    from.write_all(b"BBBBB")
                });
                SockRef::from(at).set_out_of_band_inline(true)?;
                let mut came = vec![0; before + 6];
                at.read_exact(&mut came).map_err(|error| format!("{what}, {to}, {before}: {error}"))?;
                sends.join().expect("the sender")?;
                assert!(came.starts_with(&sent) && came.ends_with(b"!BBBBB"), "{what}, {to}, {before}");
                Ok(())
            })?;
        }
        // An end right behind one.
        SockRef::from(&server).send_out_of_band(b"?")?;
        server.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        (&client).read_to_end(&mut rest)?;
        assert_eq!(rest, b"?", "{to}, {before}");
    }
    Ok(())
}

/// A server that answers before it has read all, and reads no more: its kernel resets the connection behind the answer.
pub fn an_answer_to_half_an_upload_is_heard() -> TestResult {
    let (lab, oneway) = lab(None, &[])?;
    for to in address::SPARE.ports(5001) {
        let (mut client, mut server) = pair(&lab, to)?;
        fill(&mut client)?;
        let stopped = oneway.suspend()?;
        server.write_all(&pattern::bytes(500))?;
        drop(server);
        drop(stopped);
        client.set_nonblocking(false)?;
        is_heard(&mut client, 500).map_err(|error| format!("{to}: {error:?}"))?;
        no_flow_is_left(&lab.host)?;
    }
    Ok(())
}

/// So many bytes, and a reset.
fn is_heard(client: &mut TcpStream, len: usize) -> TestResult {
    client.set_read_timeout(Some(5 * SECOND))?;
    let mut answer = Vec::new();
    let error = client.read_to_end(&mut answer).expect_err("a reset is an error");
    assert_eq!((answer.len(), error.kind()), (len, ErrorKind::ConnectionReset));
    assert!(answer == pattern::bytes(len));
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

/// A server that says something and resets the connection as soon as it has accepted it. Without anything between them half of
/// it may be lost: the client's kernel has all of it, the reset as well, before `connect` has returned.
pub fn words_before_an_immediate_reset_are_heard() -> TestResult {
    const TIMES: usize = 40;
    const WORDS: usize = 10_000;
    let (lab, _oneway) = lab(None, &[])?;
    for to in address::SPARE.ports(5001) {
        let listener = lab.net.run(|| TcpListener::bind(to))??;
        let heard = std::thread::scope(|scope| -> Result<usize, Failed> {
            scope.spawn(|| {
                for mut stream in listener.incoming().flatten().take(TIMES) {
                    let _ = stream.write_all(&pattern::bytes(WORDS));
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
            });
            let mut heard = 0;
            for _ in 0..TIMES {
                let dial = lab.host.client().tcp(to, 5 * SECOND)?;
                heard +=
                    usize::from(dial.stream.is_some_and(|mut client| is_heard(&mut client, WORDS).is_ok()));
            }
            Ok(heard)
        })?;
        // A busy machine may have kept the client from running for long.
        assert!(heard >= TIMES * 3 / 4, "{to}: {heard} of {TIMES}");
        no_flow_is_left(&lab.host)?;
    }
    Ok(())
}
