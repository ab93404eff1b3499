//! Programs that get a port which a socket of ours had. Connection tracking still remembers what went by that socket, and it went
//! past the device.
#![allow(clippy::disallowed_methods, reason = "the program's sockets are not ours to protect")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use oneway_lab::NetNs;
use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::{Network, port};
use oneway_lab::topology::address;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::common::{SECOND, ask, lab};

fn count(host: &NetNs, of: &str) -> Result<u64, Failed> {
    let status = ask(host, "status")?;
    Ok(status.pointer(&format!("/counters/{of}")).and_then(Value::as_u64).ok_or("no such counter")?)
}

fn any(to: SocketAddr, port: u16) -> SocketAddr {
    let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, port)
}

pub fn its_datagrams_are_captured() -> TestResult {
    let (lab, _oneway) = lab(None, &[])?;
    for to in address::ORIGIN.ports(port::ECHO) {
        let echo = |socket: &UdpSocket| -> TestResult {
            socket.set_read_timeout(Some(10 * SECOND))?;
            socket.send_to(b"x", to)?;
            Ok(socket.recv(&mut [0; 16]).map(drop)?)
        };
        lab.origin.forget();
        let before = count(&lab.host, "udp/active")?;
        let first = lab.host.client().udp_socket(to.is_ipv6())?;
        echo(&first)?;
        drop(first);
        let ours = *lab.origin.clients(Network::Udp, port::ECHO).first().ok_or("nobody came")?;
        // What comes back to a program that is gone ends its session. A process that another test has forked, and that has not
        // begun its program yet, has a copy of the socket, and takes what comes.
        let source = address::SPARE.both()[usize::from(to.is_ipv6())];
        let late = lab.net.client().source(source).udp_socket(to.is_ipv6())?;
        wait_until(5 * SECOND, "our socket is closed", || {
            let _ = late.send_to(b"late", ours);
            count(&lab.host, "udp/active").is_ok_and(|active| active == before)
        })?;
        let opened = count(&lab.host, "udp/opened")?;
        let second = lab.host.run(|| UdpSocket::bind(any(to, ours.port())))??;
        echo(&second)?;
        assert_eq!(count(&lab.host, "udp/opened")?, opened + 1, "{to}: it went past the device");
    }
    Ok(())
}

/// After an end in order, connection tracking begins anew with the next SYN (`nf_conntrack_tcp_packet` in
/// net/netfilter/nf_conntrack_proto_tcp.c); not so after a reset from the far end.
pub fn its_connections_are_captured() -> TestResult {
    let (lab, _oneway) = lab(None, &[])?;
    for to in address::ORIGIN.ports(port::RESET) {
        lab.origin.forget();
        let mut first = lab.host.run(|| TcpStream::connect(to))??;
        first.write_all(b"x")?;
        let reset = first.read(&mut [0]).err().map(|error| error.kind());
        assert_eq!(reset, Some(ErrorKind::ConnectionReset));
        drop(first);
        let ours = *lab.origin.clients(Network::Tcp, port::RESET).first().ok_or("nobody came")?;
        let opened = count(&lab.host, "tcp/opened")?;
        let again = || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&any(to, ours.port()).into())?;
            socket.connect(&to.into())
        };
        wait_until(5 * SECOND, "our socket is closed", || lab.host.run(again).is_ok_and(|end| end.is_ok()))?;
        assert_eq!(count(&lab.host, "tcp/opened")?, opened + 1, "{to}: it went past the device");
    }
    Ok(())
}
