//! The uplinks come, go and change (S8).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Standard, address, port as socks};
use oneway_lab::{NetNs, Oneway, Snapshot, Topology};

use crate::common::{SECOND, TUN, ask, command, reaches_origin, run, stop};
use crate::drift::tool;

const UP1: &str = Standard::UP1;
const UP2: &str = Standard::UP2;
/// After a usable uplink exists.
const WORKS: Duration = Duration::from_secs(3);
/// Until flows on a dead uplink are reset.
const RESET: Duration = Duration::from_secs(10);

fn works(host: &NetNs, what: &str, oneway: &Oneway) -> TestResult {
    wait_until(WORKS, what, || reaches_origin(host, SECOND / 3))
        .map_err(|error| format!("{error}: {}", oneway.stderr()))?;
    Ok(())
}

/// A connection of each family that is open and idle.
fn idle(host: &NetNs) -> Result<Vec<TcpStream>, Failed> {
    let client = host.client();
    let dial = |to| -> Result<TcpStream, Failed> {
        let mut stream = client.tcp(to, 2 * SECOND)?.connected()?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        Ok(stream)
    };
    address::ORIGIN.ports(port::ECHO).into_iter().map(dial).collect()
}

/// Fails unless each is reset in time.
fn are_reset(streams: Vec<TcpStream>, oneway: &Oneway) -> TestResult {
    for (mut stream, family) in streams.into_iter().zip(["IPv4", "IPv6"]) {
        stream.set_read_timeout(Some(RESET))?;
        match stream.read(&mut [0]) {
            // The second where its own address is gone, and no packet could tell it.
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => {}
            other => return Err(format!("the {family} flow: {other:?}: {}", oneway.stderr()).into()),
        }
    }
    Ok(())
}

/// Fails unless each goes on.
fn go_on(streams: &mut [TcpStream]) -> TestResult {
    for stream in streams {
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

fn uplink_is(host: &NetNs, name: Option<&str>) -> bool {
    ask(host, "status")
        .is_ok_and(|status| ["ipv4", "ipv6"].iter().all(|family| status["uplink"][family].as_str() == name))
}

fn all_that_happens(options: &[&str]) -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, options)?;
    works(host, "it works at the start", &oneway)?;

    let flows = idle(host)?;
    host.down(UP1)?;
    works(host, "the first uplink went down", &oneway)?;
    are_reset(flows, &oneway)?;
    assert!(uplink_is(host, Some(UP2)), "{}", oneway.stderr());

    lab.restore_uplink(UP1).or_else(|_| lab_routes(&lab))?;
    works(host, "the first uplink is back", &oneway)?;
    wait_until(WORKS, "it is the uplink again", || uplink_is(host, Some(UP1)))?;

    let flows = idle(host)?;
    host.delete_link(UP1)?;
    works(host, "the first uplink was deleted", &oneway)?;
    are_reset(flows, &oneway)?;
    lab.recreate_uplink(UP1)?;
    works(host, "the first uplink was made anew", &oneway)?;
    wait_until(WORKS, "it is the uplink again", || uplink_is(host, Some(UP1)))?;

    let flows = idle(host)?;
    tool(host, "ip address del 192.0.2.2/26 dev up1")?;
    tool(host, "ip -6 address del 2001:db8:1::2/64 dev up1")?;
    tool(host, "ip address add 192.0.2.3/26 dev up1")?;
    tool(host, "ip -6 address add 2001:db8:1::3/64 dev up1 nodad")?;
    tool(host, "ip route replace default via 192.0.2.1 dev up1 metric 100 proto boot")?;
    tool(host, "ip -6 route replace default via 2001:db8:1::1 dev up1 metric 100 proto boot")?;
    works(host, "the first uplink has other addresses", &oneway)?;
    are_reset(flows, &oneway)?;
    let ours = tool(host, &format!("ip route show table all dev {TUN} proto 162"))?;
    assert!(ours.contains("src 192.0.2.3"), "{ours}");

    // Both gone, for longer than anything waits.
    let flows = idle(host)?;
    host.delete_link(UP1)?;
    host.down(UP2)?;
    wait_until(WORKS, "there is no uplink", || uplink_is(host, None))?;
    are_reset(flows, &oneway)?;
    assert!(oneway.alive());
    assert!(!reaches_origin(host, SECOND / 5), "by no uplink?");
    lab.recreate_uplink(UP1)?;
    works(host, "one of two uplinks is back", &oneway)?;

    let mut flows = idle(host)?;
    useless_default(host)?;
    works(host, "a useless default route has a better metric", &oneway)?;
    host.delete_link(USELESS)?;
    works(host, "the useless default route is gone", &oneway)?;
    if options.is_empty() {
        // Nothing happened to these: their address and their device are what they were.
        let _ = go_on(&mut flows);
    }

    lab.restore_uplink(UP2).or_else(|_| lab_routes(&lab))?;
    wait_until(WORKS, "the host is what it was", || uplink_is(host, Some(UP1)))?;
    let (status, _) = oneway.stop(2 * SECOND)?;
    assert!(status.success(), "{}", oneway.stderr());
    let left = before.diff(&Snapshot::take(host)?);
    assert!(!left.contains("oneway"), "{left}");
    for ip in ["ip -4", "ip -6"] {
        let rules = tool(host, &format!("{ip} rule list"))?;
        assert!(!rules.contains("proto 162"), "{rules}");
        assert_eq!(tool(host, &format!("{ip} route show table all proto 162"))?, "");
    }
    Ok(())
}

/// Default routes of both uplinks where the addresses have stayed.
fn lab_routes(lab: &Standard) -> Result<(), oneway_lab::LabError> {
    for (device, v4, v6, metric) in
        [(UP1, "192.0.2.1", "2001:db8:1::1", 100), (UP2, "192.0.2.65", "2001:db8:2::1", 200)]
    {
        let _ = tool(
            &lab.host,
            &format!(
                "ip -6 address add {} dev {device} nodad",
                match device {
                    UP1 => "2001:db8:1::2/64",
                    _ => "2001:db8:2::2/64",
                }
            ),
        );
        for words in [
            format!("ip route replace default via {v4} dev {device} metric {metric} proto boot"),
            format!("ip -6 route replace default via {v6} dev {device} metric {metric} proto boot"),
        ] {
            let _ = tool(&lab.host, &words);
        }
    }
    Ok(())
}

/// S8: for longer than any program, resolver or timer here waits.
pub fn both_are_down_for_half_a_minute() -> TestResult {
    const DOWN: Duration = Duration::from_secs(30);
    let lab = Topology::standard()?;
    let host = &lab.host;
    let mut oneway = run(host, &[])?;
    works(host, "it works at the start", &oneway)?;
    let flows = idle(host)?;
    let begin = Instant::now();
    host.down(UP1)?;
    host.down(UP2)?;
    wait_until(WORKS, "there is no uplink", || uplink_is(host, None))?;
    are_reset(flows, &oneway)?;
    let cpu = oneway.cpu_time()?;
    let client = host.client();
    while begin.elapsed() < DOWN {
        for to in address::ORIGIN.ports(port::HTTP) {
            let dial = client.tcp(to, SECOND)?;
            assert_ne!(dial.outcome, Outcome::Done, "{to} by no uplink?");
        }
        let _ = client.udp(address::ORIGIN.v4_port(port::ECHO), b"x", SECOND / 2)?;
        assert!(oneway.alive(), "{}", oneway.stderr());
        // As often as programs try again, and not as often as they could.
        thread::sleep(SECOND / 5);
    }
    let used = oneway.cpu_time()?.saturating_sub(cpu);
    assert!(used < 2 * SECOND, "{used:?} of processor time with nothing to carry");
    let lines = oneway.stderr().lines().count();
    assert!(lines < 100, "{lines} lines are logged");
    lab.restore_uplink(UP2).or_else(|_| lab_routes(&lab))?;
    works(host, "the second uplink is back", &oneway)?;
    wait_until(WORKS, "it is the uplink", || uplink_is(host, Some(UP2)))?;
    lab.restore_uplink(UP1).or_else(|_| lab_routes(&lab))?;
    works(host, "both are back", &oneway)?;
    wait_until(WORKS, "it is the uplink again", || uplink_is(host, Some(UP1)))?;
    let (status, _) = oneway.stop(2 * SECOND)?;
    assert!(status.success(), "{}", oneway.stderr());
    Ok(())
}

pub fn everything_that_happens_to_uplinks() -> TestResult {
    all_that_happens(&[])
}

pub fn everything_that_happens_to_bound_uplinks() -> TestResult {
    all_that_happens(&["--protect", "bind"])
}

pub fn everything_that_happens_under_strict() -> TestResult {
    all_that_happens(&["--strict"])
}

fn none_at_the_start(options: &[&str]) -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    host.delete_link(UP1)?;
    host.down(UP2)?;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, options)?;
    assert!(!reaches_origin(host, SECOND / 5), "by no uplink?");
    lab.recreate_uplink(UP1)?;
    works(host, "there is an uplink now", &oneway)?;
    host.delete_link(UP1)?;
    wait_until(WORKS, "it is gone", || uplink_is(host, None))?;
    stop(&mut oneway, host, &before)
}

pub fn no_uplink_at_the_start() -> TestResult {
    none_at_the_start(&[])
}

pub fn no_uplink_to_bind_to_at_the_start() -> TestResult {
    none_at_the_start(&["--protect", "bind"])
}

/// While the uplink that the user named leads nowhere, the other one is not taken.
pub fn a_pinned_uplink_is_waited_for() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let mut routes = Vec::new();
    for ip in ["ip", "ip -6"] {
        let shown = tool(host, &format!("{ip} route show default dev {UP2}"))?;
        routes.extend(shown.lines().map(|route| (ip, format!("{route} dev {UP2}"))));
    }
    assert_eq!(routes.len(), 2, "{routes:?}");
    let change = |what: &str| -> TestResult {
        for (ip, route) in &routes {
            tool(host, &format!("{ip} route {what} {route}"))?;
        }
        Ok(())
    };
    change("del")?;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--interface", UP2])?;
    assert!(!reaches_origin(host, SECOND / 5), "by {UP1}?");
    let why = command(host, &["why", &address::ORIGIN.v4_port(port::ECHO).to_string()])?;
    assert!(why.stdout.contains("bind, to no uplink yet"), "{}", why.stdout);
    change("add")?;
    works(host, "the uplink leads somewhere", &oneway)?;
    assert!(uplink_is(host, Some(UP2)));
    change("del")?;
    stop(&mut oneway, host, &before)
}

/// Each family has an uplink of its own, and one of them changes.
pub fn each_family_has_its_own_uplink() -> TestResult {
    for options in [&[][..], &["--protect", "bind"], &["--protect", "source-rule"]] {
        each_family_by_its_own(options)?;
    }
    Ok(())
}

fn each_family_by_its_own(options: &[&str]) -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    tool(host, &format!("ip route del default dev {UP2}"))?;
    tool(host, &format!("ip -6 route del default dev {UP1}"))?;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, options)?;
    let wires = [UP1, UP2].map(|device| Recorder::start(host, Some(device)));
    works(host, "each family by its own", &oneway)?;
    let mut flows = idle(host)?;
    let ends = |packet: &Packet| [packet.src, packet.dst].contains(&address::ORIGIN.v4.into());
    let ends6 = |packet: &Packet| [packet.src, packet.dst].contains(&address::ORIGIN.v6.into());
    for (wire, device) in wires.into_iter().zip([UP1, UP2]) {
        let (v4, v6) = {
            let wire = wire?;
            (wire.count(ends)?, wire.count(ends6)?)
        };
        assert_eq!((v4 > 0, v6 > 0), (device == UP1, device == UP2), "{options:?} by {device}: {v4}, {v6}");
    }
    let status = ask(host, "status")?;
    assert_eq!(
        (&status["uplink"]["ipv4"], &status["uplink"]["ipv6"]),
        (&UP1.into(), &UP2.into()),
        "{status}"
    );

    // That of IPv6 changes: its flows are reset, and those of IPv4 do not notice.
    tool(host, &format!("ip -6 route del default dev {UP2}"))?;
    tool(host, &format!("ip -6 route add default via 2001:db8:1::1 dev {UP1} metric 100 proto boot"))?;
    works(host, "both by one", &oneway)?;
    let v6 = flows.pop().expect("that of IPv6");
    go_on(&mut flows).map_err(|e| format!("{options:?} first: {e:?}: {}", oneway.stderr()))?;
    v6.set_read_timeout(Some(RESET))?;
    let reset = (&v6).read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(reset, Err(ErrorKind::ConnectionReset), "{options:?}: {}", oneway.stderr());
    go_on(&mut flows).map_err(|e| format!("{options:?} second: {e:?}: {}", oneway.stderr()))?;

    tool(host, &format!("ip -6 route del default dev {UP1}"))?;
    tool(host, &format!("ip -6 route add default via 2001:db8:2::1 dev {UP2} metric 200 proto boot"))?;
    works(host, "each family by its own again", &oneway)?;
    stop(&mut oneway, host, &before)
}

/// The host has IPv6 switched off, for the devices that there are and those that come. It is captured nevertheless: what
/// somebody sends by it is not let past.
pub fn ipv6_is_switched_off() -> TestResult {
    for what in ["all", "default"] {
        let lab = Topology::standard()?;
        let host = &lab.host;
        host.set_sysctl(&format!("ipv6/conf/{what}/disable_ipv6"), "1")?;
        let before = Snapshot::take(host)?;
        let mut oneway =
            run(host, &["--proxy", &format!("socks5://{}", address::SOCKS.v4_port(socks::SOCKS))])?;
        works(host, "by a proxy", &oneway)?;
        stop(&mut oneway, host, &before)?;
    }
    Ok(())
}

/// What comes from an address of this host's has a table of its own, as hosts with two uplinks have it. A program's packets
/// have that address as soon as its socket is connected, and are captured all the same.
pub fn a_table_for_an_address_of_the_host() -> TestResult {
    let proxy = format!("socks5://{}", address::SOCKS.v4_port(socks::SOCKS));
    for options in [&[][..], &["--protect", "bind"], &["--strict"]] {
        let lab = Topology::standard()?;
        let host = &lab.host;
        for (ip, own, via) in [("ip", "192.0.2.2", "192.0.2.1"), ("ip -6", "2001:db8:1::2", "2001:db8:1::1")]
        {
            tool(host, &format!("{ip} route add default via {via} dev {UP1} table 101"))?;
            tool(host, &format!("{ip} rule add pref 100 from {own} lookup 101"))?;
        }
        let before = Snapshot::take(host)?;
        let mut oneway = run(host, &[&["--proxy", &proxy], options].concat())?;
        let wire = Recorder::start(host, None)?;
        works(host, "by the proxy", &oneway)?;
        let past = |packet: &Packet| {
            packet.device != TUN
                && packet.is_traffic()
                && (packet.dst == address::ORIGIN.v4 || packet.dst == address::ORIGIN.v6)
        };
        assert_eq!(wire.count(past)?, 0, "{options:?}: sent past the proxy: {:?}", wire.matching(past)?);
        stop(&mut oneway, host, &before)?;
    }
    Ok(())
}

/// All is asked of a table of the administrator's, and main has no default route.
pub fn default_routes_in_another_table() -> TestResult {
    for options in [&[][..], &["--protect", "bind"], &["--interface", UP1, "--protect", "bind"]] {
        let lab = Topology::standard()?;
        let host = &lab.host;
        for (ip, via) in [("ip", "192.0.2.1"), ("ip -6", "2001:db8:1::1")] {
            while tool(host, &format!("{ip} route del default")).is_ok() {}
            tool(host, &format!("{ip} route add default via {via} dev {UP1} table 250"))?;
            tool(host, &format!("{ip} rule add pref 20000 lookup 250"))?;
        }
        let before = Snapshot::take(host)?;
        let mut oneway = run(host, options)?;
        works(host, "it works", &oneway)?;
        assert!(uplink_is(host, Some(UP1)), "{options:?}");
        stop(&mut oneway, host, &before)?;
    }
    Ok(())
}

/// The default routes name objects, and the kernel tells nothing else of them. To change an object changes no route.
pub fn next_hop_objects_are_followed() -> TestResult {
    for options in [&[][..], &["--protect", "bind"]] {
        let lab = Topology::standard()?;
        let host = &lab.host;
        host.set_sysctl("ipv4/nexthop_compat_mode", "0")?;
        let object =
            |id: u32, via: &str, device: &str| format!("ip nexthop replace id {id} via {via} dev {device}");
        for (ip, id, via) in [("ip", 41, "192.0.2.1"), ("ip -6", 61, "2001:db8:1::1")] {
            while tool(host, &format!("{ip} route del default")).is_ok() {}
            tool(host, &object(id, via, UP1))?;
            tool(host, &format!("{ip} route add default nhid {id}"))?;
        }
        let mut oneway = run(host, options)?;
        works(host, "it works at the start", &oneway)?;
        assert!(uplink_is(host, Some(UP1)), "{options:?}");
        tool(host, &object(41, "192.0.2.65", UP2))?;
        tool(host, &object(61, "2001:db8:2::1", UP2))?;
        wait_until(WORKS, "the other device is the uplink", || uplink_is(host, Some(UP2)))?;
        works(host, "by the other device", &oneway)?;
        for id in [41, 61] {
            tool(host, &format!("ip nexthop del id {id}"))?;
        }
        wait_until(WORKS, "there is no uplink", || uplink_is(host, None))?;
        let (status, _) = oneway.stop(2 * SECOND)?;
        assert!(status.success(), "{}", oneway.stderr());
    }
    Ok(())
}

/// Somebody has it looked strictly at where packets come from, while we run.
pub fn a_reverse_path_filter_that_comes_later() -> TestResult {
    for options in [&[][..], &["--protect", "bind"]] {
        let lab = Topology::standard()?;
        let host = &lab.host;
        let oneway = run(host, options)?;
        works(host, "it works at the start", &oneway)?;
        for device in ["all", UP1] {
            host.set_sysctl(&format!("ipv4/conf/{device}/rp_filter"), "1")?;
        }
        works(host, "with a strict reverse-path filter", &oneway)?;
    }
    Ok(())
}

/// A bridge without ports, which has no carrier.
pub const USELESS: &str = "useless0";

/// Adds default routes that lead nowhere, and are better than those that lead somewhere.
pub fn useless_default(host: &NetNs) -> TestResult {
    host.bridge(USELESS)?;
    host.up(USELESS)?;
    tool(host, &format!("ip address add 198.51.100.200/32 dev {USELESS}"))?;
    tool(host, &format!("ip -6 address add 2001:db8:77::1/128 dev {USELESS} nodad"))?;
    for ip in ["ip", "ip -6"] {
        tool(host, &format!("{ip} route add default dev {USELESS} metric 5"))?;
    }
    Ok(())
}
