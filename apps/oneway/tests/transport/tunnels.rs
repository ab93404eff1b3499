//! Proxies that are spoken to by a cipher, so that what a flow leaves by is no socket of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::time::Instant;

use oneway_lab::client::{Outcome, RecordType, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern::{self, Sum};
use oneway_lab::servers::origin::port as origin;
use oneway_lab::topology::{Simple, address, name, port};
use oneway_lab::{Oneway, Topology};

use crate::common::{SECOND, ask, run};
use crate::shadowsocks::Shadowsocks;
use crate::streams;
use crate::tls::{Identity, TlsServer};
use crate::trojan::Trojan;

const PORT: u16 = 443;
const OTHER_KEY: &str = "/////////////////////////////////////////wA=";
const KINDS: [&str; 5] = ["http", "socks5", "trojan", "aes-128-gcm", "2022-blake3-aes-256-gcm"];
/// The ciphers of Shadowsocks, of which two are among the kinds.
const CIPHERS: [&str; 6] = [
    "aes-128-gcm",
    "aes-256-gcm",
    "chacha20-ietf-poly1305",
    "2022-blake3-aes-128-gcm",
    "2022-blake3-aes-256-gcm",
    "2022-blake3-chacha20-poly1305",
];

/// The server of the test, of any of the kinds.
enum Server {
    InFront(TlsServer),
    Trojan(Trojan, Identity),
    Shadowsocks(Shadowsocks),
}

fn is_tls(kind: &str) -> bool {
    !CIPHERS.contains(&kind)
}

/// Servers of the others say what became of a request.
fn says_nothing(kind: &str) -> bool {
    kind == "trojan" || !is_tls(kind)
}

fn password(method: &str) -> &'static str {
    match method {
        "2022-blake3-aes-128-gcm" => "AAECAwQFBgcICQoLDA0ODw==",
        _ if method.starts_with("2022") => "AAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8=",
        _ => "password",
    }
}

impl Server {
    fn accepted(&self) -> usize {
        match self {
            Self::InFront(server) => server.accepted(),
            Self::Trojan(server, _) => server.accepted(),
            Self::Shadowsocks(server) => server.requests().len(),
        }
    }
}

/// A proxy of this kind at the spare address, and the program that goes by it.
fn lab(kind: &str, options: &[&str]) -> Result<(Simple, Server, Oneway), Failed> {
    lab_with(kind, "proxy.example", options)
}

fn trojan(lab: &Simple, identity: &Identity) -> Result<Trojan, Failed> {
    Trojan::start(&lab.net, &address::SPARE.ports(PORT), identity, address::ORIGIN.v4.into())
}

/// The same, where the certificate has to be for `wanted`.
fn lab_with(kind: &str, wanted: &str, options: &[&str]) -> Result<(Simple, Server, Oneway), Failed> {
    lab_by("[rules]\nfinal = \"proxy\"\n", kind, wanted, options)
}

/// The same with another end of the configuration.
fn lab_by(end: &str, kind: &str, wanted: &str, options: &[&str]) -> Result<(Simple, Server, Oneway), Failed> {
    let lab = Topology::simple()?;
    let identity = Identity::new(&["proxy.example"], &[])?;
    let addresses = address::SPARE.ports(PORT);
    let keys = match kind {
        "trojan" => "password = \"password\"".to_owned(),
        "http" | "socks5" => "tls = true".to_owned(),
        // To be for nobody else, a key only has to be another one.
        method if wanted != "proxy.example" => format!("method = \"{method}\"\npassword = \"{OTHER_KEY}\""),
        method => format!("method = \"{method}\"\npassword = \"{}\"", password(method)),
    };
    let word = if is_tls(kind) { kind } else { "shadowsocks" };
    let certificate = match is_tls(kind) {
        true => format!("ca = \"ca.pem\"\nserver-name = \"{wanted}\""),
        false => String::new(),
    };
    let file = identity.folder().join("oneway.toml");
    let server_address = address::SPARE.v4_port(PORT);
    std::fs::write(
        &file,
        format!(
            "[outbound.proxy]\ntype = \"{word}\"\nserver = \"{server_address}\"\n{keys}\n{certificate}\n{end}"
        ),
    )?;
    let file = file.to_str().ok_or("a path that is no text")?;
    let oneway = run(&lab.host, None, &[&["--config", file], options].concat())?;
    let behind = match kind {
        "http" => Some(address::HTTP_PROXY.v4_port(port::HTTP_PROXY)),
        "socks5" => Some(address::SOCKS.v4_port(port::SOCKS)),
        _ => None,
    };
    let server = match behind {
        Some(behind) => Server::InFront(TlsServer::in_front_of(&lab.net, &addresses, &identity, behind)?),
        None if kind == "trojan" => Server::Trojan(trojan(&lab, &identity)?, identity),
        None => {
            let named = address::ORIGIN.v4.into();
            let at = address::SPARE.v4_port(PORT);
            Server::Shadowsocks(Shadowsocks::start(&lab.net, at, kind, password(kind), named)?)
        }
    };
    Ok((lab, server, oneway))
}

pub fn every_byte_travels_and_each_half_ends_for_itself() -> TestResult {
    for kind in KINDS {
        let (lab, server, _oneway) = lab(kind, &[])?;
        for to in address::ORIGIN.ports(origin::SUM) {
            let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
            let data = pattern::bytes(5_000_011);
            stream.write_all(&data)?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)), "{kind} {to}: {answer:?}");
        }
        for to in address::ORIGIN.ports(origin::FIN_FIRST) {
            let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
            let mut bye = String::new();
            stream.read_to_string(&mut bye)?;
            assert_eq!(bye, "bye\n", "{kind} {to}");
            stream.write_all(b"still here")?;
        }
        for to in address::ORIGIN.ports(origin::HTTP) {
            let reply = lab.host.client().http_get(to, "/bytes/9000000", 10 * SECOND)?;
            assert_eq!(reply.body.len(), 9_000_000, "{kind} {to}");
            assert!(reply.body == pattern::bytes(9_000_000), "{kind} {to}");
        }
        assert_eq!(server.accepted(), 6, "{kind}");
        wait_until(5 * SECOND, "no flow is left", || {
            ask(&lab.host, "flows").is_ok_and(|flows| flows["flows"].as_array().is_some_and(Vec::is_empty))
        })?;
    }
    Ok(())
}

/// Both directions full at the same time.
pub fn both_directions_carry_at_once() -> TestResult {
    const SIZE: usize = 6_000_011;
    for kind in KINDS {
        let (lab, _server, _oneway) = lab(kind, &[])?;
        let mut stream =
            lab.host.client().tcp(address::ORIGIN.v4_port(origin::ECHO), 5 * SECOND)?.connected()?;
        let mut sending = stream.try_clone()?;
        let sender = std::thread::spawn(move || -> std::io::Result<()> {
            sending.write_all(&pattern::bytes(SIZE))?;
            sending.shutdown(Shutdown::Write)
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        sender.join().map_err(|_| "the sender panicked")??;
        assert!(back == pattern::bytes(SIZE), "{kind}: {} bytes came back", back.len());
    }
    Ok(())
}

pub fn a_reset_travels_as_a_reset() -> TestResult {
    for kind in KINDS {
        let (lab, _server, _oneway) = lab(kind, &[])?;
        for to in address::ORIGIN.ports(origin::RESET) {
            let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
            stream.write_all(b"x")?;
            let error = stream.read(&mut [0; 8]).expect_err("a reset is an error");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{kind} {to}");
        }
    }
    Ok(())
}

/// Where the proxy says so it is a refusal; others only break off.
pub fn a_refused_target_is_no_connection() -> TestResult {
    for kind in KINDS {
        let (lab, _server, _oneway) = lab(kind, &[])?;
        for to in address::SPARE.ports(4) {
            let dial = lab.host.client().tcp(to, 5 * SECOND)?;
            if says_nothing(kind) && dial.outcome == Outcome::Reset {
                // It came before the client had looked.
            } else if says_nothing(kind) {
                let error = dial.connected()?.read(&mut [0; 8]).expect_err("nobody is there");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{kind} {to}");
            } else {
                assert_eq!(dial.outcome, Outcome::Refused, "{kind} {to}");
            }
        }
    }
    Ok(())
}

/// What is cut off in the middle does not look complete.
pub fn a_server_that_dies_resets_its_flows() -> TestResult {
    for kind in KINDS {
        for half_closed in [false, true] {
            let (lab, server, _oneway) = lab(kind, &[])?;
            let to = address::ORIGIN.v4_port(origin::CHARGEN);
            let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
            let mut some = [0; 1000];
            stream.read_exact(&mut some)?;
            if half_closed {
                stream.shutdown(Shutdown::Write)?;
            }
            drop(server);
            let begin = Instant::now();
            let mut chunk = vec![0; 65_536];
            let error = loop {
                match stream.read(&mut chunk) {
                    Ok(0) => return Err(format!("{kind} {half_closed}: the end looks like one").into()),
                    Ok(_) => assert!(begin.elapsed() < 10 * SECOND, "{kind}: it goes on"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{kind} {half_closed}");
            let dial = lab.host.client().tcp(to, 5 * SECOND)?;
            assert_eq!(dial.outcome, Outcome::Refused, "{kind}: nobody listens any more");
        }
    }
    Ok(())
}

/// As without a tunnel: nothing is read for it, and it hears of the reset all the same.
pub fn a_reset_reaches_a_client_that_reads_nothing() -> TestResult {
    let (lab, server, _oneway) = lab(CIPHERS[0], &[])?;
    let Server::Shadowsocks(server) = server else { return Err("another server".into()) };
    let (client, mut far) = streams::pair(&lab, address::ORIGIN.v4_port(5001))?;
    streams::fill(&mut far)?;
    assert!(client.take_error()?.is_none(), "a reset before there was one");
    server.reset();
    wait_until(5 * SECOND, "the client hears of the reset", || streams::is_reset(&client))?;
    streams::no_flow_is_left(&lab.host)
}

pub fn an_impostor_carries_nothing() -> TestResult {
    for kind in KINDS.into_iter().filter(|kind| is_tls(kind)) {
        let (lab, server, _oneway) = lab_with(kind, "other.example", &["--dns", "off"])?;
        let dial = lab.host.client().tcp(address::ORIGIN.v4_port(origin::HTTP), 5 * SECOND)?;
        assert_eq!(dial.outcome, Outcome::Refused, "{kind}");
        assert_eq!(server.accepted(), 0, "{kind}");
        assert!(lab.socks.requests().is_empty() && lab.http_proxy.requests().is_empty(), "{kind}");
        let status = ask(&lab.host, "status")?;
        let mut outbounds = status["outbounds"].as_array().into_iter().flatten();
        let health = outbounds.find(|outbound| outbound["name"] == "proxy").map(|proxy| &proxy["health"]);
        assert!(health.is_some_and(|health| health == "down"), "{kind}: {status}");
    }
    Ok(())
}

pub fn datagrams_travel_by_a_stream_or_sealed() -> TestResult {
    for kind in CIPHERS.into_iter().chain(["trojan"]) {
        datagrams_travel(kind)?;
    }
    Ok(())
}

fn datagrams_travel(kind: &str) -> TestResult {
    let (lab, proxy, _oneway) = lab(kind, &[])?;
    let client = lab.host.client();
    for to in address::ORIGIN.ports(origin::ECHO) {
        // Shadowsocks servers do not fragment what they send.
        for size in if is_tls(kind) { &[0, 1, 1400, 9000, 60_000][..] } else { &[0, 1, 1300] } {
            let size = *size;
            let data = pattern::bytes(size);
            let exchange = client.udp(to, &data, 5 * SECOND)?;
            assert_eq!((exchange.outcome, exchange.from), (Outcome::Done, Some(to)), "{kind} {to} {size}");
            assert!(exchange.data == data, "{kind} {to} {size}");
        }
    }
    for to in address::ORIGIN.ports(origin::FROM_OTHER_PORT) {
        let socket = client.udp_socket(to.is_ipv6())?;
        socket.set_read_timeout(Some(5 * SECOND))?;
        socket.send_to(b"who", to)?;
        let mut buffer = [0; 16];
        let (len, from) = socket.recv_from(&mut buffer)?;
        assert_eq!((&buffer[..len], from.ip(), from.port()), (&b"who"[..], to.ip(), origin::STRANGER));
    }
    // By name: the server is told it, and finds the address.
    let server = address::DNS.v4_port(port::DNS);
    let answer = client.dns(server, name::ORIGIN, RecordType::A, false, 5 * SECOND)?;
    let [fake] = answer.addresses.as_slice() else { return Err(format!("{:?}", answer.addresses).into()) };
    assert_ne!(*fake, IpAddr::from(address::ORIGIN.v4));
    let to = std::net::SocketAddr::new(*fake, origin::ECHO);
    let exchange = client.udp(to, b"by name", 5 * SECOND)?;
    assert_eq!((exchange.from, exchange.data.as_slice()), (Some(to), &b"by name"[..]));
    let wanted = format!("udp {}:{}", name::ORIGIN, origin::ECHO);
    let requests = match &proxy {
        Server::Trojan(server, _) => server.requests(),
        Server::Shadowsocks(server) => server.requests(),
        Server::InFront(_) => Vec::new(),
    };
    assert!(requests.contains(&wanted), "{kind} {requests:?}");
    Ok(())
}

/// A group has datagrams go by the member that carries them.
pub fn groups_know_that_they_carry_datagrams() -> TestResult {
    let web = address::HTTP_PROXY.v4_port(port::HTTP_PROXY);
    let end = format!(
        "[outbound.web]\ntype = \"http\"\nserver = \"{web}\"\n\
         [outbound.any]\ntype = \"fallback\"\nmembers = [\"web\", \"proxy\"]\nurl = \"http://{}/bytes/1\"\ninterval = \"1s\"\n\
         [rules]\nfinal = \"any\"\n",
        address::ORIGIN.v4_port(origin::HTTP),
    );
    for kind in [CIPHERS[0], "trojan"] {
        let (lab, _proxy, _oneway) = lab_by(&end, kind, "proxy.example", &[])?;
        for to in address::ORIGIN.ports(origin::ECHO) {
            // Its proxy may have been looked for before it was there.
            wait_until(10 * SECOND, "the member that carries them is taken", || {
                let exchange = lab.host.client().udp(to, b"datagram", SECOND);
                exchange.is_ok_and(|found| (found.outcome, found.from) == (Outcome::Done, Some(to)))
            })?;
        }
    }
    Ok(())
}

/// A program's datagrams go on by another stream.
pub fn a_lost_stream_of_datagrams_is_made_again() -> TestResult {
    let (lab, server, _oneway) = lab("trojan", &[])?;
    let Server::Trojan(first, identity) = server else { return Err("another server".into()) };
    let to = address::ORIGIN.v4_port(origin::ECHO);
    let socket = lab.host.client().udp_socket(false)?;
    socket.set_read_timeout(Some(SECOND / 10))?;
    let echoes = || {
        let mut buffer = [0; 16];
        socket.send_to(b"again", to).is_ok()
            && socket.recv_from(&mut buffer).is_ok_and(|(len, from)| (len, from) == (5, to))
    };
    wait_until(5 * SECOND, "the first stream carries", echoes)?;
    drop(first);
    wait_until(5 * SECOND, "nothing is carried", || !echoes())?;
    let mut second = None;
    wait_until(5 * SECOND, "the server is there again", || {
        second = trojan(&lab, &identity).ok();
        second.is_some()
    })?;
    wait_until(5 * SECOND, "another stream carries", echoes)?;
    Ok(())
}

/// The file that vouches for a server vouches for another one now.
pub fn other_authorities_are_taken_up() -> TestResult {
    let (lab, server, _oneway) = lab("trojan", &["--dns", "off"])?;
    let Server::Trojan(first, identity) = server else { return Err("another server".into()) };
    let dial = || lab.host.client().tcp(address::ORIGIN.v4_port(origin::HTTP), 5 * SECOND);
    assert_eq!(dial()?.outcome, Outcome::Done);
    assert_eq!(ask(&lab.host, "reload")?["changed"], serde_json::json!([]));

    drop(first);
    let other = Identity::new(&["proxy.example"], &[])?;
    let mut second = None;
    wait_until(5 * SECOND, "the other server is there", || {
        second = trojan(&lab, &other).ok();
        second.is_some()
    })?;
    assert_eq!(dial()?.outcome, Outcome::Refused, "nobody vouches for it");
    std::fs::copy(other.folder().join("ca.pem"), identity.folder().join("ca.pem"))?;
    assert_eq!(ask(&lab.host, "reload")?["changed"], serde_json::json!(["proxy"]));
    assert_eq!(dial()?.outcome, Outcome::Done);
    Ok(())
}

/// Every cipher, with names, and what a wrong key looks like.
pub fn every_cipher_carries_and_a_wrong_key_does_not() -> TestResult {
    for method in CIPHERS {
        let (lab, server, _oneway) = lab(method, &[])?;
        for to in address::ORIGIN.ports(origin::HTTP) {
            let reply = lab.host.client().http_get(to, "/bytes/3000000", 10 * SECOND)?;
            assert_eq!(reply.body.len(), 3_000_000, "{method} {to}");
            assert!(reply.body == pattern::bytes(3_000_000), "{method} {to}");
        }
        let asked = lab.host.client().dns(
            address::DNS.v4_port(port::DNS),
            name::ORIGIN,
            RecordType::A,
            false,
            5 * SECOND,
        )?;
        let [fake] = asked.addresses.as_slice() else { return Err(format!("{:?}", asked.addresses).into()) };
        let to = std::net::SocketAddr::new(*fake, origin::HTTP);
        assert_eq!(lab.host.client().http_get(to, "/", 5 * SECOND)?.status, 200, "{method}");
        let Server::Shadowsocks(server) = &server else { return Err("another server".into()) };
        let wanted = format!("tcp {}:{}", name::ORIGIN, origin::HTTP);
        assert!(server.requests().contains(&wanted), "{method} {:?}", server.requests());
    }
    let (lab, server, _oneway) = lab_with("2022-blake3-aes-256-gcm", "other.example", &["--dns", "off"])?;
    let to = address::ORIGIN.v4_port(origin::HTTP);
    assert!(lab.host.client().http_get(to, "/", 3 * SECOND).is_err());
    assert_eq!(server.accepted(), 0);
    Ok(())
}
