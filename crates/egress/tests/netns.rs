//! Sockets in network namespaces that are set up as a capture sets up the host: a rule sends unmarked packets
//! into a device, and whatever arrives there has looped.
#![allow(clippy::disallowed_methods, reason = "the programs around oneway are not protected")]
#![allow(clippy::unwrap_used, reason = "what fails ends the test")]

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use oneway_egress::{
    EARS, Egress, EgressError, Finding, ForbiddenReason, HostRoute, IcmpEar, IcmpErrorKind, IcmpKind,
    KernelRoutes, Means, Namespace, Protect, SourceRule, Strategy, Transport, Uplink, UplinkPair, choose,
    next_error, recv_error,
};
use oneway_lab::capture::Recorder;
use oneway_lab::harness::{Harness, TestResult};
use oneway_lab::{NetNs, Route, Rule};
use oneway_route::{Family, IfIndex, Mark, Sources, Table};
use rustix::thread::{CapabilitySet, CapabilitySets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const BIT: Mark = Mark(0x0100_0000);
const TABLE: u32 = 4242;
const PATIENCE: Duration = Duration::from_secs(5);

const ORIGIN_V4: &str = "203.0.113.80";
const ORIGIN_V6: &str = "2001:db8:80::80";
const HOST_V4: &str = "192.0.2.2";
const HOST_V6: &str = "2001:db8:1::2";

/// A captured host, the network beyond its uplink `eth0`, and what is behind the capture's device `oneway0`.
/// `eth1` leads to a network without a router.
struct Lab {
    host: NetNs,
    world: NetNs,
    trap: Recorder,
    _behind: NetNs,
}

impl Lab {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let (host, world, behind) = (NetNs::new("host")?, NetNs::new("world")?, NetNs::new("behind")?);
        host.veth("eth0", &world, "host0")?;
        host.veth("eth1", &world, "host1")?;
        host.veth("oneway0", &behind, "trap0")?;
        for (namespace, device, addresses) in [
            (&host, "lo", vec![]),
            (&host, "eth0", vec!["192.0.2.2/24", "2001:db8:1::2/64"]),
            (&host, "eth1", vec!["198.51.100.2/24"]),
            (&host, "oneway0", vec!["10.99.0.1/24", "fd99::1/64"]),
            (&world, "lo", vec!["203.0.113.80/32", "2001:db8:80::80/128"]),
            (&world, "host0", vec!["192.0.2.1/24", "2001:db8:1::1/64"]),
            (&world, "host1", vec!["198.51.100.1/24"]),
            (&behind, "trap0", vec![]),
        ] {
            namespace.up(device)?;
            for address in addresses {
                namespace.add_address(device, address.parse()?)?;
            }
        }
        // A TUN asks nobody for link addresses.
        host.set_noarp("oneway0")?;
        host.add_route(&Route::default_by("192.0.2.1".parse()?).dev("eth0"))?;
        host.add_route(&Route::default_by("2001:db8:1::1".parse()?).dev("eth0"))?;
        for (ipv6, all) in [(false, "0.0.0.0/0"), (true, "::/0")] {
            host.add_route(&Route::to(all.parse()?).dev("oneway0").table(TABLE))?;
            let mark = Some((0, BIT.0));
            let iif = Some("lo".to_owned());
            host.add_rule(&Rule { ipv6, priority: 9000, mark, iif, table: TABLE, ..Rule::default() })?;
        }
        let trap = Recorder::start(&behind, None)?;
        Ok(Self { host, world, trap, _behind: behind })
    }

    /// Runs `work` on the host.
    fn on_host<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { timeout(PATIENCE * 4, work()).await.expect("the test to end") })
        };
        self.host.run(run).unwrap()
    }

    /// Answers each connection to this address in `namespace` with a greeting.
    fn greeter(&self, namespace: &NetNs, at: &str) -> SocketAddr {
        let at: IpAddr = at.parse().unwrap();
        let listener = namespace.run(|| TcpListener::bind((at, 0)).unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = std::io::Write::write_all(&mut stream, b"hello");
            }
        });
        addr
    }

    fn index(&self, device: &str) -> IfIndex {
        IfIndex(self.host.link_index(device).unwrap())
    }

    fn bind_to(&self, device: &str) -> Strategy {
        Strategy::Bind(self.uplink(device).into())
    }

    fn uplink(&self, device: &str) -> Uplink {
        Uplink { index: self.index(device), name: device.to_owned() }
    }

    /// Nothing that a program sends has come out of the capture's device.
    fn assert_no_loop(&self) -> TestResult {
        let looped = self.trap.matching(|packet| packet.is_traffic())?;
        if looped.is_empty() { Ok(()) } else { Err(format!("looped: {looped:?}").into()) }
    }
}

async fn greeted(egress: &Egress, at: SocketAddr) {
    let mut stream = timeout(PATIENCE, egress.connect_tcp(at)).await.expect("an answer").unwrap();
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello", "{at}");
    assert!(stream.nodelay().unwrap());
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn no_capabilities() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).unwrap();
}

/// The trap works: what is not protected falls into it.
fn unprotected_sockets_are_captured() -> TestResult {
    let lab = Lab::new()?;
    let origin = lab.greeter(&lab.world, ORIGIN_V4);
    lab.on_host(|| async {
        assert!(timeout(Duration::from_millis(200), TcpStream::connect(origin)).await.is_err());
    });
    lab.trap.wait_for(PATIENCE, "the captured SYN", |packet| packet.is_syn())?;
    Ok(())
}

fn marked_sockets_leave_by_the_uplink() -> TestResult {
    let lab = Lab::new()?;
    let origins = [lab.greeter(&lab.world, ORIGIN_V4), lab.greeter(&lab.world, ORIGIN_V6)];
    let local = lab.greeter(&lab.host, "127.0.0.1");
    let own = lab.greeter(&lab.host, HOST_V6);
    let seen = Recorder::start(&lab.world, None)?;
    lab.on_host(|| async {
        let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
        for origin in origins.into_iter().chain([local, own]) {
            greeted(&egress, origin).await;
        }
        let mapped = SocketAddr::new("::ffff:203.0.113.80".parse().unwrap(), origins[0].port());
        greeted(&egress, mapped).await;
        for (family, origin) in [(Family::V4, ORIGIN_V4), (Family::V6, ORIGIN_V6)] {
            let socket = egress.udp(family).unwrap();
            let dst = SocketAddr::new(origin.parse().unwrap(), 9);
            egress.check_datagram(dst).unwrap();
            socket.send_to(b"x", dst).await.unwrap();
            let error = timeout(PATIENCE, next_error(&socket)).await.expect("an error").unwrap();
            assert_eq!((error.dst, error.kind), (dst, IcmpErrorKind::Port));
            assert_eq!(error.payload_prefix(), b"x");
            assert!(recv_error(&socket).unwrap().is_none());
        }
        assert_eq!((egress.counters().made, egress.counters().refused), (7, 0));
    });
    assert_eq!(seen.count(|packet| packet.is_udp() && packet.ports.1 == 9)?, 2);
    lab.assert_no_loop()
}

fn bound_sockets_leave_by_the_uplink_only() -> TestResult {
    let lab = Lab::new()?;
    let origins = [lab.greeter(&lab.world, ORIGIN_V4), lab.greeter(&lab.world, ORIGIN_V6)];
    let near =
        [lab.greeter(&lab.host, "127.0.0.1"), lab.greeter(&lab.host, "::1"), lab.greeter(&lab.host, HOST_V4)];
    let other = lab.greeter(&lab.host, "198.51.100.2");
    let seen = Recorder::start(&lab.world, None)?;
    let (eth0, eth1) = (lab.bind_to("eth0"), lab.bind_to("eth1"));
    lab.on_host(|| async {
        let egress = Egress::new(eth0, Vec::new()).unwrap();
        // K1: a bound socket would put what is for this host on the wire.
        for at in origins.into_iter().chain(near).chain([other]) {
            greeted(&egress, at).await;
        }
        let on_link: SocketAddr = "192.0.2.1:9".parse().unwrap();
        egress.check_datagram(on_link).unwrap();
        egress.udp(Family::V4).unwrap().send_to(b"x", on_link).await.unwrap();
        let refused = egress.check_datagram(near[0]).unwrap_err();
        assert!(matches!(refused, EgressError::NoRoute { .. }), "{refused}");
        let relay = egress.udp_for(near[0]).unwrap();
        relay.send_to(b"x", near[0]).await.unwrap();
        let error = timeout(PATIENCE, next_error(&relay)).await.expect("an error").unwrap();
        assert_eq!(error.kind, IcmpErrorKind::Port);

        // K2: a device without a route would ask for the destination by ARP.
        egress.set_strategy(eth1).unwrap();
        let begin = Instant::now();
        for far in origins {
            let error = egress.connect_tcp(far).await.unwrap_err();
            assert!(matches!(error, EgressError::NoRoute { .. }), "{error}");
            assert!(matches!(egress.udp_for(far), Err(EgressError::NoRoute { .. })));
            assert!(matches!(egress.check_datagram(far), Err(EgressError::NoRoute { .. })));
        }
        assert!(begin.elapsed() < Duration::from_secs(1));
        greeted(&egress, near[0]).await;
        egress.check_datagram("198.51.100.1:9".parse().unwrap()).unwrap();
    });
    let loopback = seen.count(|packet| packet.src.is_loopback() || packet.dst.is_loopback())?;
    assert_eq!(loopback, 0, "loopback was seen on the wire");
    assert_eq!(seen.count(|packet| packet.device == "host1" && packet.is_traffic())?, 0);
    lab.assert_no_loop()
}

fn each_family_is_bound_to_its_own() -> TestResult {
    let lab = Lab::new()?;
    let origins = [lab.greeter(&lab.world, ORIGIN_V4), lab.greeter(&lab.world, ORIGIN_V6)];
    let (one, other) = (Some(lab.uplink("eth0")), Some(lab.uplink("eth1")));
    lab.on_host(|| async {
        // `eth1` leads nowhere.
        for (v4, v6, works) in [(one.clone(), other.clone(), 0), (other, one, 1)] {
            let strategy = Strategy::Bind(UplinkPair::new(v4, v6).unwrap());
            let egress = Egress::new(strategy, Vec::new()).unwrap();
            let tests = egress.self_test();
            assert!(tests.iter().all(|test| test.result.is_ok()), "{tests:?}");
            for (family, at) in origins.into_iter().enumerate() {
                if family == works {
                    greeted(&egress, at).await;
                } else {
                    let error = egress.connect_tcp(at).await.unwrap_err();
                    assert!(
                        matches!(&error, EgressError::NoRoute { device, .. } if device == "eth1"),
                        "{error}"
                    );
                }
            }
        }
    });
    lab.assert_no_loop()
}

fn a_device_made_anew_is_refused() -> TestResult {
    let lab = Lab::new()?;
    let origin = lab.greeter(&lab.world, ORIGIN_V4);
    let stale = Strategy::Bind(Uplink { index: lab.index("eth1"), name: "eth0".to_owned() }.into());
    let gone = Strategy::Bind(Uplink { index: IfIndex(4000), name: "eth9".to_owned() }.into());
    lab.on_host(|| async {
        let egress = Egress::new(stale, Vec::new()).unwrap();
        let error = egress.udp(Family::V4).unwrap_err();
        assert!(matches!(error, EgressError::Protect { .. }), "{error}");
        egress.set_strategy(gone).unwrap();
        assert!(matches!(egress.udp(Family::V6), Err(EgressError::Protect { .. })));
        assert!(egress.connect_tcp(origin).await.is_err());
        assert_eq!((egress.counters().made, egress.counters().refused), (0, 3));
        assert!(Egress::new(Strategy::Mark(Mark(0)), Vec::new()).is_err());
    });
    lab.assert_no_loop()
}

fn guarded_destinations_get_no_socket() -> TestResult {
    let lab = Lab::new()?;
    let own = lab.greeter(&lab.host, HOST_V4);
    let origin = lab.greeter(&lab.world, ORIGIN_V4);
    lab.on_host(|| async {
        let egress = Egress::new(Strategy::Mark(BIT), vec!["10.99.0.0/24".parse().unwrap()]).unwrap();
        for dst in
            ["10.99.0.2:80", "[::ffff:10.99.0.1]:80", "0.0.0.0:80", "[::]:80", "224.0.0.1:80", "[ff02::1]:80"]
        {
            let error = egress.connect_tcp(dst.parse().unwrap()).await.unwrap_err();
            assert!(matches!(error, EgressError::Forbidden { .. }), "{dst}: {error}");
        }
        egress.set_listeners(vec![SocketAddr::new("0.0.0.0".parse().unwrap(), own.port())]);
        let error = egress.connect_tcp(own).await.unwrap_err();
        assert!(
            matches!(error, EgressError::Forbidden { reason: ForbiddenReason::OwnListener, .. }),
            "{error}"
        );
        egress.check_addr(SocketAddr::new(origin.ip(), own.port())).unwrap();
        egress.set_listeners(Vec::new());
        egress.set_forbidden(vec!["203.0.113.0/24".parse().unwrap()]);
        greeted(&egress, own).await;
        assert!(egress.connect_tcp(origin).await.is_err());
        assert_eq!(egress.counters().refused, 8);
    });
    lab.assert_no_loop()
}

fn proofs_follow_the_kernel() -> TestResult {
    let lab = Lab::new()?;
    let tun = lab.index("oneway0");
    let (eth0, eth1) = (lab.bind_to("eth0"), lab.bind_to("eth1"));
    let all = ips(&[ORIGIN_V4, ORIGIN_V6, "127.0.0.1", HOST_V6]);
    let prove = |strategy: Strategy, destinations: Vec<IpAddr>| {
        lab.on_host(move || async move {
            Egress::new(strategy, Vec::new()).unwrap().prove(&KernelRoutes, tun, &destinations)
        })
    };
    for strategy in [Strategy::Mark(BIT), eth0, eth1] {
        for verdict in prove(strategy.clone(), all.clone()) {
            assert!(verdict.loop_free, "{strategy}: {verdict:?}");
        }
    }
    let verdicts = prove(Strategy::Mark(BIT), all);
    assert_eq!(verdicts[0].via.as_deref(), Some("eth0"));
    assert_eq!((verdicts[0].family, verdicts[1].family), (Family::V4, Family::V6));
    // A mark that the rule does not know.
    for verdict in prove(Strategy::Mark(Mark(0x0200_0000)), ips(&[ORIGIN_V4, ORIGIN_V6])) {
        assert_eq!(verdict.finding, Finding::Loops, "{verdict:?}");
        assert_eq!(verdict.via.as_deref(), Some("oneway0"));
    }
    // K3: a mark alone does not keep the capture's own network out.
    for verdict in prove(Strategy::Mark(BIT), ips(&["10.99.0.2", "fd99::2"])) {
        assert_eq!(verdict.finding, Finding::Loops, "{verdict:?}");
    }
    let guarded = lab.on_host(|| async {
        let own = vec!["10.99.0.0/24".parse().unwrap(), "fd99::/64".parse().unwrap()];
        let egress = Egress::new(Strategy::Mark(BIT), own).unwrap();
        egress.prove(&KernelRoutes, tun, &ips(&["10.99.0.2", "fd99::2", "::ffff:10.99.0.2"]))
    });
    assert!(guarded.iter().all(|verdict| verdict.loop_free), "{guarded:?}");
    lab.assert_no_loop()
}

fn the_strongest_that_works_is_chosen() -> TestResult {
    let lab = Lab::new()?;
    let (free, other) = (lab.uplink("eth0").into(), lab.uplink("eth1").into());
    lab.on_host(|| async {
        let strategy =
            |protect, uplink| choose(protect, &Means::new(BIT, uplink)).map(|choice| choice.strategy);
        assert_eq!(strategy(Protect::Auto, None).unwrap(), Strategy::Mark(BIT));
        assert_eq!(strategy(Protect::Auto, Some(&free)).unwrap(), Strategy::Mark(BIT));
        let pinned = |uplink| Means { pinned: true, ..Means::new(BIT, uplink) };
        let choice = choose(Protect::Auto, &pinned(Some(&other))).unwrap();
        assert!(matches!(choice.strategy, Strategy::Bind(_)));
        // A pinned uplink that leads nowhere yet is waited for, and no other one taken.
        assert_eq!(choose(Protect::Auto, &pinned(None)).unwrap().strategy, Strategy::unbound());
        assert!(matches!(strategy(Protect::Bind, Some(&free)), Ok(Strategy::Bind(_))));
        // Without an uplink no socket is made, until there is one.
        assert_eq!(strategy(Protect::Bind, None).unwrap(), Strategy::unbound());
        let egress = Egress::new(Strategy::unbound(), Vec::new()).unwrap();
        let far = SocketAddr::new(ORIGIN_V4.parse().unwrap(), 80);
        assert!(matches!(egress.connect_tcp(far).await, Err(EgressError::NoRoute { .. })));
        assert!(egress.udp(Family::V4).is_err() && egress.icmp(Family::V6, 1).is_err());
        egress.set_strategy(Strategy::Bind(free.clone())).unwrap();
        egress.udp(Family::V4).unwrap();
        for name in ["source-rule", "host-route", "netns"] {
            let error = strategy(name.parse().unwrap(), Some(&free)).unwrap_err();
            assert!(matches!(error, EgressError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        no_capabilities();
        let choice = choose(Protect::Auto, &Means::new(BIT, Some(&free))).unwrap();
        assert!(matches!(choice.strategy, Strategy::Bind(_)));
        assert!(choice.why.contains("SO_MARK"), "{}", choice.why);
        let error = strategy(Protect::Mark, Some(&free)).unwrap_err();
        assert!(matches!(error, EgressError::Protect { .. }), "{error}");
        assert_eq!(strategy(Protect::Auto, None).unwrap(), Strategy::unbound());
        let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
        assert!(matches!(egress.udp(Family::V4), Err(EgressError::Protect { .. })));
        assert!(matches!(egress.icmp(Family::V4, 1), Err(EgressError::Unsupported { .. })));
    });
    lab.assert_no_loop()
}

/// Sockets of the uplink's address with ports of the range, as many as there are, and none with others.
fn source_ports_are_bound_and_read_back() -> TestResult {
    let lab = Lab::new()?;
    let rule = |first, last, v4: &str| {
        let v4 = v4.parse().ok();
        let devices = [Some(lab.uplink("eth0")), None];
        SourceRule { sources: Sources { ports: (first, last), uid: Some(0), v4, v6: None }, devices }
    };
    let (good, narrow, gone) =
        (rule(24_576, 24_703, HOST_V4), rule(61_000, 61_003, HOST_V4), rule(61_000, 61_003, "192.0.2.77"));
    lab.on_host(|| async {
        // The capture of this test asks for a mark; what matters here is what sockets are bound to.
        let egress = Egress::new(Strategy::SourceRule(good.clone()), Vec::new()).unwrap();
        let choice =
            choose(Protect::SourceRule, &Means { source: Some(good), ..Means::new(BIT, None) }).unwrap();
        assert_eq!(choice.strategy, *egress.strategy());
        for _ in 0..64 {
            let socket = egress.udp(Family::V4).unwrap();
            let own = socket.local_addr().unwrap();
            assert_eq!(own.ip(), HOST_V4.parse::<IpAddr>().unwrap());
            assert!((24_576..=24_703).contains(&own.port()), "{own}");
        }
        let error = egress.udp(Family::V6).unwrap_err();
        assert!(error.to_string().contains("IPv6 uplink has no address"), "{error}");
        // To a server on loopback it is not bound: nothing of that ever leaves.
        let here = egress.udp_for("127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(here.local_addr().unwrap().ip().is_loopback());

        // No more sockets than ports; the next is refused, and the others live.
        let egress = Egress::new(Strategy::SourceRule(narrow), Vec::new()).unwrap();
        let held: Vec<_> = std::iter::from_fn(|| egress.udp(Family::V4).ok()).take(10).collect();
        assert_eq!(held.len(), 4);
        let error = egress.udp(Family::V4).unwrap_err();
        assert!(error.to_string().contains("the ports are all in use"), "{error}");
        drop(held);
        egress.udp(Family::V4).unwrap();

        let egress = Egress::new(Strategy::SourceRule(gone), Vec::new()).unwrap();
        let error = egress.udp(Family::V4).unwrap_err();
        assert!(error.to_string().contains("the uplink must be looked at again"), "{error}");
    });
    Ok(())
}

/// Only servers, and only by the route that our table has for them.
fn only_servers_with_host_routes_get_sockets() -> TestResult {
    let lab = Lab::new()?;
    let tun = lab.index("oneway0");
    let at = lab.greeter(&lab.world, ORIGIN_V4);
    let servers = [ORIGIN_V4, ORIGIN_V6].map(|ip| ip.parse().unwrap());
    let rule = HostRoute {
        table: Table(TABLE),
        tun: "oneway0".to_owned(),
        halves: false,
        servers: Arc::new(servers.into()),
    };
    let egress =
        lab.on_host(|| async { Egress::new(Strategy::HostRoute(rule.clone()), Vec::new()).unwrap() });
    let connect = |to: SocketAddr| {
        egress.routes_changed();
        lab.on_host(|| async { egress.connect_tcp(to).await.map(drop) })
    };
    // Without the host route the kernel would lead it into the capture: it is asked, and no socket is made.
    assert!(matches!(connect(at), Err(EgressError::NoRoute { .. })));
    let host_route = Route::to(format!("{ORIGIN_V4}/32").parse()?).by("192.0.2.1".parse()?).dev("eth0");
    lab.host.add_route(&host_route.clone().table(TABLE))?;
    connect(at)?;
    let other = SocketAddr::new("203.0.113.81".parse()?, 80);
    assert!(matches!(connect(other), Err(EgressError::NoHostRoute { .. })));
    assert!(matches!(egress.check(other.ip()), Err(EgressError::NoHostRoute { .. })));
    let verdicts = lab.on_host(|| async {
        egress.prove(&KernelRoutes, tun, &ips(&[ORIGIN_V4, ORIGIN_V6, "203.0.113.81"]))
    });
    assert!(verdicts.iter().all(|v| v.loop_free), "{verdicts:?}");
    assert_eq!(verdicts[0].via.as_deref(), Some("eth0"));
    assert!(verdicts[1].via.is_none() && verdicts[2].via.is_none(), "{verdicts:?}");
    lab.host.delete_route(&host_route.table(TABLE))?;
    assert!(matches!(connect(at), Err(EgressError::NoRoute { .. })), "the gateway is lost");
    lab.assert_no_loop()
}

/// Sockets that are born elsewhere, asked about there, and never here.
fn sockets_of_another_namespace_stay_there() -> TestResult {
    let lab = Lab::new()?;
    let at = lab.greeter(&lab.host, "127.0.0.1");
    let path = lab.world.path().display().to_string();
    lab.on_host(|| async {
        let open = |name: &str| Namespace::open(name).map(Arc::new);
        let namespace = open(&path).unwrap();
        assert!(namespace.is_current());
        let egress = Egress::new(Strategy::Netns(Arc::clone(&namespace)), Vec::new()).unwrap();
        for test in egress.self_test() {
            test.result.unwrap_or_else(|e| panic!("{}: {e}", test.what));
        }
        // What listens on loopback here is not there.
        assert!(egress.connect_tcp(at).await.is_err());
        let origin = greeter_in(&namespace);
        greeted(&egress, origin).await;
        let verdicts = egress.prove(egress.routes(), IfIndex(1), &ips(&[HOST_V4, ORIGIN_V4, "8.8.8.8"]));
        assert!(verdicts.iter().all(|v| v.loop_free), "{verdicts:?}");
        assert!(verdicts[0].via.as_deref().is_some_and(|via| via.ends_with("/host0")), "{verdicts:?}");

        let fifo = std::env::temp_dir().join(format!("oneway-egress-{}.fifo", std::process::id()));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
        for (name, why) in [
            ("no-such-namespace", "see `ip netns list`"),
            ("/proc/thread-self/ns/net", "it is the namespace that is captured"),
            ("/dev/null", "is no network namespace"),
            // Not waited for.
            (fifo.to_str().unwrap(), "is no network namespace"),
            ("/", ""),
        ] {
            let error = open(name).unwrap_err();
            assert!(error.to_string().contains(why), "{name}: {error}");
        }
        std::fs::remove_file(&fifo).unwrap();
        no_capabilities();
        let error = open(&path).unwrap_err();
        assert!(error.to_string().contains("grant CAP_SYS_ADMIN"), "{error}");
        // The thread that is there already goes on.
        egress.udp(Family::V4).unwrap();
    });
    lab.assert_no_loop()
}

/// A server on a loopback address of the namespace.
fn greeter_in(namespace: &Namespace) -> SocketAddr {
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = std::io::Write::write_all(&mut stream, b"hello");
        }
    });
    at
}

fn every_kind_of_socket_passes_its_test() -> TestResult {
    let lab = Lab::new()?;
    let eth0 = lab.bind_to("eth0");
    lab.on_host(|| async {
        for strategy in [Strategy::Mark(BIT), eth0] {
            let tests = Egress::new(strategy, Vec::new()).unwrap().self_test();
            assert_eq!(tests.len(), 6);
            for test in tests {
                test.result.unwrap_or_else(|error| panic!("{}: {error}", test.what));
            }
        }
    });
    Ok(())
}

/// An echo request; the kernel sets the checksum of a ping socket and of ICMPv6, not that of a raw ICMP socket.
fn echo_request(family: Family) -> Vec<u8> {
    match family {
        // Identifier 0x1234, sequence 1, "ab": 0x0800 + 0x1234 + 0x0001 + 0x6162 = 0x7b97.
        Family::V4 => vec![8, 0, 0x84, 0x68, 0x12, 0x34, 0, 1, b'a', b'b'],
        Family::V6 => vec![128, 0, 0, 0, 0x12, 0x34, 0, 1, b'a', b'b'],
    }
}

fn echo_is_answered() -> TestResult {
    let lab = Lab::new()?;
    for (range, kind) in [("1 0", IcmpKind::Raw), ("0 0", IcmpKind::Ping)] {
        lab.host.set_sysctl("ipv4/ping_group_range", range)?;
        lab.on_host(|| async {
            let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
            for (family, origin) in [(Family::V4, ORIGIN_V4), (Family::V6, ORIGIN_V6)] {
                let icmp = egress.icmp(family, 0x1234).unwrap();
                assert_eq!(icmp.kind, kind);
                let dst = SocketAddr::new(origin.parse().unwrap(), 0);
                let ear = (kind == IcmpKind::Raw).then(|| egress.icmp_ear(family, icmp.id % EARS).unwrap());
                icmp.socket.send_to(&echo_request(family), dst).await.unwrap();
                let mut buf = [0; 256];
                let received = match ear {
                    Some(ear) => heard(&ear, &mut buf).await,
                    None => timeout(PATIENCE, icmp.socket.recv_from(&mut buf))
                        .await
                        .expect("a reply")
                        .map(|(len, from)| (len, from.ip()))
                        .unwrap(),
                };
                let header = if kind == IcmpKind::Raw && family == Family::V4 { 20 } else { 0 };
                let expected = if family == Family::V4 { 0 } else { 129 };
                assert_eq!((received.1, buf[header]), (dst.ip(), expected));
                // A ping socket has the kernel's choice, which it knew before.
                assert_eq!(buf[header + 4..header + 6], icmp.id.to_be_bytes());
                assert_eq!(&buf[header + 8..received.0], b"ab");
            }
        });
    }
    lab.assert_no_loop()
}

/// The next message.
async fn heard(ear: &IcmpEar, buf: &mut [u8]) -> (usize, IpAddr) {
    loop {
        timeout(PATIENCE, ear.readable()).await.expect("an answer").unwrap();
        match ear.try_recv(buf) {
            Ok(received) => return received,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

/// The kernel would hand all the ICMP of a host to each raw socket.
fn each_ear_hears_its_part_and_no_raw_socket_anything() -> TestResult {
    const NOWHERE_V4: &str = "203.0.113.1";
    const NOWHERE_V6: &str = "2001:db8:80::1";
    let lab = Lab::new()?;
    for (forwards, nowhere) in [
        ("ipv4/ip_forward", NOWHERE_V4.parse::<IpAddr>()?),
        ("ipv6/conf/all/forwarding", NOWHERE_V6.parse()?),
    ] {
        lab.world.set_sysctl(forwards, "1")?;
        lab.world.add_route(&Route::prohibit(nowhere.into()))?;
    }
    let eth0 = lab.index("eth0");
    lab.on_host(|| async {
        let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
        let of_device = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
        of_device.set_device(eth0);
        for (family, answers) in [
            (Family::V4, [(ORIGIN_V4, 0), (NOWHERE_V4, 3)]),
            (Family::V6, [(ORIGIN_V6, 129), (NOWHERE_V6, 1)]),
        ] {
            let ear = egress.icmp_ear(family, 0x1234 % EARS).unwrap();
            // What was made last is handed a message first: by the time that the ear has heard it, they would have.
            let others = [egress.icmp_ear(family, 0x1235 % EARS), of_device.icmp_ear(family, 0x1234 % EARS)];
            let icmp = egress.icmp(family, 0x1234).unwrap();
            assert_eq!((icmp.kind, icmp.id), (IcmpKind::Raw, 0x1234));
            let mut buf = [0; 256];
            for (dst, kind) in answers {
                let dst = SocketAddr::new(dst.parse().unwrap(), 0);
                icmp.socket.send_to(&echo_request(family), dst).await.unwrap();
                heard(&ear, &mut buf).await;
                assert_eq!(buf[if family == Family::V4 { 20 } else { 0 }], kind, "{dst}");
            }
            // What tokio has not told of yet would be in there all the same.
            let left = rustix::net::recv(&icmp.socket, &mut buf, rustix::net::RecvFlags::DONTWAIT);
            assert_eq!(left.unwrap_err(), rustix::io::Errno::AGAIN, "{family}");
            for other in others {
                let other = other.unwrap();
                let nothing = timeout(Duration::from_millis(50), other.readable()).await;
                assert!(nothing.is_err(), "{family}: {:?}", other.try_recv(&mut buf));
            }
        }
    });
    lab.assert_no_loop()
}

fn errors_on_the_way_are_told_apart() -> TestResult {
    let lab = Lab::new()?;
    lab.world.set_sysctl("ipv4/ip_forward", "1")?;
    for prohibited in
        [Route::prohibit("203.0.113.1/32".parse()?), Route::unreachable("203.0.113.2/32".parse()?)]
    {
        lab.world.add_route(&prohibited)?;
    }
    lab.on_host(|| async {
        let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
        let socket = egress.udp(Family::V4).unwrap();
        for (dst, kind) in [
            ("203.0.113.1:7", IcmpErrorKind::AdminProhibited),
            ("203.0.113.2:7", IcmpErrorKind::Host),
            ("203.0.113.80:7", IcmpErrorKind::Port),
        ] {
            let dst: SocketAddr = dst.parse().unwrap();
            socket.send_to(&[7; 200], dst).await.unwrap();
            let error = timeout(PATIENCE, next_error(&socket)).await.expect("an error").unwrap();
            assert_eq!((error.dst, error.kind), (dst, kind));
            assert_eq!(error.mtu, None);
            assert!(error.offender.is_some());
        }
        // Beyond what UDP can say: the kernel refuses, and no error is queued for others to trip over.
        let far: SocketAddr = "203.0.113.80:7".parse().unwrap();
        assert!(socket.send_to(&[0; 65_535], far).await.is_err());
        while recv_error(&socket).unwrap().is_some() {}
    });
    lab.assert_no_loop()
}

/// A connection to a free port of this host, from that very port, succeeds by simultaneous open.
fn no_connection_is_made_to_itself() -> TestResult {
    let lab = Lab::new()?;
    lab.host.set_sysctl("ipv4/ip_local_port_range", "40000 40001")?;
    lab.on_host(|| async {
        let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
        for _ in 0..20 {
            for port in [40000, 40001] {
                let error =
                    egress.connect_tcp(SocketAddr::new([127, 0, 0, 1].into(), port)).await.unwrap_err();
                let EgressError::Connect(error) = error else { panic!("{error}") };
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            }
        }
    });
    Ok(())
}

/// BBR's timers are for long ways; the test's network is none.
fn near_connections_are_not_paced() -> TestResult {
    for (default, used) in [("bbr", "cubic"), ("reno", "reno")] {
        let lab = Lab::new()?;
        if lab.host.set_sysctl("ipv4/tcp_congestion_control", default).is_err() {
            assert_eq!(default, "bbr", "reno is in every kernel");
            continue;
        }
        let origins = [lab.greeter(&lab.world, ORIGIN_V4), lab.greeter(&lab.world, ORIGIN_V6)];
        lab.on_host(|| async {
            let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
            for origin in origins {
                let stream = egress.connect_tcp(origin).await.unwrap();
                let name = socket2::SockRef::from(&*stream).tcp_congestion().unwrap();
                let name = String::from_utf8(name).unwrap();
                assert_eq!(
                    name.trim_end_matches('\0'),
                    used,
                    "{origin} on a host whose default is {default}"
                );
            }
        });
    }
    Ok(())
}

fn a_syn_of_ours_is_known_by_its_number() -> TestResult {
    let lab = Lab::new()?;
    let sent = Recorder::start(&lab.world, Some("host0"))?;
    lab.on_host(|| async {
        let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
        for (n, dst) in ["203.0.113.81:80", "[2001:db8:80::81]:80"].into_iter().enumerate() {
            // Nobody answers: the network has no such address, and no way on to it.
            let dst: SocketAddr = dst.parse().unwrap();
            let mut dial = Box::pin(egress.connect_tcp(dst));
            assert!(timeout(Duration::from_millis(50), &mut dial).await.is_err());
            let syn = |packet: &oneway_lab::capture::Packet| packet.is_syn() && packet.dst == dst.ip();
            let packet = sent.wait_for(PATIENCE, "a SYN", syn).unwrap();
            let since = Instant::now();
            let (own, number) = (SocketAddr::new(packet.src, packet.ports.0), packet.sequence.0);
            // A client's that had our port before, or that is bound to the capture's device.
            for other in [number.wrapping_add(1), number.wrapping_sub(1), 0] {
                assert!(egress.returned(Transport::Syn(other), own, dst), "it is carried");
                assert_eq!(egress.returned_packets(), n as u64);
                egress.check_addr(dst).unwrap();
            }
            for other in [Transport::Reset, Transport::Tcp] {
                assert!(egress.returned(other, own, dst), "it is carried");
            }
            assert_eq!(egress.returned_packets(), n as u64);
            assert!(egress.returned(Transport::Syn(number), own, dst));
            assert_eq!(egress.returned_packets(), n as u64 + 1);
            assert!(egress.check_addr(dst).is_err(), "{dst}");
            // The socket is as it was, and sends the same again.
            let again = |packet: &oneway_lab::capture::Packet| {
                syn(packet) && packet.sequence.0 == number && packet.at > since
            };
            sent.wait_for(PATIENCE, "another SYN", again).unwrap();
        }
    });
    lab.assert_no_loop()
}

fn sockets_keep_what_they_have() -> TestResult {
    let lab = Lab::new()?;
    let origin = lab.greeter(&lab.world, ORIGIN_V4);
    let eth0 = lab.bind_to("eth0");
    lab.on_host(|| async {
        let egress = Egress::new(Strategy::Mark(BIT), Vec::new()).unwrap();
        let mut stream = egress.connect_tcp(origin).await.unwrap();
        egress.set_strategy(eth0.clone()).unwrap();
        assert!(egress.set_strategy(Strategy::Mark(Mark(0))).is_err());
        assert_eq!(*egress.strategy(), eth0);
        stream.write_all(b"still here").await.unwrap();
        greeted(&egress, origin).await;
    });
    lab.assert_no_loop()
}

fn main() -> ExitCode {
    Harness::new()
        .test("unprotected_sockets_are_captured", unprotected_sockets_are_captured)
        .test("marked_sockets_leave_by_the_uplink", marked_sockets_leave_by_the_uplink)
        .test("bound_sockets_leave_by_the_uplink_only", bound_sockets_leave_by_the_uplink_only)
        .test("each_family_is_bound_to_its_own", each_family_is_bound_to_its_own)
        .test("a_device_made_anew_is_refused", a_device_made_anew_is_refused)
        .test("guarded_destinations_get_no_socket", guarded_destinations_get_no_socket)
        .test("proofs_follow_the_kernel", proofs_follow_the_kernel)
        .test("the_strongest_that_works_is_chosen", the_strongest_that_works_is_chosen)
        .test("source_ports_are_bound_and_read_back", source_ports_are_bound_and_read_back)
        .test("only_servers_with_host_routes_get_sockets", only_servers_with_host_routes_get_sockets)
        .test("sockets_of_another_namespace_stay_there", sockets_of_another_namespace_stay_there)
        .test("every_kind_of_socket_passes_its_test", every_kind_of_socket_passes_its_test)
        .test("echo_is_answered", echo_is_answered)
        .test(
            "each_ear_hears_its_part_and_no_raw_socket_anything",
            each_ear_hears_its_part_and_no_raw_socket_anything,
        )
        .test("errors_on_the_way_are_told_apart", errors_on_the_way_are_told_apart)
        .test("no_connection_is_made_to_itself", no_connection_is_made_to_itself)
        .test("near_connections_are_not_paced", near_connections_are_not_paced)
        .test("a_syn_of_ours_is_known_by_its_number", a_syn_of_ours_is_known_by_its_number)
        .test("sockets_keep_what_they_have", sockets_keep_what_they_have)
        .run()
}
