//! With `--strict` what cannot be captured is refused, and nothing of it is seen on the wire, also when the program was
//! killed.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::client::{Client, Outcome, Ping, RecordType, wait_until};
use oneway_lab::harness::TestResult;
use oneway_lab::servers::dns::Zone;
use oneway_lab::servers::origin::port;
use oneway_lab::servers::{DnsServer, Origin, SocksOptions, SocksServer};
use oneway_lab::topology::{Standard, address, name, port as socks};
use oneway_lab::{NetNs, Snapshot, Topology};

use crate::common::{
    ONEWAY, SECOND, TUN, ask, command, expect_connectivity, program, reaches_origin, run, stop,
};
use crate::drift::tool;
use crate::inbound::bound_programs_are_captured;

const UP1: &str = Standard::UP1;
const UP2: &str = Standard::UP2;
/// Until a program knows that it was refused (S15).
const AT_ONCE: Duration = Duration::from_millis(300);

/// Both uplinks.
struct Wire([Recorder; 2]);

impl Wire {
    fn of(host: &NetNs) -> Result<Self, oneway_lab::LabError> {
        Ok(Self([Recorder::start(host, Some(UP1))?, Recorder::start(host, Some(UP2))?]))
    }

    fn expect_none(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> TestResult {
        for recorder in &self.0 {
            let seen = recorder.matching(&wanted)?;
            assert!(seen.is_empty(), "{what}: {seen:#?}");
        }
        Ok(())
    }
}

/// Fails unless TCP and UDP to there are refused at once.
fn expect_refused(client: &Client, to: IpAddr, what: &str) -> TestResult {
    let dial = client.tcp(SocketAddr::new(to, port::ECHO), 3 * SECOND)?;
    assert!(
        !matches!(dial.outcome, Outcome::Done | Outcome::TimedOut) && dial.took < AT_ONCE,
        "{what}, TCP to {to}: {:?} after {:?}",
        dial.outcome,
        dial.took
    );
    let sent = client.udp(SocketAddr::new(to, port::ECHO), b"x", 3 * SECOND)?;
    assert!(
        !matches!(sent.outcome, Outcome::Done | Outcome::TimedOut) && sent.took < AT_ONCE,
        "{what}, UDP to {to}: {:?} after {:?}",
        sent.outcome,
        sent.took
    );
    Ok(())
}

/// Whether the routers are reached, which are on-link.
fn expect_neighbours(host: &NetNs) -> TestResult {
    for to in address::R1_LAN.both() {
        let ping = host.client().ping(to, SECOND)?;
        assert!(matches!(ping, Ping::Reply { .. }), "{to} is on-link: {ping:?}");
    }
    Ok(())
}

pub fn a_family_that_is_switched_off_is_refused() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    std::fs::write(&file, "[capture]\nipv6 = false\n")?;
    let file = file.display().to_string();
    let v6: IpAddr = address::ORIGIN.v6.into();

    // Without --strict it is left alone.
    let mut loose = run(host, &["-c", &file])?;
    let wire = Wire::of(host)?;
    assert!(reaches_origin(host, SECOND));
    assert!(wire.0[0].count(|p| p.dst == v6)? > 0);
    stop(&mut loose, host, &before)?;

    let mut oneway = run(host, &["-c", &file, "--strict"])?;
    let wire = Wire::of(host)?;
    expect_refused(&host.client(), v6, "IPv6 is off")?;
    expect_refused(&host.client().device(UP1), v6, "IPv6 is off and the socket bound")?;
    expect_refused(&host.client().source(address::HOST_UP2.v6.into()), v6, "and with an address")?;
    // The other family goes on, and so does what is never captured.
    let reply = host.client().http_get(address::ORIGIN.v4_port(port::HTTP), "/", SECOND)?;
    assert_eq!(reply.status, 200);
    expect_neighbours(host)?;
    wire.expect_none("IPv6 leaks", |p| p.dst == v6 || p.src == v6)?;
    let status = ask(host, "status")?;
    assert_eq!(status["strict"], true, "{status}");
    let why = command(host, &["why", &format!("[{v6}]:443")])?;
    assert!(why.stdout.contains("refused, as --strict wants it"), "{}", why.stdout);
    stop(&mut oneway, host, &before)
}

pub fn bound_sockets_are_refused() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--strict"])?;
    let wire = Wire::of(host)?;
    for device in [UP1, UP2] {
        for to in address::ORIGIN.both() {
            expect_refused(&host.client().device(device), to, device)?;
        }
    }
    wire.expect_none("a bound socket leaks", |p| address::ORIGIN.both().contains(&p.dst))?;
    // Nor is anybody asked whose address that is.
    let neighbours = tool(host, "ip neigh show")? + &tool(host, "ip -6 neigh show")?;
    assert!(address::ORIGIN.both().iter().all(|to| !neighbours.contains(&to.to_string())), "{neighbours}");
    // Those bound to an address only are captured, and whoever binds to the device of a neighbour reaches that.
    bound_programs_are_captured(&lab)?;
    let ping = host.client().device(UP1).ping(address::R1_LAN.v4.into(), SECOND)?;
    assert!(matches!(ping, Ping::Reply { .. }), "{ping:?}");
    assert!(reaches_origin(host, SECOND));
    stop(&mut oneway, host, &before)
}

/// Fails unless nothing that was captured gets out of the host, which serves HTTP, and nobody runs there.
fn expect_shut(lab: &Standard, what: &str) -> TestResult {
    let host = &lab.host;
    let wire = Wire::of(host)?;
    for to in address::ORIGIN.both() {
        expect_refused(&host.client(), to, what)?;
        expect_refused(&host.client().device(UP1), to, what)?;
    }
    for to in address::DNS.both().into_iter().chain(address::R1_LAN.both()) {
        let asked = host.client().dns(SocketAddr::new(to, 53), name::ORIGIN, RecordType::A, false, SECOND)?;
        assert_ne!(asked.outcome, Outcome::Done, "{what}: {to}");
    }
    expect_neighbours(host)?;
    wire.expect_none(what, |p| {
        address::ORIGIN.both().contains(&p.dst) || p.ports.1 == 53 && (p.is_udp() || p.is_syn())
    })?;
    // Who asks this host is answered: an administrator gets in.
    let reply = lab.net.client().http_get(address::HOST_UP1.v4_port(port::HTTP), "/", SECOND)?;
    assert_eq!(reply.status, 200);
    Ok(())
}

pub fn a_failure_leaves_the_refusal() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let _server = Origin::start(host, &address::HOST_UP1.both())?;
    let client = host.client();
    // A worker that panics, which only builds with debug assertions can be asked for, and two ways to lose the device.
    let panics = &["--strict", "--fault", "panic=200"][..];
    let deleted = format!("ip link del dev {TUN}");
    let moved = format!("ip link set dev {TUN} netns {}", lab.net.path().display());
    let ends = [(panics, ""), (&["--strict"], deleted.as_str()), (&["--strict"], &moved)];
    for (options, end) in ends.into_iter().skip(usize::from(!cfg!(debug_assertions))) {
        let mut oneway = run(host, options)?;
        assert!(reaches_origin(host, SECOND));
        if end.is_empty() {
            wait_until(10 * SECOND, "it has panicked", || {
                let _ = client.udp(address::ORIGIN.v4_port(port::ECHO), b"x", SECOND / 100);
                !oneway.alive()
            })?;
        } else {
            tool(host, end)?;
        }
        let status = oneway.wait(5 * SECOND)?;
        let said = oneway.stderr();
        assert_eq!(status.code(), Some(1), "{said}");
        let told = said.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(told.contains("this host stays shut") && told.contains("`oneway recover`"), "{said}");
        assert!(host.link(TUN).is_err(), "the device outlived its program");
        expect_shut(&lab, end)?;
        let recovered = command(host, &["recover"])?;
        assert_eq!(recovered.code, Some(0), "{end}: {}", recovered.stderr);
        before.expect_same(host)?;
        expect_connectivity(host)?;
    }
    // So does the next run, whose clean end undoes all.
    let mut oneway = run(host, &["--strict"])?;
    tool(host, &deleted)?;
    oneway.wait(5 * SECOND)?;
    let mut again = run(host, &["--strict"])?;
    assert!(reaches_origin(host, SECOND));
    stop(&mut again, host, &before)
}

pub fn a_killed_instance_leaves_the_refusal() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let _server = Origin::start(host, &address::HOST_UP1.both())?;
    let mut oneway = run(host, &["--strict"])?;
    assert!(reaches_origin(host, SECOND));
    oneway.kill()?;
    assert!(host.link(TUN).is_err(), "the device outlived its program");
    expect_shut(&lab, "killed")?;
    let recovered = command(host, &["recover"])?;
    assert_eq!(recovered.code, Some(0), "{}", recovered.stderr);
    expect_connectivity(host)?;
    before.expect_same(host)?;

    // The next run undoes it as well, and `stop` where nobody runs.
    let mut oneway = run(host, &["--strict"])?;
    oneway.kill()?;
    expect_shut(&lab, "killed again")?;
    let mut again = run(host, &["--strict"])?;
    assert!(reaches_origin(host, SECOND));
    again.kill()?;
    let stopped = command(host, &["stop", "--control", "/run/another.sock"])?;
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    expect_connectivity(host)?;
    before.expect_same(host).map_err(Into::into)
}

pub fn resolvers_on_the_link_are_captured() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let router = address::R1_LAN.ports(53);
    let onlink = DnsServer::start(&lab.r1, &router, Zone::new().a(name::ORIGIN, [198, 51, 100, 77].into()))?;
    let upstream = format!("udp://{}", address::DNS.v4);
    let mut oneway = run(host, &["--strict", "--dns-upstream", &upstream])?;
    let wire = Wire::of(host)?;
    for server in router {
        for tcp in [false, true] {
            let answer = host.client().dns(server, name::ORIGIN, RecordType::A, tcp, 2 * SECOND)?;
            assert_eq!(answer.addresses, [address::ORIGIN.v4], "{server}, TCP {tcp}");
            let bound = host.client().device(UP1).dns(server, name::ORIGIN, RecordType::A, tcp, SECOND);
            assert!(bound.is_err() || bound.is_ok_and(|b| b.outcome != Outcome::Done), "{server} by {UP1}");
        }
    }
    assert_eq!(onlink.questions().len(), 0, "{:?}", onlink.questions());
    wire.expect_none("a query to the router", |p| {
        p.ports.1 == 53 && address::R1_LAN.both().contains(&p.dst)
    })?;
    let why = command(host, &["why", &format!("{}:53", address::R1_LAN.v4), "--udp"])?;
    assert!(
        why.stdout.lines().any(|line| line.starts_with("captured") && line.ends_with("yes")),
        "{}",
        why.stdout
    );
    stop(&mut oneway, host, &before)?;

    // Without --strict whoever is on the link is asked.
    let mut loose = run(host, &["--dns-upstream", &upstream])?;
    host.client().dns(router[0], name::ORIGIN, RecordType::A, false, SECOND)?;
    assert_eq!(onlink.questions().len(), 1);
    stop(&mut loose, host, &before)
}

/// Somebody removes our rules again and again: not one packet gets out meanwhile.
pub fn removed_rules_let_nothing_out() -> TestResult {
    const FROM: u16 = 4242;
    let lab = Topology::standard()?;
    let host = &lab.host;
    let mut oneway = run(host, &["--strict"])?;
    let wire = Wire::of(host)?;
    for round in 0..20 {
        for ip in ["ip -4", "ip -6"] {
            while tool(host, &format!("{ip} rule del protocol 162")).is_ok() {}
        }
        for (to, from) in address::ORIGIN.both().into_iter().zip(address::HOST_UP1.both()) {
            let client = host.client().source_port(SocketAddr::new(from, FROM + round));
            client.udp(SocketAddr::new(to, port::ECHO), b"x", Duration::from_millis(20))?;
        }
    }
    wire.expect_none("escaped", |p| (FROM..FROM + 20).contains(&p.ports.0))?;
    wait_until(2 * SECOND, "the rules are back", || {
        tool(host, "ip rule list").is_ok_and(|rules| rules.contains("dport 53"))
    })?;
    assert!(oneway.alive());
    oneway.stop(2 * SECOND)?;
    Ok(())
}

pub fn what_cannot_be_strict_is_refused_by_name() -> TestResult {
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    for protect in ["bind", "source-rule"] {
        let refused = command(&lab.host, &["run", "--strict", "--protect", protect])?;
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        assert!(
            refused.stderr.contains("--strict") && refused.stderr.contains("use --protect mark"),
            "{}",
            refused.stderr
        );
        before.expect_same(&lab.host)?;
    }
    let plan = command(&lab.host, &["plan", "--strict"])?;
    assert!(plan.stdout.contains("nft delete table inet oneway_strict"), "{}", plan.stdout);
    let _running = program(&lab.host, ONEWAY, &["--strict"]).start()?;
    let doctor = command(&lab.host, &["doctor"])?;
    assert!(
        doctor.stdout.contains("oneway_strict, which refuses what is not captured, is in place"),
        "{}",
        doctor.stdout
    );
    Ok(())
}

/// A program that tries IPv6 first, as most do, and IPv4 as soon as that has failed.
fn expect_fallback(host: &NetNs, what: &str) -> TestResult {
    let begin = Instant::now();
    let first = host.client().tcp(address::ORIGIN.v6_port(port::HTTP), 3 * SECOND)?;
    assert!(!matches!(first.outcome, Outcome::Done | Outcome::TimedOut), "{what}: {:?}", first.outcome);
    let second = host.client().tcp(address::ORIGIN.v4_port(port::HTTP), 3 * SECOND)?;
    assert_eq!(second.outcome, Outcome::Done, "{what}");
    assert!(begin.elapsed() < AT_ONCE, "{what}: it took {:?}", begin.elapsed());
    Ok(())
}

/// S15: IPv6 is proxied; or the proxy has none; or it is switched off.
pub fn ipv6_never_leaks() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let v6: IpAddr = address::ORIGIN.v6.into();
    let proxy = format!("socks5://{}", address::SOCKS.v4_port(socks::SOCKS));
    let leaks = |wire: &Wire| {
        wire.expect_none("IPv6 leaks", |p| p.dst.is_ipv6() && p.is_traffic() && !p.dst.is_multicast())
    };
    for strict in [&[][..], &["--strict"]] {
        let mut oneway = run(host, &[&["--proxy", &proxy], strict].concat())?;
        let wire = Wire::of(host)?;
        assert!(reaches_origin(host, SECOND), "{strict:?}");
        leaks(&wire)?;
        never_captured(&lab)?;
        stop(&mut oneway, host, &before)?;
    }

    // A proxy that has no way to it.
    tool(&lab.r1, "ip -6 route del 2001:db8:100::/64")?;
    let at = [address::R1_LAN.v4_port(socks::SOCKS)];
    let _without = SocksServer::start(&lab.r1, &at, SocksOptions::default())?;
    let proxy = format!("socks5://{}", at[0]);
    for strict in [&[][..], &["--strict"]] {
        let mut oneway = run(host, &[&["--proxy", &proxy], strict].concat())?;
        let wire = Wire::of(host)?;
        expect_fallback(host, "the proxy has no IPv6")?;
        leaks(&wire)?;
        stop(&mut oneway, host, &before)?;
    }

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    std::fs::write(&file, "[capture]\nipv6 = false\nstrict = true\n")?;
    let mut oneway = run(host, &["-c", &file.display().to_string(), "--proxy", &proxy])?;
    let wire = Wire::of(host)?;
    expect_fallback(host, "IPv6 is switched off")?;
    expect_refused(&host.client(), v6, "IPv6 is switched off")?;
    leaks(&wire)?;
    never_captured(&lab)?;
    stop(&mut oneway, host, &before)
}

/// Neighbour discovery, multicast and what asks for an address go as without us.
fn never_captured(lab: &Standard) -> TestResult {
    let host = &lab.host;
    tool(host, "ip -6 neigh flush dev up1")?;
    expect_neighbours(host)?;
    let wire = Recorder::start(host, Some(UP1))?;
    let asks = [("[::]:546", "[ff02::1:2]:547"), ("0.0.0.0:68", "255.255.255.255:67")];
    for (from, to) in asks {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse()?, to.parse()?);
        // Neither is answered.
        let socket = host.client().source_port(from).device(UP1).udp_socket(to.is_ipv6())?;
        if to.is_ipv4() {
            socket.set_broadcast(true)?;
        }
        socket.send_to(b"solicit", to)?;
        wire.wait_for(SECOND, &format!("{to} is asked by the uplink"), |p| {
            p.dst == to.ip() && p.ports == (from.port(), to.port())
        })?;
    }
    let all_nodes = host.client().device(UP1).ping("ff02::1".parse()?, SECOND)?;
    assert!(matches!(all_nodes, Ping::Reply { .. }), "{all_nodes:?}");
    Ok(())
}
