//! Routing, trouble, and clearing up.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::client::{Outcome, Ping, wait_until};
use oneway_lab::harness::TestResult;
use oneway_lab::servers::Origin;
use oneway_lab::servers::origin::{Network, port};
use oneway_lab::topology::{Pair, Standard, address};
use oneway_lab::{Entered, NetNs, Route, Rule, Topology};

const SECOND: Duration = Duration::from_secs(1);

fn source_seen(
    origin: &Origin,
    host: &oneway_lab::client::Client,
    to: SocketAddr,
) -> Result<IpAddr, oneway_lab::LabError> {
    let answer = host.udp(to, b"?", SECOND)?;
    assert_eq!(answer.outcome, Outcome::Done, "no answer from {to}");
    let text = String::from_utf8_lossy(&answer.data).trim().to_owned();
    let seen: SocketAddr = text.parse().expect("an address and port");
    assert!(origin.clients(Network::Udp, to.port()).contains(&seen));
    Ok(seen.ip())
}

pub fn standard_reaches_origin_by_the_first_uplink() -> TestResult {
    let lab = Topology::standard()?;
    for (to, from) in address::ORIGIN.ports(port::CLIENT).into_iter().zip(address::HOST_UP1.both()) {
        assert_eq!(source_seen(&lab.origin, &lab.host.client(), to)?, from);
    }
    // The far side reaches the host on both uplinks.
    for to in [address::HOST_UP1, address::HOST_UP2].into_iter().flat_map(Pair::both) {
        assert!(matches!(lab.net.client().ping(to, SECOND)?, Ping::Reply { from, .. } if from == to), "{to}");
    }
    Ok(())
}

pub fn second_uplink_takes_over_and_the_first_comes_back() -> TestResult {
    let lab = Topology::standard()?;
    let expect = |pair: Pair| -> TestResult {
        for (to, from) in address::ORIGIN.ports(port::CLIENT).into_iter().zip(pair.both()) {
            assert_eq!(source_seen(&lab.origin, &lab.host.client(), to)?, from);
        }
        Ok(())
    };
    lab.host.down(Standard::UP1)?;
    expect(address::HOST_UP2)?;
    lab.restore_uplink(Standard::UP1)?;
    expect(address::HOST_UP1)?;
    lab.host.delete_link(Standard::UP1)?;
    expect(address::HOST_UP2)?;
    lab.recreate_uplink(Standard::UP1)?;
    expect(address::HOST_UP1)
}

pub fn container_reaches_origin() -> TestResult {
    let lab = Topology::standard()?;
    for (to, from) in address::ORIGIN.ports(port::CLIENT).into_iter().zip(address::CONTAINER.both()) {
        assert_eq!(source_seen(&lab.origin, &lab.container.client(), to)?, from);
    }
    Ok(())
}

pub fn container_behind_nat_and_its_published_port() -> TestResult {
    let lab = Topology::standard()?;
    lab.masquerade_container()?;
    lab.publish_container_port(port::HTTP)?;
    let (container, net) = (lab.container.client(), lab.net.client());
    for (to, from) in address::ORIGIN.ports(port::CLIENT).into_iter().zip(address::HOST_UP1.both()) {
        assert_eq!(source_seen(&lab.origin, &container, to)?, from);
    }
    let inside = Origin::start(&lab.container, &address::CONTAINER.both())?;
    for to in address::HOST_UP1.ports(port::HTTP) {
        let reply = net.http_get(to, "/client", SECOND)?;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(inside.tcp_connections(), 2);
    assert_eq!(lab.host.sysctl("ipv4/ip_forward")?, "1");
    Ok(())
}

pub fn trouble_is_what_it_says() -> TestResult {
    let lab = Topology::standard()?;
    let host = lab.host.client();
    let wire = Recorder::start(&lab.host, None)?;
    let short = Duration::from_millis(400);
    for to in address::BLACK_HOLE.ports(80) {
        assert_eq!(host.tcp(to, short)?.outcome, Outcome::TimedOut, "{to}");
        assert_eq!(host.udp(to, b"?", short)?.outcome, Outcome::TimedOut, "{to}");
        assert_eq!(host.ping(to.ip(), short)?, Ping::Silent);
    }
    assert_eq!(wire.count(|p| p.is_icmp() && p.dst == address::HOST_UP1.v4)?, 0);
    for (pair, v4, v6) in [
        (address::HOST_UNREACHABLE, (Outcome::HostUnreachable, 1), (Outcome::HostUnreachable, 3)),
        (address::NET_UNREACHABLE, (Outcome::NetUnreachable, 0), (Outcome::NetUnreachable, 0)),
        (address::PROHIBITED, (Outcome::HostUnreachable, 13), (Outcome::Prohibited, 1)),
    ] {
        for (to, (outcome, wanted)) in pair.ports(80).into_iter().zip([v4, v6]) {
            let dial = host.tcp(to, SECOND)?;
            assert_eq!(dial.outcome, outcome, "{to}");
            assert!(dial.took < SECOND / 4, "{:?} to {to}", dial.took);
            let kind = if to.is_ipv4() { 3 } else { 1 };
            let router = if to.is_ipv4() {
                address::TROUBLE_ROUTER.v4.into()
            } else {
                IpAddr::from(address::TROUBLE_ROUTER.v6)
            };
            let ping = host.ping(to.ip(), SECOND)?;
            assert!(
                matches!(ping, Ping::Error { from, kind: k, code, .. } if (from, k, code) == (router, kind, wanted)),
                "{ping:?}"
            );
            // Every error comes, not one a second.
            for _ in 0..20 {
                assert_eq!(host.udp(to, b"?", SECOND)?.outcome, outcome, "{to}");
            }
        }
    }
    for to in address::ORIGIN.ports(81) {
        let dial = host.tcp(to, SECOND)?;
        assert_eq!(dial.outcome, Outcome::Refused, "{to}");
        for _ in 0..20 {
            assert_eq!(host.udp(to, b"?", SECOND)?.outcome, Outcome::Refused, "{to}");
        }
    }
    Ok(())
}

pub fn simple_has_the_same_trouble() -> TestResult {
    let lab = Topology::simple()?;
    let short = Duration::from_millis(300);
    // Also for programs on the far side itself, as the proxies are.
    for client in [lab.host.client(), lab.net.client()] {
        for to in address::BLACK_HOLE.ports(80) {
            assert_eq!(client.tcp(to, short)?.outcome, Outcome::TimedOut, "{to}");
        }
        for to in address::HOST_UNREACHABLE.ports(80) {
            assert_eq!(client.tcp(to, SECOND)?.outcome, Outcome::HostUnreachable);
        }
        for to in address::NET_UNREACHABLE.ports(80) {
            assert_eq!(client.tcp(to, SECOND)?.outcome, Outcome::NetUnreachable);
        }
    }
    for to in address::ORIGIN.ports(port::ECHO) {
        assert_eq!(lab.host.client().udp(to, b"x", SECOND)?.data, b"x");
    }
    Ok(())
}

pub fn source_rules_send_replies_by_their_uplink() -> TestResult {
    let lab = Topology::standard()?;
    let _host = Origin::start(&lab.host, &[address::HOST_UP1, address::HOST_UP2].map(Pair::both).concat())?;
    let wire = Recorder::start(&lab.host, None)?;
    let up2 = |p: &Packet| p.device == Standard::UP2 && p.ports.0 == port::CLIENT;
    let ask = |to: Pair| -> TestResult {
        for to in to.ports(port::CLIENT) {
            // From an address that no route of the host names, so that the default route decides.
            let client = lab.net.client().source(if to.is_ipv4() {
                address::SPARE.v4.into()
            } else {
                address::SPARE.v6.into()
            });
            assert_eq!(client.udp(to, b"?", SECOND)?.outcome, Outcome::Done);
        }
        Ok(())
    };
    ask(address::HOST_UP2)?;
    assert_eq!(wire.count(up2)?, 0, "without the rules the reply leaves by the first uplink");
    lab.add_source_rules()?;
    ask(address::HOST_UP2)?;
    assert_eq!(wire.count(up2)?, 2);
    Ok(())
}

pub fn namespaces_vanish() -> TestResult {
    let near = NetNs::new("near")?;
    {
        let far = NetNs::new("far")?;
        near.veth("v0", &far, "v1")?;
        assert!(near.path().exists());
        assert_eq!(near.link("v0")?.name, "v0");
    }
    // The kernel takes a dead namespace apart in the background.
    wait_until(Duration::from_secs(10), "the device went with its peer's namespace", || {
        near.link("v0").is_err()
    })?;
    Ok(())
}

pub fn rules_and_routes_are_flushed_by_protocol() -> TestResult {
    let lab = Topology::simple()?;
    let before = oneway_lab::Snapshot::take(&lab.host)?;
    let rule = |protocol| Rule {
        priority: 1000 + u32::from(protocol),
        mark: Some((0x10, 0x30)),
        table: 5000,
        protocol: Some(protocol),
        iif: Some("lo".to_owned()),
        ..Rule::default()
    };
    let route = |protocol| -> Result<Route, ipnet::AddrParseError> {
        let route = Route::to("192.0.2.200/32".parse()?).dev("up1").table(5000 + u32::from(protocol));
        Ok(route.protocol(protocol))
    };
    for protocol in [162, 163] {
        lab.host.add_rule(&rule(protocol))?;
        lab.host.add_rule(&Rule { ipv6: true, ..rule(protocol) })?;
        lab.host.add_route(&route(protocol)?)?;
    }
    assert_eq!((lab.host.flush_rules(99)?, lab.host.flush_routes(99)?), (0, 0));
    assert_eq!((lab.host.flush_rules(162)?, lab.host.flush_routes(162)?), (2, 1));
    lab.host.delete_rule(&rule(163))?;
    lab.host.delete_rule(&Rule { ipv6: true, ..rule(163) })?;
    lab.host.delete_route(&route(163)?)?;
    before.expect_same(&lab.host)?;

    // What another VPN sets up.
    let suppress = Rule { priority: 900, table: 254, suppress_prefixlength: Some(0), ..Rule::default() };
    let tunnel =
        Rule { priority: 901, table: 51_820, mark: Some((51_820, !0)), invert: true, ..Rule::default() };
    lab.host.add_rule(&suppress)?;
    lab.host.add_rule(&tunnel)?;
    let after = oneway_lab::Snapshot::take(&lab.host)?;
    let diff = before.diff(&after);
    assert!(diff.contains("suppress-prefixlength 0") && diff.contains("mark 0xca6c"), "{diff}");
    lab.host.delete_rule(&suppress)?;
    lab.host.delete_rule(&tunnel)?;
    before.expect_same(&lab.host)?;
    assert!(lab.host.flush_routes(3)? >= 2, "the default routes");
    Ok(())
}

pub fn tun_hands_over_packets() -> TestResult {
    let here = NetNs::new("tunnelled")?;
    here.up("lo")?;
    let tun = match here.tun("lab0", false) {
        Ok(tun) => tun,
        // On some machines the device file is root's alone; a user namespace changes nothing about that.
        Err(error) if oneway_lab::entered() == Some(Entered::UserNamespace) => {
            assert!(error.to_string().contains("/dev/net/tun"), "{error}");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    here.up("lab0")?;
    here.add_address("lab0", "192.0.2.1/30".parse()?)?;
    let wire = Recorder::start(&here, Some("lab0"))?;
    here.client().udp_socket(false)?.send_to(b"hello", "192.0.2.2:9")?;
    let mut packet = [0; 2000];
    let mut file = std::fs::File::from(tun);
    let length = loop {
        // The kernel's own IPv6 messages come too.
        let length = std::io::Read::read(&mut file, &mut packet)?;
        if packet[0] >> 4 == 4 && packet[9] == 17 {
            break length;
        }
    };
    assert_eq!((length, &packet[28..33]), (33, &b"hello"[..]));
    assert_eq!(wire.count(Packet::is_udp)?, 1);
    drop((file, wire));
    wait_until(SECOND, "the device went with its descriptor", || here.link("lab0").is_err())?;
    Ok(())
}

pub fn thousands_of_connections_stay_open() -> TestResult {
    let lab = Topology::simple()?;
    // Both ends are here, so this takes twice as many descriptors.
    let held = lab.host.client().tcp_many(address::ORIGIN.v4_port(port::SILENT), 3000, SECOND)?;
    wait_until(SECOND * 10, "all were accepted", || lab.origin.open_connections() == 3000)?;
    drop(held);
    Ok(())
}
