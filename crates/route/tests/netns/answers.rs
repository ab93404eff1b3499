//! Answers to what comes in leave past the capture device, and no connection tracking is needed to tell.
#![allow(clippy::disallowed_methods, reason = "others' servers and clients, not our sockets")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use oneway_route::{
    Applied, Captured, Change, Family, Mark, Memory, Priority, Request, Rule, RuleAction, Snapshot, Table,
    Watched, no_hook, plan,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::host::{FAR4, FAR6, HOST4, HOST6, Net, Tun, capture, planned, set, until};
use crate::wire::Wire;

crate::trials!(
    nothing_is_tracked,
    who_was_connected_before_is_answered,
    a_listener_with_a_mark_of_its_own_is_answered,
    a_server_that_is_asked_at_another_port_is_answered,
    what_the_kernel_answers_leaves_as_it_came,
    cookies_are_answered,
    other_protocols_are_answered,
    who_has_asked_is_answered_and_nobody_else,
    who_was_asked_first_is_captured,
    who_was_asked_before_is_captured,
    a_host_that_steers_by_marks_is_tracked,
    a_switch_that_was_on_stays_on,
    what_an_accepted_socket_begins_is_captured,
);

const SOON: Duration = Duration::from_secs(5);
const PORT: u16 = 4433;
const BOTH: [(&str, &str, &str); 2] = [(HOST4, FAR4, "0.0.0.0"), (HOST6, FAR6, "::")];

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn start(net: &Net) -> (Tun, Applied<Captured>) {
    net.host.run(|| capture(&planned(&Request::default()), net.journal()))
}

fn stop(net: &Net, applied: Applied<Captured>) {
    net.host.run(|| applied.undo(&mut no_hook).unwrap());
}

fn memory(plan: &oneway_route::Plan) -> Memory {
    let table = plan.steps.iter().find_map(|step| match &step.change {
        Change::Nft(table) => Some(table.memory),
        _ => None,
    });
    table.unwrap()
}

/// What of these two networks went into the device, but what the kernel says of its own accord.
fn strayed(tun: &Tun) -> usize {
    let of_ours = |packet: &&Vec<u8>| packet[0] >> 4 == 4 || !matches!(packet.get(6), Some(0 | 58));
    tun.packets().iter().filter(of_ours).count()
}

fn connect(from: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&at(from, 0).into())?;
    socket.connect_timeout(&to.into(), SOON)?;
    Ok(socket.into())
}

fn asker(from: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Both ends say something, the one that was asked first.
fn talk(asked: &mut TcpStream, asking: &mut TcpStream) {
    for stream in [&*asked, &*asking] {
        stream.set_read_timeout(Some(SOON)).unwrap();
    }
    let mut buffer = [0; 4];
    asked.write_all(b"what").unwrap();
    asking.read_exact(&mut buffer).unwrap();
    asking.write_all(b"this").unwrap();
    asked.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"this");
}

fn answer(server: &UdpSocket) -> SocketAddr {
    server.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 16];
    let (n, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..n], from).unwrap();
    from
}

#[allow(clippy::disallowed_methods, reason = "a foreign firewall is set up as its user would")]
fn nft(rules: &str) {
    assert!(Command::new("nft").arg(rules).status().unwrap().success(), "{rules}");
}

fn nothing_is_tracked() {
    let net = Net::new();
    let (tun, applied) = start(&net);
    for (host, far, wildcard) in BOTH {
        let listener = net.host.run(|| TcpListener::bind((wildcard, PORT)).unwrap());
        let mut client = net.world.run(|| connect(far, at(host, PORT)).unwrap());
        let (mut session, _) = listener.accept().unwrap();
        talk(&mut session, &mut client);
        let server = net.host.run(|| UdpSocket::bind((wildcard, PORT)).unwrap());
        let client = net.world.run(|| asker(far, at(host, PORT)));
        client.send(b"ping").unwrap();
        answer(&server);
        client.recv(&mut [0; 16]).unwrap();
    }
    assert_eq!(strayed(&tun), 0);
    net.host.run(|| {
        // Where the kernel has no connection tracking loaded there is nothing that could count.
        match std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count") {
            Ok(count) => assert_eq!(count.trim(), "0"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        }
    });
    stop(&net, applied);
}

fn who_was_connected_before_is_answered() {
    for (host, far, wildcard) in [BOTH[0], BOTH[1], (HOST4, FAR4, "::")] {
        let net = Net::new();
        let listener = net.host.run(|| TcpListener::bind((wildcard, PORT)).unwrap());
        let mut client = net.world.run(|| connect(far, at(host, PORT)).unwrap());
        let (mut session, _) = listener.accept().unwrap();
        let (tun, mut applied) = start(&net);
        talk(&mut session, &mut client);
        // Also when somebody has emptied the packet filter, and it was made again.
        net.host.run(|| nft("flush ruleset"));
        let done = net.host.run(|| applied.put_back(Watched::All).whole().unwrap());
        assert_eq!(done.len(), 1, "{done:?}");
        talk(&mut session, &mut client);
        // And to whom nobody was connected is captured.
        let to = at(far, PORT);
        assert!(net.host.run(|| tcp_is_captured(&tun, to)));
        stop(&net, applied);
        talk(&mut session, &mut client);
    }
}

/// Begins a connection, and looks for its first segment in the device.
fn tcp_is_captured(tun: &Tun, to: SocketAddr) -> bool {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.connect(&to.into()).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
    let mut found = false;
    until("the segment is in the device", || {
        found |= strayed(tun) > 0;
        found
    });
    found
}

fn a_listener_with_a_mark_of_its_own_is_answered() {
    for (host, far, wildcard) in BOTH {
        let net = Net::new();
        let (tun, applied) = start(&net);
        let listener = net.host.run(|| {
            let socket = Socket::new(Domain::for_address(at(wildcard, PORT)), Type::STREAM, None).unwrap();
            socket.set_mark(7).unwrap();
            socket.bind(&at(wildcard, PORT).into()).unwrap();
            socket.listen(8).unwrap();
            TcpListener::from(socket)
        });
        let mut client = net.world.run(|| connect(far, at(host, PORT)).unwrap());
        let (mut session, _) = listener.accept().unwrap();
        talk(&mut session, &mut client);
        assert_eq!(strayed(&tun), 0);
        stop(&net, applied);
    }
}

fn a_server_that_is_asked_at_another_port_is_answered() {
    for (host, far, wildcard) in BOTH {
        let net = Net::new();
        let (tun, applied) = start(&net);
        net.host.run(|| {
            nft("add table inet foreign; \
                 add chain inet foreign in { type nat hook prerouting priority dstnat; }; \
                 add rule inet foreign in tcp dport 9000-9100 redirect to :4433; \
                 add rule inet foreign in udp dport 9000-9100 redirect to :4433");
        });
        let listener = net.host.run(|| TcpListener::bind((wildcard, PORT)).unwrap());
        let mut client = net.world.run(|| connect(far, at(host, 9050)).unwrap());
        let (mut session, _) = listener.accept().unwrap();
        talk(&mut session, &mut client);
        let server = net.host.run(|| UdpSocket::bind((wildcard, PORT)).unwrap());
        let client = net.world.run(|| asker(far, at(host, 9050)));
        client.send(b"ping").unwrap();
        answer(&server);
        client.recv(&mut [0; 16]).unwrap();
        assert_eq!(strayed(&tun), 0);
        stop(&net, applied);
    }
}

/// A reset, an ICMP error, an echo.
fn what_the_kernel_answers_leaves_as_it_came() {
    let net = Net::new();
    let (tun, applied) = start(&net);
    for (host, far, _) in BOTH {
        net.world.run(|| {
            let refused = connect(far, at(host, 9)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let client = asker(far, at(host, 9));
            client.send(b"ping").unwrap();
            let refused = client.recv(&mut [0; 16]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let (protocol, kind) = match host.parse().unwrap() {
                IpAddr::V4(_) => (Protocol::ICMPV4, 8),
                IpAddr::V6(_) => (Protocol::ICMPV6, 128),
            };
            let echo = Socket::new(Domain::for_address(at(host, 0)), Type::RAW, Some(protocol)).unwrap();
            echo.bind(&at(far, 0).into()).unwrap();
            echo.set_read_timeout(Some(SOON)).unwrap();
            // RFC 792 and RFC 4443 section 4.1; IPv6's checksum is the kernel's to fill in.
            let checksum = if protocol == Protocol::ICMPV4 { [0xf7, 0xff] } else { [0, 0] };
            echo.send_to(&[kind, 0, checksum[0], checksum[1], 0, 0, 0, 0], &at(host, 0).into()).unwrap();
            let mut stream = std::io::BufReader::with_capacity(2048, &echo);
            let mut buffer = [0; 64];
            // An own request is told to raw sockets too where both ends are of one host; here they are not.
            let n = stream.read(&mut buffer).unwrap();
            let reply = if protocol == Protocol::ICMPV4 { buffer[20] } else { buffer[0] };
            assert_eq!((reply, n > 0), (if kind == 8 { 0 } else { 129 }, true));
        });
    }
    assert_eq!(strayed(&tun), 0);
    stop(&net, applied);
}

/// A SYN cookie leaves nothing behind: the socket is made when the third segment comes.
fn cookies_are_answered() {
    for (host, far, wildcard) in BOTH {
        let net = Net::new();
        net.host.run(|| set("net/ipv4/tcp_syncookies", "2"));
        let (tun, applied) = start(&net);
        let listener = net.host.run(|| TcpListener::bind((wildcard, PORT)).unwrap());
        let mut client = net.world.run(|| connect(far, at(host, PORT)).unwrap());
        let (mut session, _) = listener.accept().unwrap();
        talk(&mut session, &mut client);
        assert_eq!(strayed(&tun), 0);
        stop(&net, applied);
    }
}

fn other_protocols_are_answered() {
    /// For experiments (RFC 3692 section 2.1).
    const EXPERIMENT: i32 = 253;
    for (host, far, other) in [(HOST4, FAR4, "203.0.113.10"), (HOST6, FAR6, "2001:db8:ffff::a")] {
        let net = Net::new();
        net.world.run(|| {
            Wire::open().address("lo", &format!("{other}/{}", if other.contains(':') { 128 } else { 32 }))
        });
        let (tun, applied) = start(&net);
        let raw = |own: &str| {
            let domain = Domain::for_address(at(own, 0));
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(EXPERIMENT))).unwrap();
            socket.bind(&at(own, 0).into()).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            socket
        };
        let server = net.host.run(|| raw(host));
        let client = net.world.run(|| raw(far));
        let hear = |socket: &Socket| {
            let mut buffer = [0; 64];
            let n = (&*socket).read(&mut buffer).unwrap();
            assert!(buffer[..n].ends_with(b"hello"));
        };
        let to = |ip| SockAddr::from(at(ip, 0));
        client.send_to(b"hello", &to(host)).unwrap();
        hear(&server);
        server.send_to(b"hello", &to(far)).unwrap();
        hear(&client);
        assert_eq!(strayed(&tun), 0);
        // Who was not heard of is captured, and goes on to be when something comes from there.
        let elsewhere = to(other);
        for _ in 0..2 {
            server.send_to(b"hello", &elsewhere).unwrap();
            until("it is in the device", || strayed(&tun) > 0);
            net.world.run(|| raw(other)).send_to(b"hello", &to(host)).unwrap();
            hear(&server);
        }
        stop(&net, applied);
    }
}

/// One socket is a server for one and a client of others.
fn who_has_asked_is_answered_and_nobody_else() {
    for (host, far, wildcard) in BOTH {
        let net = Net::new();
        let (tun, applied) = start(&net);
        let socket = net.host.run(|| UdpSocket::bind((wildcard, PORT)).unwrap());
        let (asking, silent) = net.world.run(|| (asker(far, at(host, PORT)), asker(far, at(host, PORT))));
        asking.send(b"ping").unwrap();
        let from = answer(&socket);
        assert_eq!(from, asking.local_addr().unwrap());
        asking.recv(&mut [0; 16]).unwrap();
        assert_eq!(strayed(&tun), 0);
        socket.send_to(b"ping", silent.local_addr().unwrap()).unwrap();
        until("it is in the device", || strayed(&tun) > 0);
        // Another socket that speaks to the one who asked is nobody's server.
        let other = net.host.run(|| UdpSocket::bind((wildcard, 0)).unwrap());
        other.send_to(b"ping", from).unwrap();
        until("so is that", || strayed(&tun) > 0);
        stop(&net, applied);
    }
}

/// A program's conversation is older than the capture, and the other end goes on sending to where it was.
fn who_was_asked_first_is_captured() {
    for (_, far, wildcard) in BOTH {
        let net = Net::new();
        let server = net.world.run(|| UdpSocket::bind((far, PORT)).unwrap());
        let client = net.host.run(|| UdpSocket::bind((wildcard, 0)).unwrap());
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send_to(b"ping", at(far, PORT)).unwrap();
        let from = answer(&server);
        client.recv(&mut [0; 16]).unwrap();
        let (tun, applied) = start(&net);
        for _ in 0..2 {
            client.send_to(b"ping", at(far, PORT)).unwrap();
            until("it is in the device", || strayed(&tun) > 0);
            server.send_to(b"more", from).unwrap();
            client.recv(&mut [0; 16]).unwrap();
        }
        stop(&net, applied);
    }
}

/// The same, and the other end speaks first when the capture has begun: then only a connected socket tells.
fn who_was_asked_before_is_captured() {
    for (own, far, wildcard) in BOTH {
        let net = Net::new();
        let server = net.world.run(|| UdpSocket::bind((far, PORT)).unwrap());
        let client = net.host.run(|| UdpSocket::bind((wildcard, 0)).unwrap());
        client.connect(at(far, PORT)).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        // A server's socket for one that asked, beside the one that was asked.
        let reusing = |to: Option<SocketAddr>| {
            let socket = Socket::new(Domain::for_address(at(own, 0)), Type::DGRAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&at(wildcard, PORT).into()).unwrap();
            if let Some(to) = to {
                socket.connect(&to.into()).unwrap();
            }
            UdpSocket::from(socket)
        };
        let asking = net.world.run(|| asker(far, at(own, PORT)));
        let _open = net.host.run(|| reusing(None));
        let serving = net.host.run(|| reusing(asking.local_addr().ok()));
        client.send(b"ping").unwrap();
        let from = answer(&server);
        client.recv(&mut [0; 16]).unwrap();
        let (tun, applied) = start(&net);
        server.send_to(b"more", from).unwrap();
        client.recv(&mut [0; 16]).unwrap();
        client.send(b"ping").unwrap();
        until("it is in the device", || strayed(&tun) > 0);
        asking.send(b"ping").unwrap();
        answer(&serving);
        asking.recv(&mut [0; 16]).unwrap();
        assert_eq!(strayed(&tun), 0);
        stop(&net, applied);
    }
}

fn a_host_that_steers_by_marks_is_tracked() {
    let net = Net::new();
    net.host.run(|| {
        let plain = Snapshot::take().unwrap();
        let of = |host: &Snapshot| memory(&plan(&Request::default(), host).unwrap());
        assert_eq!(of(&plain), Memory::Sockets);
        let mut steered = plain.clone();
        steered.rules.insert(
            1,
            Rule {
                fwmark: Some((Mark(1), 1)),
                action: RuleAction::Lookup(Table(100)),
                ..Rule::lookup(Family::V4, Priority(100), Table(100))
            },
        );
        assert_eq!(of(&steered), Memory::Tracking);
    });
}

fn a_switch_that_was_on_stays_on() {
    let net = Net::new();
    let path = "net/ipv4/tcp_fwmark_accept";
    net.host.run(|| set(path, "1"));
    let (_tun, applied) = start(&net);
    stop(&net, applied);
    let now = net.host.run(|| Snapshot::take().unwrap());
    assert_eq!(now.sysctls[path], "1");
    assert_eq!(now.sysctls["net/ipv4/fwmark_reflect"], "0");
}

/// It bears the mark of what came in when it was accepted, and is connected to somebody else later.
fn what_an_accepted_socket_begins_is_captured() {
    #[derive(Debug, PartialEq)]
    enum End {
        Captured,
        Refused,
        Arrived,
    }
    // Root is another user than whose connections may have the mark, and then that user. Strictly, what is about to leave by
    // an uplink without it is refused.
    let others = [(false, 1, End::Captured), (true, 1, End::Refused)];
    for (strict, user, expected) in others.into_iter().chain([false, true].map(|s| (s, 0, End::Arrived))) {
        for (host, far, wildcard) in BOTH {
            let net = Net::new();
            let request = Request { user: Some(user), strict, ..Request::default() };
            let (tun, applied) = net.host.run(|| capture(&planned(&request), net.journal()));
            let listener = net.host.run(|| TcpListener::bind((wildcard, PORT)).unwrap());
            let client = net.world.run(|| connect(far, at(host, PORT)).unwrap());
            let (session, _) = listener.accept().unwrap();
            let server = net.world.run(|| TcpListener::bind((far, PORT)).unwrap());
            server.set_nonblocking(true).unwrap();
            rustix::net::connect_unspec(&session).unwrap();
            drop(client);
            let session = Socket::from(session);
            session.set_nonblocking(true).unwrap();
            let begun = session.connect(&at(far, PORT).into()).unwrap_err();
            let mut refused = begun.raw_os_error() != Some(libc::EINPROGRESS);
            let mut end = None;
            until("it is captured, refused, or arrives", || {
                refused |= session.take_error().unwrap().is_some();
                end = match () {
                    () if strayed(&tun) > 0 => Some(End::Captured),
                    () if refused => Some(End::Refused),
                    () if server.accept().is_ok() => Some(End::Arrived),
                    () => None,
                };
                end.is_some()
            });
            assert_eq!(end.as_ref(), Some(&expected), "{request:?} {far}");
            stop(&net, applied);
        }
    }
}
