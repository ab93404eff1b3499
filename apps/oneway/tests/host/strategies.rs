//! Every way to protect our own sockets, on the wire (S1, S2, S5, S8, S12, S14, S17).
//!
//! Each test is made for each of them, with both stacks. What a strategy does not claim is said where it is left out.

use std::io::Write;
use std::time::Duration;

use oneway_lab::capture::{Direction, Packet, Recorder};
use oneway_lab::client::{Outcome, RecordType, wait_until};
use oneway_lab::harness::{Failed, Harness, TestResult, as_variant};
use oneway_lab::servers::origin::port;
use oneway_lab::servers::{SocksOptions, SocksServer, Zone};
use oneway_lab::topology::{Pair, Standard, address, name, zone};
use oneway_lab::{NetNs, Oneway, Route, Snapshot, Topology};
use serde_json::Value;

use crate::common::{
    ONEWAY, SECOND, TUN, ask, command, expect_connectivity, number, program, reaches_origin, run, stop,
};
use crate::drift::tool;
use crate::{inbound, loops, uplink, vpn};

/// After a usable uplink exists, and after a rule was deleted.
const WORKS: Duration = Duration::from_secs(3);
const RESTORED: Duration = Duration::from_secs(5);
/// Packets that may come back of each destination.
const MOST: u64 = 3;

const EACH: [&str; 8] = [
    "mark",
    "mark-terminal",
    "mark-ifgroup",
    "bind",
    "source-rule",
    "host-route",
    "host-route-halves",
    "netns",
];

type Test = fn(&Case) -> TestResult;

const TESTS: [(&str, Test); 8] = [
    ("carries_everything_and_nothing_comes_back", carries_everything_and_nothing_comes_back),
    ("sends_nothing_that_leads_nowhere", sends_nothing_that_leads_nowhere),
    ("survives_the_loss_of_any_rule_or_route", survives_the_loss_of_any_rule_or_route),
    ("follows_its_uplink", follows_its_uplink),
    ("leaves_servers_and_captures_bound_programs", leaves_servers_and_captures_bound_programs),
    ("dies_without_a_trace", dies_without_a_trace),
    ("works_under_a_strict_reverse_path_filter", works_under_a_strict_reverse_path_filter),
    ("keeps_apart_from_another_vpn", keeps_apart_from_another_vpn),
];

/// Adds every test, for each strategy and both stacks.
pub fn each(mut harness: Harness) -> Harness {
    for stack in ["user", "system"] {
        for protect in EACH {
            for (name, test) in TESTS {
                let name = format!("{stack}::strategies::{protect}::{name}");
                harness = harness.test(name, move || as_variant(stack, || test(&Case::new(protect)?)));
            }
        }
    }
    harness
}

/// The namespace that sockets of `netns` are made in, with an uplink of its own.
struct Outside {
    namespace: NetNs,
    config: tempfile::TempDir,
}

/// Its end of the link, and the far one.
const OUTSIDE: (&str, &str) = ("198.51.100.13/30", "2001:db8:13::1/64");
const BEYOND: (&str, &str) = ("198.51.100.14/30", "2001:db8:13::2/64");

impl Outside {
    fn new(lab: &Standard) -> Result<Self, Failed> {
        let namespace = NetNs::new("outside")?;
        namespace.set_sysctl("ipv6/conf/default/accept_dad", "0")?;
        namespace.up("lo")?;
        namespace.veth("out0", &lab.net, "outside0")?;
        for (end, device, (v4, v6)) in [(&namespace, "out0", OUTSIDE), (&lab.net, "outside0", BEYOND)] {
            end.up(device)?;
            end.add_address(device, v4.parse()?)?;
            end.add_address(device, v6.parse()?)?;
        }
        namespace.wait_operational("out0")?;
        let outside = Self { namespace, config: tempfile::tempdir()? };
        outside.default_routes()?;
        let mut file = std::fs::File::create(outside.file())?;
        writeln!(file, "egress.netns = {:?}", outside.namespace.path().display().to_string())?;
        Ok(outside)
    }

    fn default_routes(&self) -> TestResult {
        for gateway in [BEYOND.0, BEYOND.1] {
            let gateway = gateway.split('/').next().unwrap_or_default().parse()?;
            self.namespace.add_route(&Route::default_by(gateway).dev("out0"))?;
        }
        Ok(())
    }

    fn file(&self) -> String {
        self.config.path().join("oneway.toml").display().to_string()
    }
}

/// A strategy on a laboratory.
struct Case {
    protect: &'static str,
    lab: Standard,
    outside: Option<Outside>,
    options: Vec<String>,
}

impl Case {
    fn new(protect: &'static str) -> Result<Self, Failed> {
        let lab = Topology::standard()?;
        let mut options: Vec<String> = ["--protect", protect].map(str::to_owned).into();
        let outside = match protect {
            "netns" => Some(Outside::new(&lab)?),
            _ => None,
        };
        if let Some(outside) = &outside {
            options.extend(["--config".to_owned(), outside.file()]);
        }
        // It protects what goes to servers, and nothing else.
        if protect.starts_with("host-route") {
            options.extend(["--proxy".to_owned(), format!("socks5://{}", address::SOCKS.v4_port(1080))]);
            options.extend(["--dns".to_owned(), "off".to_owned()]);
        }
        Ok(Self { protect, lab, outside, options })
    }

    fn options(&self) -> Vec<&str> {
        self.options.iter().map(String::as_str).collect()
    }

    fn run(&self) -> Result<Oneway, Failed> {
        Ok(run(&self.lab.host, &self.options())?)
    }

    fn proxied(&self) -> bool {
        self.protect.starts_with("host-route")
    }

    /// Where our own packets leave.
    fn leaves(&self) -> (&NetNs, &'static str) {
        match &self.outside {
            Some(outside) => (&outside.namespace, "out0"),
            None => (&self.lab.host, Standard::UP1),
        }
    }

    /// Where they go.
    fn far(&self) -> Pair {
        if self.proxied() { address::SOCKS } else { address::ORIGIN }
    }
}

fn returned(host: &NetNs) -> Result<u64, Failed> {
    Ok(number(&ask(host, "status")?, "/guard/returned"))
}

fn doctor(host: &NetNs, options: &[&str]) -> Result<Value, Failed> {
    let finished = command(host, &[&["doctor", "--json"], options].concat())?;
    let document: Value = serde_json::from_str(&finished.stdout)
        .map_err(|error| format!("{error}: {} {}", finished.stdout, finished.stderr))?;
    let code = if document["verdict"] == "proven" { Some(0) } else { Some(3) };
    assert_eq!(finished.code, code, "{document:#}");
    Ok(document)
}

fn carries_everything_and_nothing_comes_back(case: &Case) -> TestResult {
    let host = &case.lab.host;
    let before = Snapshot::take(host)?;
    // It is said before anything is done, and shown.
    let planned = command(host, &[&["plan"], case.options().as_slice()].concat())?;
    let said = planned.stdout.lines().find(|line| line.starts_with("# protection "));
    let said = said.ok_or_else(|| format!("{} {}", planned.stdout, planned.stderr))?;
    assert!(said.starts_with(&format!("# protection {}: our own sockets", case.protect)), "{said}");
    let document = doctor(host, &case.options())?;
    assert_eq!(document["verdict"], "proven", "{document:#}");
    before.expect_same(host)?;

    let mut oneway = case.run()?;
    let ready = oneway.ready_line().to_owned();
    assert!(ready.contains(&format!("protected by {}", case.protect)), "{ready}");
    assert!(ready.ends_with("loop-free: proven"), "{ready}");
    let (namespace, device) = case.leaves();
    let (tun, wire) = (Recorder::start(host, Some(TUN))?, Recorder::start(namespace, None)?);
    assert!(reaches_origin(host, SECOND), "{}", oneway.stderr());
    let left = |packet: &Packet| packet.device == device && packet.direction == Direction::Out;
    let to_far = |packet: &Packet| case.far().both().contains(&packet.dst);
    for v4 in [true, false] {
        // One server of one family carries both.
        let family = |packet: &Packet| packet.dst.is_ipv4() == (v4 || case.proxied());
        assert!(wire.count(|p| p.is_syn() && left(p) && to_far(p) && family(p))? >= 1, "no TCP on the wire");
        assert!(wire.count(|p| p.is_udp() && left(p) && to_far(p) && family(p))? >= 1, "no UDP on the wire");
    }
    // S2: one datagram is one packet on the TUN and one on the wire, and its answer one.
    for to in address::ORIGIN.ports(port::ECHO) {
        let answer = host.client().udp(to, b"four", SECOND)?;
        assert_eq!(answer.data, b"four", "{to}");
    }
    wire.settle(SECOND / 5, 5 * SECOND, Packet::is_udp)?;
    tun.forget()?;
    wire.forget()?;
    let to = address::ORIGIN.v6_port(port::ECHO);
    assert_eq!(host.client().udp(to, b"four", SECOND)?.data, b"four");
    wire.settle(SECOND / 5, 5 * SECOND, Packet::is_udp)?;
    assert_eq!(tun.count(Packet::is_udp)?, 2, "{:?}", tun.matching(Packet::is_udp)?);
    let on_wire = wire.count(|p| p.is_udp() && p.device == device)?;
    assert_eq!(on_wire, 2, "{:?}", wire.matching(Packet::is_udp)?);
    // Names go the same way.
    if !case.proxied() {
        let asked = host.client().dns(address::DNS.v4_port(53), name::ORIGIN, RecordType::A, false, SECOND);
        assert!(asked.is_ok(), "{asked:?}");
    }
    let document = doctor(host, &[])?;
    assert_eq!(document["verdict"], "proven", "{document:#}");
    let why = command(host, &["why", "203.0.113.1:80"])?;
    assert!(why.stdout.contains("proven"), "{}", why.stdout);
    assert_eq!(returned(host)?, 0, "{}", oneway.stderr());
    stop(&mut oneway, host, &before)
}

fn sends_nothing_that_leads_nowhere(case: &Case) -> TestResult {
    // The broadcast address of an uplink's network is one here alone: to a proxy, and in another namespace, it is somebody's.
    let but: &[&str] = if case.proxied() || case.protect == "netns" { &["192.0.2.63"] } else { &[] };
    loops::nowhere(&case.lab, &case.options(), but)
}

fn survives_the_loss_of_any_rule_or_route(case: &Case) -> TestResult {
    let host = &case.lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = case.run()?;
    expect_connectivity(host)?;
    let mut removals = Vec::new();
    for ip in ["ip -4", "ip -6"] {
        let rules = tool(host, &format!("{ip} rule list"))?;
        for line in rules.lines().filter(|line| line.ends_with(" proto 162")) {
            let priority = line.split(':').next().unwrap_or_default().to_owned();
            removals.push(format!("{ip} rule del pref {priority}"));
        }
        // The specific ones: what takes a server out of the capture, above all.
        for line in tool(host, &format!("{ip} route show table all proto 162"))?.lines() {
            if line.contains(" via ") {
                removals.push(format!("{ip} route del {line} proto 162"));
            }
        }
    }
    if case.protect == "mark-ifgroup" {
        removals.push(format!("ip link set dev {TUN} group 0"));
    }
    assert!(removals.len() >= 4, "{removals:?}");
    if case.proxied() {
        assert!(removals.iter().any(|what| what.contains(&address::SOCKS.v4.to_string())), "{removals:?}");
    }
    let restored = || ask(host, "status").map(|status| number(&status, "/guard/restored"));
    for what in &removals {
        let (already, before) = (returned(host)?, restored()?);
        tool(host, what)?;
        // At once, before anybody may have noticed.
        for to in address::ORIGIN.ports(port::ECHO) {
            let _ = host.client().udp(to, b"?", SECOND / 4)?;
        }
        let came_back = returned(host)? - already;
        assert!(came_back <= 2 * MOST, "{came_back} packets came back after {what}");
        wait_until(RESTORED, "it is restored and works", || {
            restored().is_ok_and(|now| now > before) && reaches_origin(host, SECOND / 4)
        })
        .map_err(|error| format!("{what}: {error}: {}", oneway.stderr()))?;
    }
    stop(&mut oneway, host, &before)
}

fn follows_its_uplink(case: &Case) -> TestResult {
    let host = &case.lab.host;
    let mut oneway = case.run()?;
    let works = |what: &str| {
        wait_until(WORKS, what, || reaches_origin(host, SECOND / 3))
            .map_err(|error| format!("{error}: {}", oneway.stderr()))
    };
    works("at first")?;
    match &case.outside {
        // What it has is another namespace's: there the link goes and comes.
        Some(outside) => {
            outside.namespace.down("out0")?;
            assert!(!reaches_origin(host, SECOND / 5), "by what?");
            outside.namespace.up("out0")?;
            outside.namespace.wait_operational("out0")?;
            outside.namespace.add_address("out0", OUTSIDE.1.parse()?)?;
            outside.default_routes()?;
            works("its link is back")?;
        }
        None => {
            let wire = Recorder::start(host, None)?;
            let left_by = |device: &str, from: &str| -> Result<bool, Failed> {
                let out = |p: &Packet| p.device == device && p.direction == Direction::Out;
                let ours = |p: &Packet| case.far().both().contains(&p.dst) && p.src.to_string() == from;
                Ok(wire.count(|p| p.is_traffic() && out(p) && ours(p))? > 0)
            };
            host.down(Standard::UP1)?;
            works("the second uplink")?;
            assert!(left_by(Standard::UP2, "192.0.2.66")?, "not by the second uplink");
            wire.forget()?;
            case.lab.restore_uplink(Standard::UP1).or_else(|_| {
                host.add_address(Standard::UP1, "2001:db8:1::2/64".parse()?).map_err(Failed::from)?;
                tool(host, "ip route replace default via 192.0.2.1 dev up1 metric 100 proto boot")?;
                tool(host, "ip -6 route replace default via 2001:db8:1::1 dev up1 metric 100 proto boot")?;
                Ok::<(), Failed>(())
            })?;
            works("the first uplink is back")?;
            // Its address changes.
            tool(host, "ip address add 192.0.2.3/26 dev up1")?;
            tool(host, "ip address del 192.0.2.2/26 dev up1")?;
            tool(host, "ip address replace 192.0.2.3/26 dev up1")?;
            tool(host, "ip route replace default via 192.0.2.1 dev up1 metric 100 proto boot")?;
            works("it has another address")?;
            wait_until(WORKS, "its new address is used", || {
                reaches_origin(host, SECOND / 3) && left_by(Standard::UP1, "192.0.2.3").is_ok_and(|left| left)
            })?;
            uplink::useless_default(host)?;
            works("a useless default route has a better metric")?;
            host.delete_link(uplink::USELESS)?;
            works("the useless default route is gone")?;
            // Both are lost: nothing leaves, and nothing is led into the TUN.
            host.down(Standard::UP1)?;
            host.down(Standard::UP2)?;
            assert!(!reaches_origin(host, SECOND / 5), "by what?");
        }
    }
    let came_back = returned(host)?;
    // A socket that was alive while its source was changed for another may send one packet more.
    assert!(came_back <= 2 * MOST, "{came_back} packets came back: {}", oneway.stderr());
    let (status, _) = oneway.stop(5 * SECOND)?;
    assert!(status.success(), "{}", oneway.stderr());
    for ip in ["ip -4", "ip -6"] {
        assert!(!tool(host, &format!("{ip} rule list"))?.contains("proto 162"));
        assert_eq!(tool(host, &format!("{ip} route show table all proto 162"))?, "");
    }
    Ok(())
}

/// Inbound TCP and UDP, by both uplinks, as without us; and a program that binds an uplink's address is captured.
fn leaves_servers_and_captures_bound_programs(case: &Case) -> TestResult {
    let host = &case.lab.host;
    let servers = inbound::serve(host)?;
    let before = Snapshot::take(host)?;
    let without = inbound::visit(&case.lab, port::ECHO)?;
    let mut oneway = case.run()?;
    assert_eq!(inbound::visit(&case.lab, port::ECHO)?, without);
    inbound::bound_programs_are_captured(&case.lab)?;
    assert_eq!(returned(host)?, 0, "{}", oneway.stderr());
    stop(&mut oneway, host, &before)?;
    assert_eq!(inbound::visit(&case.lab, port::ECHO)?, without);
    drop(servers);
    Ok(())
}

/// What `mark` can only forbid once it has heard of it: a route of somebody else's that names our device.
pub fn routes_into_the_device_do_not_count_for_mark_ifgroup() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--protect", "mark-ifgroup"])?;
    expect_connectivity(host)?;
    for (ip, to) in ["ip", "ip -6"].into_iter().zip(address::ORIGIN.both()) {
        tool(host, &format!("{ip} route add {to} dev {TUN}"))?;
    }
    // Before anybody may have noticed, and after.
    for _ in 0..3 {
        for to in address::ORIGIN.ports(port::HTTP) {
            assert_ne!(host.client().tcp(to, SECOND / 2)?.outcome, Outcome::Done, "{to}");
        }
        for to in address::ORIGIN.ports(port::ECHO) {
            assert_ne!(host.client().udp(to, b"?", SECOND / 2)?.outcome, Outcome::Done, "{to}");
        }
    }
    assert_eq!(returned(host)?, 0, "{}", oneway.stderr());
    for (ip, to) in ["ip", "ip -6"].into_iter().zip(address::ORIGIN.both()) {
        tool(host, &format!("{ip} route del {to} dev {TUN}"))?;
    }
    wait_until(RESTORED, "it works again", || reaches_origin(host, SECOND / 4))?;
    stop(&mut oneway, host, &before)
}

/// A proxy given by name whose address changes: the new one gets a host route before anything is sent there.
pub fn a_server_that_moves_gets_a_host_route() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    lab.dns.set_zone(Zone::new().ttl(1).a(name::SOCKS, address::SOCKS.v4));
    let proxy = format!("socks5://{}:1080", name::SOCKS);
    let options =
        ["-v", "--protect", "host-route", "--proxy", &proxy, "--dns-upstream", "udp://203.0.113.53"];
    let resolv = format!("nameserver {}\n", address::DNS.v4);
    let mut oneway = program(host, ONEWAY, &options).resolv_conf(resolv).start()?;
    let routes = || tool(host, "ip route show table all proto 162");
    for server in [address::SOCKS.v4, address::DNS.v4] {
        assert!(routes()?.contains(&format!("{server} via 192.0.2.1 dev up1")), "{}", routes()?);
    }
    let client = host.client();
    assert_eq!(client.http_get(address::ORIGIN.v4_port(port::HTTP), "/", SECOND)?.status, 200);
    // What is no server gets nothing: direct connections do not exist here.
    let moved = address::SPARE;
    let options = SocksOptions { zone: zone(), ..SocksOptions::default() };
    let elsewhere = SocksServer::start(&lab.net, &moved.ports(1080), options)?;
    lab.dns.set_zone(Zone::new().ttl(1).a(name::SOCKS, moved.v4));
    wait_until(20 * SECOND, "the new address has a host route", || {
        routes().is_ok_and(|routes| routes.contains(&format!("{} via 192.0.2.1 dev up1", moved.v4)))
    })
    .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    wait_until(RESTORED, "it works by the new address", || {
        client
            .http_get(address::ORIGIN.v4_port(port::HTTP), "/", SECOND)
            .is_ok_and(|reply| reply.status == 200)
    })?;
    assert_eq!(returned(host)?, 0, "{}", oneway.stderr());
    drop(elsewhere);
    stop(&mut oneway, host, &before)
}

/// A proxy given by name, which is asked for in that namespace, by its servers.
pub fn names_are_asked_for_in_the_namespace() -> TestResult {
    let lab = Topology::standard()?;
    let outside = Outside::new(&lab)?;
    let host = &lab.host;
    // Without a way out here.
    for device in [Standard::UP1, Standard::UP2] {
        host.down(device)?;
    }
    let before = Snapshot::take(host)?;
    let proxy = format!("socks5://{}:1080", name::SOCKS);
    let options = ["--config", &outside.file(), "--proxy", &proxy, "--dns-upstream", "udp://203.0.113.53"];
    let wire = Recorder::start(&outside.namespace, None)?;
    let mut oneway = run(host, &options)?;
    assert!(oneway.ready_line().contains("protected by netns"), "{}", oneway.ready_line());
    assert!(wire.count(|p| p.is_udp() && p.dst == address::DNS.v4 && p.ports.1 == 53)? >= 1);
    let reply = host.client().http_get(address::ORIGIN.v4_port(port::HTTP), "/", SECOND)?;
    assert_eq!(reply.status, 200, "{}", oneway.stderr());
    stop(&mut oneway, host, &before)
}

pub fn what_a_host_cannot_carry_is_refused_by_name() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let refused = |options: &[&str], code: i32, what: &[&str]| -> TestResult {
        let before = Snapshot::take(host)?;
        let finished = command(host, &[&["run"], options].concat())?;
        assert_eq!(finished.code, Some(code), "{options:?}: {}", finished.stderr);
        for what in what {
            assert!(finished.stderr.contains(what), "{options:?}: {}", finished.stderr);
        }
        before.expect_same(host)?;
        Ok(())
    };
    refused(&["--protect", "host-route"], 2, &["host-route cannot protect direct", "or use mark"])?;
    refused(&["--protect", "netns"], 2, &["name one with egress.netns", "or use mark"])?;
    refused(&["--protect", "nonsense"], 2, &["is no protection", "mark-ifgroup"])?;
    host.set_sysctl("ipv4/ip_local_port_range", "1025 65535")?;
    refused(&["--protect", "source-rule"], 1, &["cannot carry --protect source-rule", "use --protect mark"])?;
    host.set_sysctl("ipv4/ip_local_port_range", "32768 60999")?;
    tool(host, "ip rule add pref 5270 lookup 52")?;
    tool(host, "ip route add default via 192.0.2.65 dev up2 table 52")?;
    for protect in ["mark-terminal", "mark-ifgroup"] {
        let name = format!("cannot carry --protect {protect}");
        refused(&["--protect", protect], 1, &[&name, "rule 5270", "use --protect mark"])?;
    }
    tool(host, "ip rule del pref 5270")?;
    let outside = Outside::new(&lab)?;
    refused(
        &["--config", &outside.file(), "--forwarded"],
        2,
        &["--protect netns with --forwarded", "out0", "leave --forwarded out"],
    )?;
    std::fs::write(outside.file(), "egress.netns = \"nowhere\"")?;
    refused(
        &["--config", &outside.file()],
        2,
        &["cannot open the network namespace nowhere", "ip netns list"],
    )
}

/// The kernel drops answers for which it would not send by the device that they came in by (S14).
fn works_under_a_strict_reverse_path_filter(case: &Case) -> TestResult {
    case.lab.strict_rp_filter()?;
    let host = &case.lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = case.run()?;
    assert!(reaches_origin(host, SECOND), "{}", oneway.stderr());
    assert_eq!(returned(host)?, 0, "{}", oneway.stderr());
    stop(&mut oneway, host, &before)
}

/// SIGKILL while it carries; then `recover`, or a new start, and nothing is left.
fn dies_without_a_trace(case: &Case) -> TestResult {
    let host = &case.lab.host;
    let before = Snapshot::take(host)?;
    for again in [false, true] {
        let mut oneway = case.run()?;
        assert!(reaches_origin(host, SECOND), "{}", oneway.stderr());
        oneway.kill()?;
        expect_connectivity(host)?;
        if again {
            let mut next = case.run()?;
            assert!(reaches_origin(host, SECOND), "{}", next.stderr());
            stop(&mut next, host, &before)?;
        } else {
            let recovered = command(host, &["recover"])?;
            assert_eq!(recovered.code, Some(0), "{}", recovered.stderr);
            before.expect_same(host)?;
        }
    }
    Ok(())
}

/// Marked sockets, and those that a rule knows by their port, go where the host sends them without us (S17). Whose decision
/// ends at main, or has its routes there, cannot be beside such a VPN, and says what can.
fn keeps_apart_from_another_vpn(case: &Case) -> TestResult {
    let host = &case.lab.host;
    let Some(instead) = (match case.protect {
        "mark-terminal" | "mark-ifgroup" => Some("use --protect mark"),
        "host-route-halves" => Some("use --protect host-route"),
        _ => None,
    }) else {
        let by_vpn = matches!(case.protect, "mark" | "source-rule");
        return vpn::keep_apart(host, || case.run(), by_vpn);
    };
    let other = vpn::begin(host)?;
    let before = Snapshot::take(host)?;
    let refused = command(host, &[&["run"], case.options().as_slice()].concat())?;
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let named = format!("this host cannot carry --protect {}: ", case.protect);
    assert!(refused.stderr.contains(&named) && refused.stderr.contains(instead), "{}", refused.stderr);
    before.expect_same(host)?;
    vpn::end(host, other)
}
