//! Names in the first bytes of flows: what follows them, and what must not wait for them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use oneway_lab::Oneway;
use oneway_lab::client::{Outcome, RecordType, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::servers::{SocksOptions, SocksServer, Zone};
use oneway_lab::topology::{Simple, Topology, address};
use socket2::SockRef;

use crate::common::{SECOND, ask, run};
use crate::groups::filter;

/// What `openssl s_client -servername www.Example.com` sends.
const HELLO: &[u8] = include_bytes!("../../../../crates/sniff/src/tests/openssl.bin");
const NAME: &str = "www.example.com";
/// Where the proxy listens.
const OUT: u16 = 1081;
/// Where another one does.
const TWO: u16 = 1082;
/// Where nobody does.
const CLOSED: u16 = 2;
const REQUEST: &str = "GET /client HTTP/1.1\r\nHost: WWW.example.com\r\nConnection: close\r\n\r\n";

struct Sniffing {
    lab: Simple,
    proxy: SocksServer,
    two: SocksServer,
    _oneway: Oneway,
    folder: tempfile::TempDir,
}

/// A configuration with these rules, and these outbounds besides.
fn text(dns: &str, rules: &[&str], outbounds: &str) -> String {
    format!(
        "[dns]\nmode = \"{dns}\"\n[sniff]\nenable = true\ntimeout = \"500ms\"\ntls = [{echo}, {first}]\nhttp = [{http}]\n\
         quic = [{echo}]\n[outbound.out]\ntype = \"socks5\"\nserver = \"{}\"\n{outbounds}\n[rules]\nlist = {rules:?}\n",
        address::SPARE.v4_port(OUT),
        echo = port::ECHO,
        first = port::FIN_FIRST,
        http = port::HTTP,
    )
}

impl Sniffing {
    fn new(rules: &[&str]) -> Result<Self, Failed> {
        Self::with(rules, "")
    }

    /// The same where DNS is answered with real addresses.
    fn with_dns(rules: &[&str]) -> Result<Self, Failed> {
        Self::start("real", rules, "")
    }

    /// The same with more outbounds.
    fn with(rules: &[&str], outbounds: &str) -> Result<Self, Failed> {
        Self::start("off", rules, outbounds)
    }

    fn start(dns: &str, rules: &[&str], outbounds: &str) -> Result<Self, Failed> {
        let lab = Topology::simple()?;
        let zone = Zone::new().a(NAME, address::ORIGIN.v4).aaaa(NAME, address::ORIGIN.v6);
        let options = SocksOptions { zone, ..SocksOptions::default() };
        let start = |port, options| SocksServer::start(&lab.net, &[address::SPARE.v4_port(port)], options);
        let (proxy, two) = (start(OUT, options.clone())?, start(TWO, options)?);
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("oneway.toml");
        std::fs::write(&file, text(dns, rules, outbounds))?;
        let oneway =
            run(&lab.host, None, &["--config", file.to_str().ok_or("the folder's name is no text")?])?;
        Ok(Self { lab, proxy, two, _oneway: oneway, folder })
    }

    /// Replaces the rules, for a reload.
    fn write(&self, rules: &[&str]) -> TestResult {
        Ok(std::fs::write(self.folder.path().join("oneway.toml"), text("off", rules, ""))?)
    }

    fn connect(&self, to: SocketAddr) -> Result<TcpStream, Failed> {
        let stream = self.lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        stream.set_read_timeout(Some(5 * SECOND))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Whether these bytes come back.
fn echoes(stream: &mut TcpStream, bytes: &[u8]) -> TestResult {
    let mut heard = vec![0; bytes.len()];
    stream.read_exact(&mut heard)?;
    assert!(heard == bytes, "other bytes");
    Ok(())
}

/// A client that resets the connection before it has said anything.
pub fn a_reset_in_place_of_a_name_travels_as_a_reset() -> TestResult {
    let sniffing = Sniffing::new(&["DOMAIN-SUFFIX,example.com,out", "MATCH,direct"])?;
    for to in address::SPARE.ports(port::ECHO) {
        let listener = sniffing.lab.net.run(|| TcpListener::bind(to))??;
        let client = sniffing.connect(to)?;
        let (server, _) = listener.accept()?;
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        wait_until(5 * SECOND, "the server hears of the reset", || {
            server.take_error().is_ok_and(|error| error.is_some())
        })
        .map_err(|error| format!("{to}: {error}"))?;
    }
    Ok(())
}

pub fn a_name_leads_to_its_outbound() -> TestResult {
    let sniffing = Sniffing::new(&["DOMAIN-SUFFIX,example.com,out", "MATCH,direct"])?;
    for to in address::ORIGIN.ports(port::ECHO) {
        sniffing.proxy.forget();
        let mut stream = sniffing.connect(to)?;
        assert!(sniffing.proxy.requests().is_empty(), "connected by the address");
        // In pieces, and more behind it.
        for piece in HELLO.chunks(97) {
            stream.write_all(piece)?;
        }
        stream.write_all(&[7; 100_000])?;
        echoes(&mut stream, HELLO)?;
        echoes(&mut stream, &[7; 100_000])?;
        assert_eq!(sniffing.proxy.requests_for(&format!("{NAME}:{}", port::ECHO)).len(), 1);
        let flows = ask(&sniffing.lab.host, "flows")?;
        let flow = &flows["flows"][0];
        assert_eq!(flow["target"], format!("{NAME}:{} ({})", port::ECHO, to.ip()), "{flows}");
        assert_eq!(
            (&flow["outbound"], &flow["rule"]),
            (&"out".into(), &"DOMAIN-SUFFIX,example.com,out".into())
        );
        // Its end travels, too.
        stream.shutdown(Shutdown::Write)?;
        assert_eq!(stream.read(&mut [0])?, 0);
    }
    let mut stream = sniffing.connect(address::ORIGIN.v4_port(port::HTTP))?;
    stream.write_all(REQUEST.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!(sniffing.proxy.requests_for(&format!("{NAME}:{}", port::HTTP)).len(), 1);
    Ok(())
}

/// What was tried for the address is not tried again for the name.
pub fn a_name_that_leads_to_the_same_group_changes_nothing() -> TestResult {
    let group = "[outbound.group]\ntype = \"probe\"\nmembers = [\"direct\", \"out\"]\ntimeout = \"500ms\"";
    let sniffing = Sniffing::with(&["DOMAIN-SUFFIX,example.org,out", "MATCH,group"], group)?;
    let both = address::ORIGIN.ports(port::ECHO);
    filter(&sniffing.lab.net, &both, "drop")?;
    for to in both {
        let mut stream = sniffing.connect(to)?;
        stream.write_all(HELLO)?;
        echoes(&mut stream, HELLO)?;
        let flows = ask(&sniffing.lab.host, "flows")?;
        let flow = &flows["flows"][0];
        assert_eq!(flow["target"], format!("{NAME}:{} ({})", port::ECHO, to.ip()), "{flows}");
        assert_eq!((&flow["outbound"], &flow["rule"]), (&"out".into(), &"MATCH,group".into()));
    }
    let asked = sniffing.proxy.requests();
    assert_eq!(asked.len(), 2, "once for each: {asked:?}");
    Ok(())
}

/// One turn for each connection, whether it is found by the address or by the name.
pub fn a_connection_takes_one_turn() -> TestResult {
    const FLOWS: usize = 10;
    let group = format!(
        "[outbound.two]\ntype = \"socks5\"\nserver = \"{two}\"\n[outbound.group]\ntype = \"load-balance\"\n\
         strategy = \"round-robin\"\nmembers = [\"out\", \"two\"]\nurl = \"http://{url}/bytes/1\"",
        two = address::SPARE.v4_port(TWO),
        url = address::ORIGIN.v4_port(port::HTTP),
    );
    let to = address::ORIGIN.v4_port(port::ECHO);
    for (rules, by_name) in [
        (["DOMAIN-SUFFIX,example.org,out", "MATCH,group"], false),
        (["DOMAIN-SUFFIX,example.com,group", "MATCH,direct"], true),
    ] {
        let sniffing = Sniffing::with(&rules, &group)?;
        for _ in 0..FLOWS {
            let mut stream = sniffing.connect(to)?;
            stream.write_all(HELLO)?;
            echoes(&mut stream, HELLO)?;
        }
        let told = if by_name { format!("{NAME}:{}", port::ECHO) } else { to.to_string() };
        let carried = [&sniffing.proxy, &sniffing.two].map(|proxy| proxy.requests_for(&told).len());
        assert_eq!(carried, [FLOWS / 2; 2], "{rules:?}");
    }
    Ok(())
}

pub fn a_name_leads_to_a_group_that_finds_out_by_trying() -> TestResult {
    let group = "[outbound.group]\ntype = \"probe\"\nmembers = [\"closed\", \"direct\", \"out\"]\ntimeout = \"500ms\"";
    let closed =
        format!("[outbound.closed]\ntype = \"socks5\"\nserver = \"{}\"", address::SPARE.v4_port(CLOSED));
    let rules = ["DOMAIN-SUFFIX,example.com,group", "MATCH,http"];
    let http = format!(
        "[outbound.http]\ntype = \"http\"\nserver = \"{}\"",
        address::HTTP_PROXY.v4_port(oneway_lab::topology::port::HTTP_PROXY)
    );
    let sniffing = Sniffing::with(&rules, &[group, &closed, &http].join("\n"))?;
    let to = address::ORIGIN.v4_port(port::ECHO);
    filter(&sniffing.lab.net, &[to], "drop")?;
    let begin = Instant::now();
    let mut stream = sniffing.connect(to)?;
    stream.write_all(HELLO)?;
    echoes(&mut stream, HELLO)?;
    assert!(begin.elapsed() >= SECOND / 2, "it was tried directly");
    assert_eq!(sniffing.proxy.requests_for(&format!("{NAME}:{}", port::ECHO)).len(), 1);
    let flows = ask(&sniffing.lab.host, "flows")?;
    let flow = &flows["flows"][0];
    assert_eq!(
        (&flow["outbound"], &flow["rule"]),
        (&"out".into(), &"DOMAIN-SUFFIX,example.com,group".into())
    );
    Ok(())
}

/// What another program has asked for says nothing of a connection that tells its name itself.
pub fn a_name_that_shares_its_address_is_not_taken_for_another() -> TestResult {
    const ADS: &str = "ads.example";
    let rules = ["DOMAIN,ads.example,block", "DOMAIN-SUFFIX,example.com,out", "MATCH,direct"];
    let sniffing = Sniffing::with_dns(&rules)?;
    let Sniffing { lab, proxy, .. } = &sniffing;
    lab.dns.set_zone(Zone::new().a(NAME, address::ORIGIN.v4).a(ADS, address::ORIGIN.v4));
    let server = address::DNS.v4_port(oneway_lab::topology::port::DNS);
    let ask = |name| lab.host.client().dns(server, name, RecordType::A, false, 5 * SECOND);
    let (to, unlisted) = (address::ORIGIN.v4_port(port::ECHO), address::ORIGIN.v4_port(port::DISCARD));
    ask(NAME)?;
    sniffing.connect(to)?;
    assert_eq!(proxy.requests().len(), 1, "the only name is known before anything is said");
    assert_eq!(ask(ADS)?.addresses, [address::ORIGIN.v4]);
    proxy.forget();
    let mut stream = sniffing.connect(to)?;
    stream.write_all(HELLO)?;
    echoes(&mut stream, HELLO)?;
    assert_eq!(proxy.requests_for(&format!("{NAME}:{}", port::ECHO)).len(), 1);
    // Where nothing is looked for, the last name counts.
    assert_eq!(lab.host.client().tcp(unlisted, 5 * SECOND)?.outcome, Outcome::Refused);
    ask(NAME)?;
    sniffing.connect(unlisted)?;
    Ok(())
}

pub fn what_has_no_name_goes_by_its_address() -> TestResult {
    let sniffing = Sniffing::new(&["DOMAIN-SUFFIX,example.org,out", "MATCH,direct"])?;
    let echo = address::ORIGIN.v4_port(port::ECHO);
    let mut other = sniffing.connect(echo)?;
    other.write_all(HELLO)?;
    echoes(&mut other, HELLO)?;
    let mut plain = sniffing.connect(echo)?;
    plain.write_all(b"hello")?;
    echoes(&mut plain, b"hello")?;
    // Half a ClientHello goes on when time is up, and what follows at once.
    let mut slow = sniffing.connect(echo)?;
    let begin = Instant::now();
    slow.write_all(&HELLO[..50])?;
    echoes(&mut slow, &HELLO[..50])?;
    assert!((SECOND / 3..3 * SECOND).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    slow.write_all(&HELLO[50..])?;
    echoes(&mut slow, &HELLO[50..])?;
    // A client that ends what it has not finished, and one that only ends.
    for bytes in [&HELLO[..50], b""] {
        let mut ended = sniffing.connect(echo)?;
        ended.write_all(bytes)?;
        ended.shutdown(Shutdown::Write)?;
        echoes(&mut ended, bytes)?;
        assert_eq!(ended.read(&mut [0])?, 0);
    }
    assert!(sniffing.proxy.requests().is_empty());
    Ok(())
}

pub fn a_server_that_speaks_first_is_heard() -> TestResult {
    let sniffing = Sniffing::new(&["DOMAIN-SUFFIX,example.com,out", "MATCH,direct"])?;
    let begin = Instant::now();
    let mut stream = sniffing.connect(address::ORIGIN.v4_port(port::FIN_FIRST))?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard)?;
    assert_eq!(heard, "bye\n");
    assert!(begin.elapsed() < SECOND / 3, "{:?}", begin.elapsed());
    // Too late for a name: the server has spoken.
    stream.write_all(HELLO)?;
    stream.shutdown(Shutdown::Write)?;
    assert!(sniffing.proxy.requests().is_empty());
    // Connected still means connected.
    let closed = sniffing.lab.host.client().tcp(address::SPARE.v4_port(port::ECHO), 5 * SECOND)?;
    assert_eq!(closed.outcome, Outcome::Refused);
    Ok(())
}

pub fn a_name_may_be_refused() -> TestResult {
    let sniffing = Sniffing::new(&["DOMAIN,www.example.com,block", "MATCH,direct"])?;
    let mut stream = sniffing.connect(address::ORIGIN.v4_port(port::ECHO))?;
    stream.write_all(HELLO)?;
    let error = stream.read(&mut [0]).err().map(|error| error.kind());
    assert_eq!(error, Some(std::io::ErrorKind::ConnectionReset));
    let flows = ask(&sniffing.lab.host, "flows")?;
    assert!(flows["flows"].as_array().is_some_and(Vec::is_empty), "{flows}");
    Ok(())
}

/// The QUIC packets of a ClientHello in two parts.
fn initials() -> Result<[Vec<u8>; 2], Failed> {
    let hello = &HELLO[5..];
    let frame = |from: usize, to: usize| {
        let varint = |number: usize| (number as u16 | 1 << 14).to_be_bytes();
        [&[6][..], &varint(from), &varint(to - from), &hello[from..to], &[0; 900]].concat()
    };
    let packet = |number, frame: &[u8]| oneway_sniff::initial(1, b"client's", number, frame);
    let both = (packet(0, &frame(0, 60)), packet(1, &frame(60, hello.len())));
    both.0.zip(both.1).map(|(a, b)| [a, b]).ok_or_else(|| "no packet".into())
}

pub fn a_name_in_datagrams_leads_to_its_outbound() -> TestResult {
    let sniffing = Sniffing::new(&["DOMAIN-SUFFIX,example.com,out", "MATCH,direct"])?;
    let echo = address::ORIGIN.v4_port(port::ECHO);
    let client = sniffing.lab.host.client();
    let [first, second] = initials()?;
    let socket = client.udp_socket(false)?;
    socket.set_read_timeout(Some(5 * SECOND))?;
    socket.send_to(&first, echo)?;
    socket.send_to(&second, echo)?;
    let mut buffer = [0; 2000];
    for expected in [&first, &second] {
        let (len, from) = socket.recv_from(&mut buffer)?;
        assert!((&buffer[..len], from) == (expected.as_slice(), echo), "{len} bytes from {from}");
    }
    // What cannot be read follows.
    socket.send_to(&[0x40; 100], echo)?;
    assert_eq!(socket.recv(&mut buffer)?, 100);
    assert_eq!((sniffing.proxy.counters().associations, sniffing.proxy.counters().datagrams_out), (1, 3));
    // One that stays incomplete goes by its address, when time is up.
    let other = client.udp_socket(false)?;
    other.set_read_timeout(Some(5 * SECOND))?;
    let begin = Instant::now();
    other.send_to(&first, echo)?;
    assert_eq!(other.recv(&mut buffer)?, first.len());
    assert!(begin.elapsed() > SECOND / 3, "{:?}", begin.elapsed());
    assert_eq!(sniffing.proxy.counters().datagrams_out, 3);
    // By its name it may stay where it is when all else may not.
    sniffing.write(&["DOMAIN-SUFFIX,example.com,out", "NETWORK,udp,block", "MATCH,direct"])?;
    assert_eq!(ask(&sniffing.lab.host, "reload")?["reset"], 1, "the other one");
    socket.send_to(&[0x40; 99], echo)?;
    assert_eq!(socket.recv(&mut buffer)?, 99);
    assert_eq!((sniffing.proxy.counters().associations, sniffing.proxy.counters().datagrams_out), (1, 4));
    Ok(())
}

/// As with connections: what another program has asked for says nothing of one that tells its name itself.
pub fn a_name_in_datagrams_is_not_taken_for_another() -> TestResult {
    const ADS: &str = "ads.example";
    let rules = ["DOMAIN,ads.example,block", "DOMAIN-SUFFIX,example.com,out", "MATCH,direct"];
    let sniffing = Sniffing::with_dns(&rules)?;
    let Sniffing { lab, proxy, .. } = &sniffing;
    lab.dns.set_zone(Zone::new().a(NAME, address::ORIGIN.v4).a(ADS, address::ORIGIN.v4));
    let server = address::DNS.v4_port(oneway_lab::topology::port::DNS);
    let ask = |name| lab.host.client().dns(server, name, RecordType::A, false, 5 * SECOND);
    let echo = address::ORIGIN.v4_port(port::ECHO);
    let initials = initials()?;
    let exchange = |socket: &UdpSocket, datagrams: &[&[u8]]| -> TestResult {
        let mut buffer = [0; 2000];
        datagrams.iter().try_for_each(|datagram| socket.send_to(datagram, echo).map(drop))?;
        for expected in datagrams {
            let len = socket.recv(&mut buffer)?;
            assert!(&buffer[..len] == *expected, "{len} bytes");
        }
        Ok(())
    };
    ask(NAME)?;
    let before = lab.host.client().udp_socket(false)?;
    exchange(&before, &[&initials[0], &initials[1]])?;
    assert_eq!(proxy.counters().datagrams_out, 2);
    assert_eq!(ask(ADS)?.addresses, [address::ORIGIN.v4]);
    let after = lab.host.client().udp_socket(false)?;
    exchange(&after, &[&initials[0], &initials[1]])?;
    assert_eq!(proxy.counters().datagrams_out, 4);
    for socket in [&before, &after] {
        exchange(socket, &[&[0x40; 100]])?;
    }
    assert_eq!((proxy.counters().associations, proxy.counters().datagrams_out), (2, 6));
    Ok(())
}
