//! The facts about Linux that the plan rests on, each by its number.
#![allow(clippy::disallowed_methods, reason = "the facts are about plain sockets, not about egress")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use oneway_route::{
    IfIndex, Mark, NftSupport, Protect, Request, RouteKind, RouteQuery, Snapshot, no_hook, plan, query,
    recover,
};
use socket2::{Domain, Socket, Type};

use crate::host::{FAR4, FAR6, HOST4, HOST6, Net, Tun, capture, planned, set, until};
use crate::wire::Wire;

crate::trials!(
    k1_bound_to_a_device_loopback_leaves_on_the_wire,
    k2_bound_without_a_route_is_on_link,
    k3_a_mark_alone_leads_into_the_tuns_own_network,
    k5_strict_rp_filter_passes_replies_to_marked_sockets,
    k5_strict_rp_filter_passes_replies_to_bound_sockets,
    k6_without_nftables_inbound_connections_break,
    k8_inbound_tcp_and_udp_keep_working,
    k8_an_established_session_survives_start_and_stop,
    k8_programs_bound_to_the_hosts_address_are_captured,
    k9_left_over_rules_are_harmless,
    k12_a_marked_dial_follows_the_other_uplink,
    a_removed_uplink_address_does_not_end_the_capture,
    forwarded_traffic_is_captured_only_when_wanted,
);

/// How long something that must not arrive is waited for.
const SILENCE: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(5);
const PORT: u16 = 4433;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn eth(name: &str) -> IfIndex {
    Snapshot::take().unwrap().link(name).unwrap().index
}

fn tcp(to: IpAddr, set_up: impl FnOnce(&Socket)) -> std::io::Result<TcpStream> {
    tcp_to(SocketAddr::new(to, PORT), set_up)
}

fn tcp_to(to: SocketAddr, set_up: impl FnOnce(&Socket)) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    set_up(&socket);
    socket.connect_timeout(&to.into(), SILENCE * 3)?;
    Ok(socket.into())
}

/// A server in the thread's namespace that echoes one connection after the other.
fn echo(on: &str) -> TcpListener {
    let listener = TcpListener::bind((on, PORT)).unwrap();
    let accepting = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = accepting.accept() {
            std::thread::spawn(move || serve(stream));
        }
    });
    listener
}

/// Echoes until the other side ends.
fn serve(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
}

fn works(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"ping"
}

fn sent(dev: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find(|l| l.trim_start().starts_with(&format!("{dev}:"))).unwrap();
    line.split_once(':').unwrap().1.split_whitespace().nth(9).unwrap().parse().unwrap()
}

fn k1_bound_to_a_device_loopback_leaves_on_the_wire() {
    let net = Net::new();
    net.host.run(|| {
        let _server = echo("127.0.0.1");
        let before = sent("eth0");
        let outcome = tcp(address("127.0.0.1"), |s| s.bind_device(Some(b"eth0")).unwrap());
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(sent("eth0") > before, "on the wire");
    });
}

fn k2_bound_without_a_route_is_on_link() {
    let net = Net::new();
    net.host.run(|| {
        let wire = Wire::open();
        wire.veth("eth9", "far9");
        wire.up("far9");
        wire.up("eth9");
        wire.address("eth9", "10.9.0.2/24");
        let answer = query(&RouteQuery::to(address(FAR4)).bound(eth("eth9"))).unwrap();
        assert_eq!(
            (answer.oif_name.as_str(), answer.gateway, answer.kind),
            ("eth9", None, RouteKind::Unicast)
        );
    });
}

fn k3_a_mark_alone_leads_into_the_tuns_own_network() {
    let net = Net::new();
    net.host.run(|| {
        let plan = planned(&Request::default());
        let (_tun, applied) = capture(&plan, net.journal());
        for net in &plan.tun_addresses {
            let peer = net.hosts().find(|a| *a > net.addr()).unwrap();
            let marked = query(&RouteQuery::to(peer).marked(plan.mark.unwrap())).unwrap();
            assert_eq!(marked.oif_name, plan.tun_name);
            // The proof says so.
            let error = oneway_route::prove_rules(&plan, &[peer]).unwrap_err();
            assert!(error.to_string().contains("a packet of our own"), "{error}");
        }
        applied.undo(&mut no_hook).unwrap();
    });
}

fn strict() {
    for dev in ["all", "default", "eth0", "eth1"] {
        set(&format!("net/ipv4/conf/{dev}/rp_filter"), "1");
    }
}

fn k5_strict_rp_filter_passes_replies_to_marked_sockets() {
    let net = Net::new();
    let servers = net.world.run(|| [echo(FAR4), TcpListener::bind((FAR6, PORT)).unwrap()]);
    net.host.run(|| {
        strict();
        let host = Snapshot::take().unwrap();
        let plan = plan(&Request::default(), &host).unwrap();
        let Mark(bit) = plan.mark.unwrap();
        let (tun, applied) = capture(&plan, net.journal());
        let mut stream = tcp(address(FAR4), |s| s.set_mark(bit).unwrap()).unwrap();
        assert!(works(&mut stream));
        tcp(address(FAR6), |s| s.set_mark(bit).unwrap()).unwrap();
        applied.undo(&mut no_hook).unwrap();
        drop(tun);

        // Without the restored mark the replies are dropped.
        let without = Snapshot { nft: NftSupport::Missing, ..host };
        let plan = oneway_route::plan(&Request::default(), &without).unwrap();
        assert!(plan.notes.iter().any(|n| n.contains("rp_filter is strict")), "{:?}", plan.notes);
        let (_tun, applied) = capture(&plan, net.journal());
        set("net/ipv4/conf/all/src_valid_mark", "1");
        let outcome = tcp(address(FAR4), |s| s.set_mark(bit).unwrap());
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
        applied.undo(&mut no_hook).unwrap();
    });
    drop(servers);
}

fn k5_strict_rp_filter_passes_replies_to_bound_sockets() {
    let net = Net::new();
    let _server = net.world.run(|| echo(FAR4));
    net.host.run(|| {
        strict();
        let request = Request { protect: Protect::Bind, ..Request::default() };
        let plan = planned(&request);
        let (_tun, applied) = capture(&plan, net.journal());
        let mut stream = tcp(address(FAR4), |s| s.bind_device(Some(b"eth0")).unwrap()).unwrap();
        assert!(works(&mut stream));
        applied.undo(&mut no_hook).unwrap();
    });
}

/// One connection and one datagram from the world to a server on the wildcard address.
fn inbound(net: &Net, host: &str, wildcard: &str, nth: u16) -> (bool, bool) {
    let port = PORT + nth;
    let udp = net.host.run(|| UdpSocket::bind((wildcard, port)).unwrap());
    let server = net.host.run(|| TcpListener::bind((wildcard, port)).unwrap());
    std::thread::spawn(move || server.accept().map(|(stream, _)| serve(stream)));
    net.world.run(|| {
        let far = if wildcard == "::" { FAR6 } else { FAR4 };
        let stream = tcp_to(SocketAddr::new(address(host), port), |s| {
            s.bind(&SocketAddr::new(address(far), 0).into()).unwrap()
        });
        let tcp = stream.is_ok_and(|mut stream| works(&mut stream));
        let client = UdpSocket::bind((far, 0)).unwrap();
        client.connect((host, port)).unwrap();
        client.send(b"ping").unwrap();
        let mut buffer = [0; 16];
        udp.set_read_timeout(Some(SOON)).unwrap();
        let (n, from) = udp.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{host}: {e}, tcp {tcp}"));
        udp.send_to(&buffer[..n], from).unwrap();
        client.set_read_timeout(Some(SILENCE * 3)).unwrap();
        (tcp, client.recv(&mut buffer).is_ok())
    })
}

fn k6_without_nftables_inbound_connections_break() {
    let net = Net::new();
    let applied = net.host.run(|| {
        let host = Snapshot { nft: NftSupport::Missing, ..Snapshot::take().unwrap() };
        capture(&plan(&Request::default(), &host).unwrap(), net.journal())
    });
    assert_eq!(inbound(&net, HOST4, "0.0.0.0", 1), (false, false));
    assert_eq!(inbound(&net, HOST6, "::", 2), (false, false));
    net.host.run(|| applied.1.undo(&mut no_hook).unwrap());
    assert_eq!(inbound(&net, HOST4, "0.0.0.0", 3), (true, true));
}

fn k8_inbound_tcp_and_udp_keep_working() {
    for (rp_filter, request) in [
        ("0", Request::default()),
        ("1", Request::default()),
        ("1", Request { forwarded: true, ..Request::default() }),
        ("0", Request { protect: Protect::Bind, interface: Some("eth0".into()), ..Request::default() }),
    ] {
        let net = Net::new();
        let (tun, applied) = net.host.run(|| {
            for dev in ["all", "eth0", "eth1"] {
                set(&format!("net/ipv4/conf/{dev}/rp_filter"), rp_filter);
            }
            capture(&planned(&request), net.journal())
        });
        assert_eq!(inbound(&net, HOST4, "0.0.0.0", 1), (true, true), "{rp_filter} {request:?}");
        assert_eq!(inbound(&net, HOST6, "::", 2), (true, true), "{rp_filter} {request:?}");
        let strayed = tun
            .packets()
            .into_iter()
            .filter(|p| matches!(p[0] >> 4, 4) || p.get(6) != Some(&58) && p.get(6) != Some(&0));
        assert_eq!(strayed.count(), 0, "no answer went into the device");
        net.host.run(|| applied.undo(&mut no_hook).unwrap());
    }
}

/// An SSH session: begun by the world before we start, and the host speaks first afterwards.
fn k8_an_established_session_survives_start_and_stop() {
    for tracked in [true, false] {
        let net = Net::new();
        let server = net.host.run(|| {
            if tracked {
                // A firewall that tracks connections has seen this one begin.
                track();
            }
            TcpListener::bind(("0.0.0.0", PORT)).unwrap()
        });
        let mut client = net.world.run(|| {
            tcp(address(HOST4), |s| s.bind(&SocketAddr::new(address(FAR4), 0).into()).unwrap()).unwrap()
        });
        let (mut session, _) = server.accept().unwrap();
        let (_tun, applied) = net.host.run(|| capture(&planned(&Request::default()), net.journal()));
        client.set_read_timeout(Some(SOON)).unwrap();
        let mut buffer = [0; 8];
        session.write_all(b"prompt").unwrap();
        client.read_exact(&mut buffer[..6]).unwrap_or_else(|e| panic!("tracked {tracked}: {e}"));
        client.write_all(b"exit").unwrap();
        session.read_exact(&mut buffer[..4]).unwrap();
        net.host.run(|| applied.undo(&mut no_hook).unwrap());
        session.write_all(b"bye").unwrap();
        client.read_exact(&mut buffer[..3]).unwrap();
    }
}

#[allow(clippy::disallowed_methods, reason = "a foreign firewall is set up as its user would")]
fn track() {
    let rules = "add table inet foreign; add chain inet foreign in { type filter hook input priority 0; }; \
                 add rule inet foreign in ct state established accept";
    let status = std::process::Command::new("nft").arg(rules).status().unwrap();
    assert!(status.success());
}

fn k8_programs_bound_to_the_hosts_address_are_captured() {
    let net = Net::new();
    net.host.run(|| {
        let plan = planned(&Request::default());
        let (tun, _applied) = capture(&plan, net.journal());
        for (own, far) in [(HOST4, FAR4), (HOST6, FAR6)] {
            let asked = RouteQuery { src: Some(address(own)), ..RouteQuery::to(address(far)) };
            assert_eq!(query(&asked).unwrap().oif_name, plan.tun_name);
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.send_to(b"captured", (far, PORT)).unwrap();
            until("the datagram is in the device", || tun.packets().iter().any(|p| p.ends_with(b"captured")));
        }
    });
}

fn k9_left_over_rules_are_harmless() {
    let net = Net::new();
    net.host.run(|| {
        let before = Snapshot::take().unwrap();
        let plan = planned(&Request::default());
        let (tun, applied) = capture(&plan, net.journal());
        let far = [FAR4, FAR6].map(address);
        for far in far {
            assert_eq!(query(&RouteQuery::to(far)).unwrap().oif_name, plan.tun_name);
        }
        // As SIGKILL does: the device is closed, the rules stay.
        drop((tun, applied));
        assert!(Snapshot::take().unwrap().link(&plan.tun_name).is_none());
        for far in far {
            assert_eq!(query(&RouteQuery::to(far)).unwrap().oif_name, "eth0", "plain connectivity");
        }
        assert!(Snapshot::take().unwrap().rules.len() > before.rules.len());
        recover(&net.journal()).unwrap();
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
    });
}

fn k12_a_marked_dial_follows_the_other_uplink() {
    let net = Net::new();
    net.host.run(|| {
        let plan = planned(&Request::default());
        let (_tun, _applied) = capture(&plan, net.journal());
        let (bit, eth0) = (plan.mark.unwrap(), eth("eth0"));
        for far in [FAR4, FAR6].map(address) {
            assert_eq!(query(&RouteQuery::to(far).marked(bit)).unwrap().oif_name, "eth0");
        }
        Wire::open().down("eth0");
        for far in [FAR4, FAR6].map(address) {
            assert_eq!(query(&RouteQuery::to(far).marked(bit)).unwrap().oif_name, "eth1");
            let bound = query(&RouteQuery::to(far).bound(eth0)).unwrap();
            assert_eq!(bound.kind, RouteKind::Unreachable);
        }
    });
}

/// Removing an address removes the IPv4 routes that prefer it as their source.
fn a_removed_uplink_address_does_not_end_the_capture() {
    let net = Net::new();
    net.host.run(|| {
        let plan = planned(&Request::default());
        let (_tun, applied) = capture(&plan, net.journal());
        // Taking the link down keeps addresses; another namespace's device takes them along.
        Wire::open().move_to("eth0", net.world.handle());
        for far in [FAR4, FAR6].map(address) {
            assert_eq!(query(&RouteQuery::to(far)).unwrap().oif_name, plan.tun_name);
            assert_eq!(query(&RouteQuery::to(far).marked(plan.mark.unwrap())).unwrap().oif_name, "eth1");
        }
        applied.undo(&mut no_hook).unwrap();
    });
}

/// K13, by packets of a client on a LAN behind the host.
fn forwarded_traffic_is_captured_only_when_wanted() {
    for forwarded in [false, true] {
        let net = Net::new();
        let lan = crate::namespace::Namespace::new();
        net.host.run(|| {
            let wire = Wire::open();
            wire.veth("lan0", "client0");
            wire.move_to("client0", lan.handle());
            wire.up("lan0");
            wire.address("lan0", "10.7.0.1/24");
            set("net/ipv4/ip_forward", "1");
            for dev in ["all", "lan0", "eth0"] {
                set(&format!("net/ipv4/conf/{dev}/rp_filter"), "0");
            }
        });
        lan.run(|| {
            let wire = Wire::open();
            wire.up("client0");
            wire.address("client0", "10.7.0.2/24");
            wire.route("0.0.0.0/0", Some("10.7.0.1"), "client0", 0, 254, 4);
        });
        let (tun, applied) =
            net.host.run(|| capture(&planned(&Request { forwarded, ..Request::default() }), net.journal()));
        let far = net.world.run(|| UdpSocket::bind((FAR4, PORT)).unwrap());
        let client = lan.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            far.set_read_timeout(Some(SOON)).unwrap();
            let _ = tell.send(far.recv(&mut [0; 64]).is_ok());
        });
        client.send_to(b"from the lan", (FAR4, PORT)).unwrap();
        let captured = || tun.packets().iter().any(|p| p.ends_with(b"from the lan"));
        if forwarded {
            until("the client's datagram is in the device", captured);
        } else {
            assert!(told.recv().unwrap(), "forwarded as ever");
            assert!(!captured());
        }
        net.host.run(|| applied.undo(&mut no_hook).unwrap());
    }
    // The device must not feed itself.
    let net = Net::new();
    net.host.run(|| {
        let plan = planned(&Request { forwarded: true, ..Request::default() });
        let (_tun, _applied): (Tun, _) = capture(&plan, net.journal());
        assert!(plan.text().contains(&format!("iif {} goto", plan.tun_name)));
    });
}
