//! The origin and the DNS server.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use oneway_lab::Topology;
use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::TestResult;
use oneway_lab::pattern::{self, Sum};
use oneway_lab::servers::dns::{Fault, RecordType, Zone};
use oneway_lab::servers::origin::{Network, port};
use oneway_lab::topology::{self, address, name};

const SECOND: Duration = Duration::from_secs(1);

pub fn echo_and_sum_carry_bytes_exactly() -> TestResult {
    let lab = Topology::simple()?;
    let host = lab.host.client();
    for to in address::ORIGIN.ports(port::ECHO) {
        let load = host.tcp_load(to, 40, 10, 200_000)?;
        assert_eq!((load.completed, load.failed, load.bytes), (40, 0, 8_000_000));
    }
    for (service, length) in [(port::SUM, 3_000_000), (port::SLOW, 200_000)] {
        let mut stream = host.tcp(address::ORIGIN.v4_port(service), SECOND)?.connected()?;
        stream.write_all(&pattern::bytes(length))?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert_eq!(Sum::parse(&answer), Some(Sum::of_pattern(length as u64)), "{answer}");
    }
    let mut stream = host.tcp(address::ORIGIN.v6_port(port::FIN_FIRST), SECOND)?.connected()?;
    let mut bye = String::new();
    stream.read_to_string(&mut bye)?;
    assert_eq!(bye, "bye\n");
    stream.write_all(&pattern::bytes(5000))?;
    drop(stream);
    let finished = |seen: &oneway_lab::servers::origin::Seen| {
        seen.server.port() == port::FIN_FIRST && seen.bytes == 5000
    };
    wait_until(SECOND, "bytes after the server's FIN arrived", || lab.origin.seen().iter().any(finished))?;
    let got = host.download(address::ORIGIN.v4_port(port::CHARGEN), 2, Duration::from_millis(200))?;
    assert!(got.failed == 0 && got.bytes > 1_000_000, "{got:?}");
    let sent = host.upload(address::ORIGIN.v6_port(port::DISCARD), 2, Duration::from_millis(200))?;
    assert!(sent.failed == 0 && sent.bytes > 1_000_000, "{sent:?}");
    wait_until(SECOND, "no connection is left", || lab.origin.open_connections() == 0)?;
    Ok(())
}

pub fn resets_and_silence() -> TestResult {
    let lab = Topology::simple()?;
    let host = lab.host.client();
    for to in address::ORIGIN.ports(port::RESET) {
        let mut stream = host.tcp(to, SECOND)?.connected()?;
        stream.write_all(b"x")?;
        let error = stream.read(&mut [0; 8]).expect_err("a reset");
        assert_eq!(Outcome::from(&error), Outcome::Reset);
    }
    for to in address::ORIGIN.ports(port::HANG) {
        let dial = host.tcp(to, Duration::from_millis(300))?;
        assert_eq!(dial.outcome, Outcome::TimedOut, "{to}");
        assert!(dial.took >= Duration::from_millis(290));
    }
    let mut silent = host.tcp(address::ORIGIN.v4_port(port::SILENT), SECOND)?.connected()?;
    silent.write_all(b"x")?;
    silent.set_read_timeout(Some(Duration::from_millis(200)))?;
    assert_eq!(Outcome::from(&silent.read(&mut [0; 8]).expect_err("nothing")), Outcome::TimedOut);
    assert!(lab.origin.open_connections() >= 1);
    socket2::SockRef::from(&silent).set_linger(Some(Duration::ZERO))?;
    drop(silent);
    wait_until(SECOND, "the reset was noticed", || lab.origin.open_connections() == 0)?;
    let dial = host.tcp(address::ORIGIN.v4_port(port::RESET_AT_ONCE), SECOND)?;
    let outcome = match dial.stream {
        Some(mut stream) => Outcome::from(&stream.read(&mut [0; 8]).expect_err("a reset")),
        None => dial.outcome,
    };
    assert_eq!(outcome, Outcome::Reset);
    Ok(())
}

pub fn http_answers() -> TestResult {
    let lab = Topology::simple()?;
    let host = lab.host.client();
    for to in address::ORIGIN.ports(port::HTTP) {
        let reply = host.http_get(to, "/bytes/100000", SECOND)?;
        assert_eq!((reply.status, reply.body == pattern::bytes(100_000)), (200, true));
        assert_eq!(host.http_get(to, "/nothing", SECOND)?.status, 404);
        let client = host.http_get(to, "/client", SECOND)?.body;
        assert!(String::from_utf8(client)?.contains(if to.is_ipv4() {
            "192.0.2.2:"
        } else {
            "[2001:db8:1::2]:"
        }));
    }
    // Two requests and a body on one connection.
    let mut stream = host.tcp(address::ORIGIN.v4_port(port::HTTP), SECOND)?.connected()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST /sum HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    assert_eq!(text.matches("200 OK").count(), 2);
    assert!(text.ends_with(&format!("{}\n", Sum::of(b"hello"))), "{text}");
    Ok(())
}

pub fn datagrams_of_any_size_and_from_strangers() -> TestResult {
    let lab = Topology::simple()?;
    let host = lab.host.client();
    for to in address::ORIGIN.ports(port::ECHO) {
        for size in [0, 1, 1400, 1500, 9000, 65_000] {
            let data = pattern::bytes(size);
            let back = host.udp(to, &data, SECOND)?;
            assert_eq!((back.outcome, back.data == data), (Outcome::Done, true), "{size} bytes to {to}");
        }
        let sized = host.udp(address::ORIGIN.v4_port(port::SIZED), b"9000", SECOND)?;
        assert_eq!(sized.data, pattern::bytes(9000));
    }
    for ipv6 in [false, true] {
        let at = |pair: topology::Pair, port| if ipv6 { pair.v6_port(port) } else { pair.v4_port(port) };
        let socket = host.udp_socket(ipv6)?;
        socket.set_read_timeout(Some(SECOND))?;
        let mut buffer = [0; 64];
        socket.send_to(b"a", at(address::ORIGIN, port::FROM_OTHER_PORT))?;
        assert_eq!(socket.recv_from(&mut buffer)?, (1, at(address::ORIGIN, port::STRANGER)));
        socket.send_to(b"b", at(address::ORIGIN, port::FROM_OTHER_ADDRESS))?;
        assert_eq!(socket.recv_from(&mut buffer)?, (1, at(address::ORIGIN_OTHER, port::FROM_OTHER_ADDRESS)));
        socket.send_to(b"20", at(address::ORIGIN, port::BURST))?;
        for index in 0..20 {
            let (length, _) = socket.recv_from(&mut buffer)?;
            assert_eq!(&buffer[..length], index.to_string().as_bytes());
        }
    }
    Ok(())
}

pub fn counts_are_exact() -> TestResult {
    let lab = Topology::standard()?;
    let (host, container) = (lab.host.client(), lab.container.client());
    let [v4, v6] = address::ORIGIN.ports(port::ECHO);
    for client in [&host, &container] {
        for to in [v4, v6] {
            assert_eq!(client.tcp_load(to, 50, 10, 4)?.completed, 50);
            assert_eq!(client.udp_load(to, 50, 10, 4, SECOND)?.completed, 50);
        }
    }
    assert_eq!(lab.origin.tcp_connections(), 200);
    assert_eq!(lab.origin.udp_datagrams(), 200);
    let clients = lab.origin.clients(Network::Tcp, port::ECHO);
    for from in [address::HOST_UP1, address::CONTAINER].into_iter().flat_map(topology::Pair::both) {
        assert_eq!(clients.iter().filter(|client| client.ip() == from).count(), 50, "{from}");
    }
    assert_eq!(lab.origin.seen().iter().map(|seen| seen.bytes).sum::<u64>(), 1600);
    lab.origin.forget();
    assert_eq!(lab.origin.tcp_connections(), 0);
    Ok(())
}

pub fn dns_answers() -> TestResult {
    let lab = Topology::simple()?;
    let host = lab.host.client();
    let [server, server6] = address::DNS.ports(topology::port::DNS);
    for (server, tcp) in [(server, false), (server, true), (server6, false), (server6, true)] {
        let a = host.dns(server, name::ORIGIN, RecordType::A, tcp, SECOND)?;
        assert_eq!(a.addresses, [address::ORIGIN.v4]);
        let alias = host.dns(server, "WWW.Origin.Example", RecordType::AAAA, tcp, SECOND)?;
        assert_eq!(alias.addresses, [address::ORIGIN.v6]);
        let large = host.dns(server, name::LARGE, RecordType::TXT, tcp, SECOND)?;
        assert_eq!((large.truncated, large.size > 3000), (!tcp, tcp), "{large:?}");
        let none = host.dns(server, "nobody.example", RecordType::A, tcp, SECOND)?;
        assert_eq!(none.code.to_string(), "Non-Existent Domain");
        let empty = host.dns(server, name::ORIGIN4, RecordType::AAAA, tcp, SECOND)?;
        assert_eq!((empty.addresses.len(), empty.code.to_string().as_str()), (0, "No Error"));
    }
    assert_eq!(lab.dns.asked(name::ORIGIN), 4);
    assert_eq!(lab.dns.questions().iter().filter(|question| question.tcp).count(), 10);
    lab.dns.set_zone(Zone::new().ttl(1).a(name::ORIGIN, address::SPARE.v4));
    assert_eq!(host.dns(server, name::ORIGIN, RecordType::A, false, SECOND)?.addresses, [address::SPARE.v4]);
    Ok(())
}

pub fn dns_faults() -> TestResult {
    let lab = Topology::simple()?;
    let host = lab.host.client();
    let server = address::DNS.v4_port(topology::port::DNS);
    let slow = Duration::from_millis(150);
    lab.dns.set_zone(
        topology::zone()
            .fault("servfail.example", Fault::ServFail)
            .fault("silent.example", Fault::Silent)
            .fault(name::ORIGIN, Fault::Slow(slow))
            .fault(name::ORIGIN4, Fault::Truncated),
    );
    let ask = |name, tcp| host.dns(server, name, RecordType::A, tcp, Duration::from_millis(300));
    assert_eq!(ask("servfail.example", false)?.code.to_string(), "Server Failure");
    assert_eq!(ask("silent.example", false)?.outcome, Outcome::TimedOut);
    let begin = Instant::now();
    assert_eq!(ask(name::ORIGIN, false)?.addresses.len(), 1);
    assert!(begin.elapsed() >= slow);
    let short = ask(name::ORIGIN4, false)?;
    assert_eq!((short.truncated, short.addresses.len()), (true, 0));
    assert_eq!(ask(name::ORIGIN4, true)?.addresses, [address::ORIGIN.v4]);
    Ok(())
}
