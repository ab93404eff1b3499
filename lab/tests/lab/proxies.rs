//! The SOCKS server and the HTTP proxy, spoken to byte by byte.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use oneway_lab::client::{Client, Outcome, wait_until};
use oneway_lab::harness::TestResult;
use oneway_lab::servers::origin::{Network, port};
use oneway_lab::servers::socks::{SocksCommand, reply};
use oneway_lab::servers::{BindAnswer, HttpProxy, HttpProxyOptions, SocksOptions, SocksProcess};
use oneway_lab::topology::{self, address, name};
use oneway_lab::{Entered, LabError, Topology};

const SECOND: Duration = Duration::from_secs(1);

fn socks(client: &Client) -> Result<TcpStream, LabError> {
    client.tcp(address::SOCKS.v4_port(topology::port::SOCKS), SECOND)?.connected()
}

fn append(out: &mut Vec<u8>, to: SocketAddr) {
    match to.ip() {
        IpAddr::V4(ip) => {
            out.push(1);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
    }
    out.extend(to.port().to_be_bytes());
}

fn read_address(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>, u16)> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = match head[3] {
        1 => 4,
        4 => 16,
        _ => {
            let mut length = [0];
            stream.read_exact(&mut length)?;
            usize::from(length[0])
        }
    };
    let mut host = vec![0; length];
    stream.read_exact(&mut host)?;
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    Ok((head[1], host, u16::from_be_bytes(port)))
}

/// The reply code to CONNECT.
fn connect(stream: &mut TcpStream, to: SocketAddr) -> std::io::Result<u8> {
    let mut request = vec![5, 1, 0, 5, 1, 0];
    append(&mut request, to);
    stream.write_all(&request)?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    assert_eq!(method, [5, 0]);
    Ok(read_address(stream)?.0)
}

fn echoes(stream: &mut TcpStream) -> TestResult {
    stream.write_all(b"hello")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"hello");
    Ok(())
}

pub fn socks_tells_the_truth() -> TestResult {
    for lab in [true, false] {
        // The two networks make trouble by different means; the codes are the same.
        let (standard, simple);
        let (client, server, origin) = if lab {
            standard = Topology::standard()?;
            (standard.host.client(), &standard.socks, &standard.origin)
        } else {
            simple = Topology::simple()?;
            (simple.host.client(), &simple.socks, &simple.origin)
        };
        server.set_options(SocksOptions { connect_timeout: Duration::from_millis(300), ..server.options() });
        let code = |to| -> Result<u8, Box<dyn std::error::Error>> { Ok(connect(&mut socks(&client)?, to)?) };
        for to in address::ORIGIN.ports(port::ECHO) {
            let mut stream = socks(&client)?;
            assert_eq!(connect(&mut stream, to)?, reply::SUCCEEDED);
            echoes(&mut stream)?;
        }
        for to in address::ORIGIN.ports(81) {
            assert_eq!(code(to)?, reply::REFUSED);
        }
        for to in address::BLACK_HOLE.ports(80) {
            assert_eq!(code(to)?, reply::TTL_EXPIRED);
        }
        for to in address::NET_UNREACHABLE.ports(80) {
            assert_eq!(code(to)?, reply::NET_UNREACHABLE);
        }
        for to in address::HOST_UNREACHABLE.ports(80) {
            assert_eq!(code(to)?, reply::HOST_UNREACHABLE);
        }
        let clients = origin.clients(Network::Tcp, port::ECHO);
        let through = clients.iter().all(|c| address::SOCKS.both().contains(&c.ip()));
        assert!(clients.len() == 2 && through, "{clients:?}");
        let requests = server.requests();
        assert_eq!(requests.len(), 10);
        assert_eq!(server.requests_for("203.0.113.1:81")[0].reply, reply::REFUSED);
        assert_eq!(server.counters().carried, 20);
    }
    Ok(())
}

pub fn socks_password_and_split_replies() -> TestResult {
    let lab = Topology::simple()?;
    let user = Some(("ann".to_owned(), "secret".to_owned()));
    lab.socks.set_options(SocksOptions { user, split: true, ..lab.socks.options() });
    let client = lab.host.client();
    // Without a password the server takes no method.
    let mut stream = socks(&client)?;
    stream.write_all(&[5, 1, 0])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, [5, 0xff]);
    for (password, right) in [(b"secret", true), (b"wrong!", false)] {
        let mut stream = socks(&client)?;
        stream.write_all(&[5, 2, 0, 2])?;
        stream.read_exact(&mut answer)?;
        assert_eq!(answer, [5, 2]);
        stream.write_all(&[&[1, 3][..], b"ann", &[6], password].concat())?;
        stream.read_exact(&mut answer)?;
        assert_eq!(answer, [1, u8::from(!right)]);
        if !right {
            continue;
        }
        let host = name::ORIGIN.as_bytes();
        let length = u8::try_from(host.len())?;
        stream.write_all(&[&[5, 1, 0, 3, length][..], host, &port::ECHO.to_be_bytes()].concat())?;
        assert_eq!(read_address(&mut stream)?.0, reply::SUCCEEDED);
        echoes(&mut stream)?;
    }
    assert_eq!(lab.socks.requests_for("origin.example:7").len(), 1);
    Ok(())
}

/// The control connection, and reply code, host and port of the answer.
type Associated = (TcpStream, u8, Vec<u8>, u16);

fn associate(client: &Client) -> Result<Associated, Box<dyn std::error::Error>> {
    let mut stream = socks(client)?;
    stream.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    let (code, host, port) = read_address(&mut stream)?;
    Ok((stream, code, host, port))
}

fn ask(socket: &UdpSocket, relay: SocketAddr, to: SocketAddr, data: &[u8]) -> TestResult {
    let mut request = vec![0, 0, 0];
    append(&mut request, to);
    request.extend(data);
    socket.send_to(&request, relay)?;
    Ok(())
}

fn expect(socket: &UdpSocket, from: SocketAddr, data: &[u8]) -> TestResult {
    let mut wanted = vec![0, 0, 0];
    append(&mut wanted, from);
    wanted.extend(data);
    let mut buffer = vec![0; 65_536];
    let (length, _) = socket.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], wanted);
    Ok(())
}

pub fn socks_carries_udp() -> TestResult {
    let lab = Topology::simple()?;
    let client = lab.host.client();
    let (control, code, host, relay_port) = associate(&client)?;
    assert_eq!((code, host), (reply::SUCCEEDED, address::SOCKS.v4.octets().to_vec()));
    let relay = address::SOCKS.v4_port(relay_port);
    let socket = client.udp_socket(false)?;
    for to in address::ORIGIN.ports(port::ECHO) {
        ask(&socket, relay, to, b"ping")?;
        expect(&socket, to, b"ping")?;
    }
    let big = oneway_lab::pattern::bytes(9000);
    ask(&socket, relay, address::ORIGIN.v4_port(port::ECHO), &big)?;
    expect(&socket, address::ORIGIN.v4_port(port::ECHO), &big)?;
    // A stranger's answer comes with its true source.
    ask(&socket, relay, address::ORIGIN.v6_port(port::FROM_OTHER_ADDRESS), b"who")?;
    expect(&socket, address::ORIGIN_OTHER.v6_port(port::FROM_OTHER_ADDRESS), b"who")?;
    // One mapping for all targets.
    for to in [address::ORIGIN, address::ORIGIN_OTHER] {
        ask(&socket, relay, to.v4_port(port::ECHO), b"x")?;
        expect(&socket, to.v4_port(port::ECHO), b"x")?;
    }
    let mapped = lab.origin.clients(Network::Udp, port::ECHO);
    assert_eq!(mapped.iter().filter(|client| client.is_ipv4()).count(), 1);
    // A fragment, rubbish, and somebody else.
    socket.send_to(&[0, 0, 1, 1, 203, 0, 113, 1, 0, 7, 1], relay)?;
    socket.send_to(&[1, 2], relay)?;
    lab.net.client().udp_socket(false)?.send_to(&[0, 0, 0, 1, 203, 0, 113, 1, 0, 7, 1], relay)?;
    wait_until(SECOND, "three datagrams were dropped", || lab.socks.counters().datagrams_dropped == 3)?;
    let counters = lab.socks.counters();
    assert_eq!((counters.datagrams_out, counters.datagrams_in), (6, 6));
    assert_eq!((counters.associations, counters.associations_open), (1, 1));
    drop(control);
    wait_until(SECOND, "the association ended", || lab.socks.counters().associations_open == 0)?;

    for (answer, said) in [
        (BindAnswer::Unspecified, vec![0; 4]),
        (BindAnswer::Loopback, vec![127, 0, 0, 1]),
        (BindAnswer::Domain("socks.example".to_owned()), b"socks.example".to_vec()),
    ] {
        lab.socks.set_options(SocksOptions { bind_answer: answer, ..lab.socks.options() });
        let (_control, code, host, relay_port) = associate(&client)?;
        assert_eq!((code, host), (reply::SUCCEEDED, said));
        let relay = address::SOCKS.v4_port(relay_port);
        ask(&socket, relay, address::ORIGIN.v4_port(port::ECHO), b"x")?;
        expect(&socket, address::ORIGIN.v4_port(port::ECHO), b"x")?;
    }
    lab.socks.set_options(SocksOptions { udp: false, ..lab.socks.options() });
    assert_eq!(associate(&client)?.1, reply::COMMAND_NOT_SUPPORTED);
    Ok(())
}

pub fn socks4_and_4a() -> TestResult {
    let lab = Topology::simple()?;
    let client = lab.host.client();
    let ask = |request: &[u8]| -> Result<(u8, TcpStream), Box<dyn std::error::Error>> {
        let mut stream = socks(&client)?;
        stream.write_all(request)?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        Ok((answer[1], stream))
    };
    let (code, mut stream) = ask(&[4, 1, 0, 7, 203, 0, 113, 1, b'a', 0])?;
    assert_eq!(code, 90);
    echoes(&mut stream)?;
    let (code, mut stream) = ask(b"\x04\x01\x00\x07\x00\x00\x00\x01\x00v4.origin.example\x00")?;
    assert_eq!(code, 90);
    echoes(&mut stream)?;
    assert_eq!(ask(&[4, 1, 0, 81, 203, 0, 113, 1, 0])?.0, 91);
    let requests = lab.socks.requests();
    assert_eq!(
        requests.iter().map(|r| (r.version, r.command)).collect::<Vec<_>>(),
        [(4, SocksCommand::Connect); 3]
    );
    assert_eq!(requests[2].reply, reply::REFUSED);
    Ok(())
}

pub fn socks_kills_what_it_carries() -> TestResult {
    let lab = Topology::simple()?;
    let client = lab.host.client();
    let mut stream = socks(&client)?;
    assert_eq!(connect(&mut stream, address::ORIGIN.v4_port(port::ECHO))?, reply::SUCCEEDED);
    echoes(&mut stream)?;
    let (mut control, ..) = associate(&client)?;
    lab.socks.kill_associations();
    assert_eq!(control.read(&mut [0; 8])?, 0, "the association's connection ends");
    echoes(&mut stream)?;
    lab.socks.kill_connections();
    assert_eq!(Outcome::from(&stream.read(&mut [0; 8]).expect_err("a reset")), Outcome::Reset);
    // A reset by the target travels as a reset.
    let mut stream = socks(&client)?;
    assert_eq!(connect(&mut stream, address::ORIGIN.v6_port(port::RESET))?, reply::SUCCEEDED);
    stream.write_all(b"x")?;
    assert_eq!(Outcome::from(&stream.read(&mut [0; 8]).expect_err("a reset")), Outcome::Reset);
    wait_until(SECOND, "the origin has no connection left", || lab.origin.open_connections() == 0)?;
    Ok(())
}

pub fn http_proxy_connects() -> TestResult {
    let lab = Topology::simple()?;
    let client = lab.host.client();
    let ask = |to, request: &str| -> Result<(String, TcpStream), Box<dyn std::error::Error>> {
        let mut stream = client.tcp(to, SECOND)?.connected()?;
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok((String::from_utf8(head)?, stream))
    };
    for to in address::HTTP_PROXY.ports(topology::port::HTTP_PROXY) {
        for target in ["origin.example:7", "[2001:db8:100::1]:7", "203.0.113.1:7"] {
            let (head, mut stream) =
                ask(to, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"))?;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            echoes(&mut stream)?;
        }
        let (head, _) = ask(to, "CONNECT origin.example:81 HTTP/1.1\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    }
    assert_eq!(lab.http_proxy.requests().len(), 8);
    assert_eq!(lab.http_proxy.carried(), 60);
    let options = HttpProxyOptions {
        user: Some(("ann".to_owned(), "secret".to_owned())),
        split: true,
        zone: topology::zone(),
        ..HttpProxyOptions::default()
    };
    let to = address::SPARE.v4_port(3128);
    let guarded = HttpProxy::start(&lab.net, &[to], options)?;
    let (head, _) = ask(to, "CONNECT origin.example:7 HTTP/1.1\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 407 "), "{head}");
    let (head, mut stream) =
        ask(to, "CONNECT origin.example:7 HTTP/1.1\r\nProxy-Authorization: Basic YW5uOnNlY3JldA==\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    echoes(&mut stream)?;
    guarded.kill_connections();
    assert_eq!(Outcome::from(&stream.read(&mut [0; 8]).expect_err("a reset")), Outcome::Reset);
    Ok(())
}

pub fn socks_in_a_process_of_its_own() -> TestResult {
    let lab = Topology::simple()?;
    let to: SocketAddr = "127.0.0.1:1080".parse()?;
    // A user namespace has one user id only.
    let uid = (oneway_lab::entered() == Some(Entered::Root)).then_some(65_534);
    let server = SocksProcess::start(&lab.host, &[to], uid)?;
    assert_ne!(server.process.pid(), std::process::id());
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.pid()))?;
    assert!(uid.is_none() || status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    let mut stream = lab.host.client().tcp(to, SECOND)?.connected()?;
    assert_eq!(connect(&mut stream, address::ORIGIN.v4_port(port::ECHO))?, reply::SUCCEEDED);
    echoes(&mut stream)?;
    let clients = lab.origin.clients(Network::Tcp, port::ECHO);
    assert!(clients.iter().all(|client| client.ip() == address::HOST_UP1.v4), "{clients:?}");
    Ok(())
}
