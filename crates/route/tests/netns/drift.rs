//! What others remove is put back, what is theirs is left alone, and plans follow the host.

use std::time::{Duration, Instant};

use oneway_route::{
    Applied, Captured, Change, Family, Monitor, NftSupport, Protect, Request, RouteQuery, Snapshot,
    StepPoint, Undo, Watched, find_uplinks, no_hook, plan_again, query, recover,
};

use crate::host::{FAR4, FAR6, Net, Tun, capture, planned, protections, set};
use crate::namespace::{other_group, other_user};
use crate::wire::Wire;

crate::trials!(
    every_single_change_is_put_back,
    a_device_that_was_set_down_is_set_up_with_all_that_it_lost,
    what_cannot_be_put_back_keeps_nothing_else,
    foreign_things_stay_and_are_not_missed,
    nftables_are_compared_rule_by_rule,
    the_kernel_announces_every_kind_of_change,
    a_plan_follows_the_uplinks_and_goes_back,
    another_vpn_that_comes_later_is_not_captured,
    a_plan_for_the_same_host_changes_nothing,
    every_point_of_a_move,
);

/// With all kinds of changes in it.
fn everything() -> Request {
    Request {
        forwarded: true,
        exclude: vec!["203.0.113.128/25".parse().unwrap(), "2001:db8:ffff:1::/64".parse().unwrap()],
        exclude_uids: other_user().into_iter().collect(),
        exclude_cgroups: vec![other_group()],
        ..Request::default()
    }
}

fn requests() -> Vec<Request> {
    let mut requests =
        vec![Request::default(), everything(), Request { protect: Protect::Bind, ..Request::default() }];
    requests.extend(protections());
    requests
}

/// Those with further tables of nftables besides.
fn with_more_tables() -> Vec<Request> {
    let mut requests = requests();
    requests.push(Request { strict: true, tproxy: Some(16_262), ..everything() });
    requests.push(Request { strict: true, redirect: Some(16_262), ipv6: false, ..Request::default() });
    requests
}

/// Undoes one change as another program would, without our knowing.
#[allow(clippy::disallowed_methods, reason = "another program is what is played")]
fn remove(change: &Change) {
    if let Change::Group { name, .. } = change {
        return run(&format!("ip link set dev {name} group 0"));
    }
    let words: Vec<String> = match change.undo() {
        Undo::Vanishes { name } => vec!["ip".into(), "link".into(), "set".into(), name, "down".into()],
        Undo::Sysctl { path, old, .. } => return set(&path, &old),
        Undo::Nft { name } => {
            vec!["nft".into(), "delete".into(), "table".into(), "inet".into(), name]
        }
        undo => undo.to_string().split_whitespace().map(str::to_owned).collect(),
    };
    let out = std::process::Command::new(&words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[allow(clippy::disallowed_methods, reason = "another program is what is played")]
pub fn run(words: &str) {
    let words: Vec<&str> = words.split_whitespace().collect();
    let out = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// The kernel makes a device's link-local address, and what goes with it, on its own time.
fn is_again(during: &Snapshot, what: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let differences = during.diff(&Snapshot::take().unwrap());
        if differences.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{what}: {differences:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn again(request: &Request, applied: &mut Applied<Captured>) -> Vec<String> {
    let host = Snapshot::take_again(NftSupport::Full).unwrap();
    let plan = plan_again(request, applied.plan(), &host).unwrap();
    applied.change_to(plan, &mut no_hook).unwrap()
}

fn every_single_change_is_put_back() {
    for request in with_more_tables() {
        let net = Net::new();
        net.host.run(|| {
            set("net/ipv4/conf/all/rp_filter", "1");
            let before = Snapshot::take().unwrap();
            let plan = planned(&request);
            let (tun, mut applied) = capture(&plan, net.journal());
            let during = Snapshot::take().unwrap();
            assert_eq!(applied.missing(Watched::All).unwrap(), []);
            assert!(plan.steps.iter().any(|step| matches!(step.change, Change::Sysctl { .. })));
            for step in &plan.steps {
                remove(&step.change);
                let missing = applied.missing(Watched::All).unwrap();
                assert!(missing.iter().any(|gone| gone.change == step.change), "not missed: {}", step.change);
                let back = applied.put_back(Watched::All).whole().unwrap();
                assert!(!back.is_empty(), "{}", step.change);
                is_again(&during, &step.change.to_string());
                assert_eq!(applied.put_back(Watched::All).whole().unwrap(), [""; 0], "{}", step.change);
            }
            // All at once, as `ip rule flush` and a reloaded firewall do it.
            for step in plan.steps.iter().rev().filter(|step| !matches!(step.change, Change::Link { .. })) {
                remove(&step.change);
            }
            let back = applied.put_back(Watched::All).whole().unwrap();
            assert!(back.len() >= plan.steps.len() - 1, "{back:?}");
            is_again(&during, "all at once");
            applied.undo(&mut no_hook).unwrap();
            drop(tun);
            is_again(&before, "undone");
        });
    }
}

fn a_device_that_was_set_down_is_set_up_with_all_that_it_lost() {
    let net = Net::new();
    net.host.run(|| {
        let (_tun, mut applied) = capture(&planned(&everything()), net.journal());
        let during = Snapshot::take().unwrap();
        run(&format!("ip link set dev {} mtu 1400 down", applied.plan().tun_name));
        let back = applied.put_back(Watched::All).whole().unwrap();
        // IPv4's routes and all of IPv6 go with the device's being up.
        assert!(back.len() > 4, "{back:?}");
        is_again(&during, "the device is up");
    });
}

/// IPv6 is switched off on our device, by itself or with all others, and then everything that is ours is removed.
fn what_cannot_be_put_back_keeps_nothing_else() {
    for (strict, switch) in [(false, "all"), (true, "all"), (false, "oneway0"), (true, "oneway0")] {
        let net = Net::new();
        net.host.run(|| {
            let request = Request { strict, ..Request::default() };
            let (_tun, mut applied) = capture(&planned(&request), net.journal());
            set(&format!("net/ipv6/conf/{switch}/disable_ipv6"), "1");
            run("nft flush ruleset");
            run("ip rule flush");
            let back = applied.put_back(Watched::All);
            assert!(back.failed.is_some());
            let missing = applied.missing(Watched::All).unwrap();
            let of_ipv6 = |change: &Change| match change {
                Change::Address { net, .. } => net.addr().is_ipv6(),
                Change::Route(route) => route.dst.addr().is_ipv6(),
                Change::Rule(rule) => rule.family == Family::V6,
                _ => false,
            };
            assert!(missing.iter().all(|step| of_ipv6(&step.change)), "{missing:#?}");
            // The plan for such a host switches it on again.
            again(&request, &mut applied);
            applied.put_back(Watched::All).whole().unwrap();
            assert_eq!(applied.missing(Watched::All).unwrap(), []);
            assert_eq!(again(&request, &mut applied), [""; 0]);
            assert_eq!(applied.put_back(Watched::All).whole().unwrap(), [""; 0]);
        });
    }
}

fn foreign_things_stay_and_are_not_missed() {
    let net = Net::new();
    net.host.run(|| {
        let (_tun, mut applied) = capture(&planned(&Request::default()), net.journal());
        let table = applied.plan().table;
        let tun = applied.plan().tun_name.clone();
        run("ip rule add pref 100 fwmark 0x77 lookup 77");
        run("ip -6 rule add pref 100 fwmark 0x77 lookup 77");
        run(&format!("ip route add 198.51.100.128/25 dev {tun} table {table}"));
        run("nft add table inet theirs");
        run("nft add chain inet oneway extra");
        run("nft add rule inet oneway output counter");
        let with = Snapshot::take().unwrap();
        assert_eq!(applied.put_back(Watched::All).whole().unwrap(), [""; 0]);
        assert_eq!(with.diff(&Snapshot::take().unwrap()), [""; 0]);
        // And one of ours beside them is.
        let ours = applied.plan().steps.iter().rev().map(|step| &step.change);
        let rule = ours.clone().find(|change| matches!(change, Change::Rule(_))).unwrap().clone();
        remove(&rule);
        assert_eq!(applied.put_back(Watched::All).whole().unwrap(), [rule.to_string()]);
        assert_eq!(with.diff(&Snapshot::take().unwrap()), [""; 0]);
    });
}

fn nftables_are_compared_rule_by_rule() {
    for request in requests() {
        let net = Net::new();
        net.host.run(|| {
            let (_tun, mut applied) = capture(&planned(&request), net.journal());
            let mut put_back = |what: &str| {
                assert_eq!(
                    applied.put_back(Watched::All).whole().unwrap(),
                    ["nft table inet oneway"],
                    "{what}"
                );
                assert_eq!(applied.put_back(Watched::All).whole().unwrap(), [""; 0], "{what}");
            };
            let rules = |chain: &str| {
                let text = listed(&format!("nft -a list chain inet oneway {chain}"));
                let handle = |line: &str| {
                    let (rule, handle) = line.rsplit_once("# handle ")?;
                    (rule.starts_with("\t\t") && !rule.contains("type ")).then(|| handle.trim().to_owned())
                };
                text.lines().filter_map(handle).collect::<Vec<_>>()
            };
            for chain in ["prerouting", "output"] {
                let count = rules(chain).len();
                assert!(count >= 2, "{chain}");
                for n in 0..count {
                    let handle = rules(chain)[n].clone();
                    run(&format!("nft delete rule inet oneway {chain} handle {handle}"));
                    put_back(&format!("rule {n} of {chain}"));
                    assert_eq!(rules(chain).len(), count);
                }
                run(&format!("nft flush chain inet oneway {chain}"));
                put_back(&format!("flushed {chain}"));
                run(&format!("nft delete chain inet oneway {chain}"));
                put_back(&format!("deleted {chain}"));
            }
            // Changed, not removed.
            let handle = rules("output")[0].clone();
            run(&format!("nft replace rule inet oneway output handle {handle} counter"));
            put_back("a rule that is another now");
            run("nft add table inet oneway { flags dormant ; }");
            put_back("a table that sleeps");
            run("nft flush ruleset");
            put_back("no ruleset at all");
        });
    }
}

#[allow(clippy::disallowed_methods, reason = "comparing with what other programs see")]
fn listed(words: &str) -> String {
    let words: Vec<&str> = words.split_whitespace().collect();
    let out = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

fn the_kernel_announces_every_kind_of_change() {
    let net = Net::new();
    net.host.run(|| {
        let mut monitor = Monitor::open().unwrap();
        let long = Duration::from_secs(5);
        let mut told = |words: &str, which: fn(&oneway_route::Changes) -> bool| {
            while monitor.wait(Duration::from_millis(20)).unwrap().any() {}
            run(words);
            let begin = Instant::now();
            while !which(&monitor.wait(long).unwrap()) {
                assert!(begin.elapsed() < long, "nothing was told of {words}");
            }
        };
        told("ip rule add pref 7 fwmark 7 lookup 7", |c| c.rules);
        told("ip -6 rule add pref 7 fwmark 7 lookup 7", |c| c.rules);
        told("ip rule del pref 7", |c| c.rules);
        told("ip -6 rule del pref 7", |c| c.rules);
        told("ip route add 198.51.100.128/25 dev eth0 table 7", |c| c.routes);
        told("ip -6 route add 2001:db8:7::/64 dev eth0 table 7", |c| c.routes);
        told("ip route del 198.51.100.128/25 table 7", |c| c.routes);
        told("ip -6 route del 2001:db8:7::/64 table 7", |c| c.routes);
        told("ip nexthop add id 7 dev eth0", |c| c.routes);
        told("ip nexthop replace id 7 dev eth1", |c| c.routes);
        told("ip nexthop del id 7", |c| c.routes);
        told("ip address add 192.0.2.77/24 dev eth0", |c| c.addresses);
        told("ip -6 address add 2001:db8:a::77/64 dev eth0", |c| c.addresses);
        told("ip link set dev eth1 down", |c| c.links);
        told("sysctl -q -w net.ipv4.conf.eth0.rp_filter=1", |c| c.links);
        told("nft add table inet theirs", |c| c.nftables);
        told("nft delete table inet theirs", |c| c.nftables);
        // A waker ends a wait from anywhere, also one that has not begun.
        while monitor.wait(Duration::from_millis(20)).unwrap().any() {}
        let waker = monitor.waker();
        std::thread::spawn(move || waker.wake()).join().unwrap();
        let begin = Instant::now();
        let changes = monitor.wait(long).unwrap();
        assert!(changes.woken && !changes.any() && begin.elapsed() < long, "{changes:?}");
        assert!(!monitor.wait(Duration::from_millis(5)).unwrap().woken);
        // More than the socket holds: the kernel drops some, and says so.
        let wire = Wire::open();
        let begin = Instant::now();
        loop {
            for n in 0..1000 {
                wire.route(&format!("10.{}.{}.0/24", n / 250, n % 250), None, "eth0", 0, 1000 + n, 4);
            }
            run("ip route flush proto 4 table all");
            let mut changes = monitor.wait(long).unwrap();
            for _ in 0..10 {
                changes.add(monitor.wait(Duration::from_millis(1)).unwrap());
            }
            if changes.lost {
                break;
            }
            assert!(begin.elapsed() < 4 * long, "nothing was lost");
        }
    });
}

fn sources(applied: &Applied<Captured>) -> Vec<Option<std::net::IpAddr>> {
    let plan = applied.plan();
    Family::ALL
        .into_iter()
        .map(|family| query(&RouteQuery::to(plan.samples_of(family).next().unwrap())).unwrap().prefsrc)
        .collect()
}

fn a_plan_follows_the_uplinks_and_goes_back() {
    for request in requests() {
        let net = Net::new();
        net.host.run(|| {
            let before = Snapshot::take().unwrap();
            let (tun, mut applied) = capture(&planned(&request), net.journal());
            let start = Snapshot::take().unwrap();
            let name =
                |applied: &Applied<Captured>| applied.plan().uplinks.v4.as_ref().map(|u| u.name.clone());
            assert_eq!(name(&applied).as_deref(), Some("eth0"));
            // The first uplink loses its default routes.
            run("ip route del default dev eth0");
            run("ip -6 route del default dev eth0");
            assert!(!again(&request, &mut applied).is_empty());
            assert_eq!(name(&applied).as_deref(), Some("eth1"));
            let second: Vec<_> = ["198.51.100.2", "2001:db8:b::2"].map(|a| a.parse().ok()).into();
            assert_eq!(sources(&applied), second);
            assert_eq!(applied.missing(Watched::All).unwrap(), []);
            // The second as well: still captured, and nothing is missing.
            run("ip route del default dev eth1");
            run("ip -6 route del default dev eth1");
            assert!(!again(&request, &mut applied).is_empty());
            assert_eq!(name(&applied), None);
            for far in [FAR4, FAR6] {
                let way = query(&RouteQuery::to(far.parse().unwrap())).unwrap();
                // A server that is lost is not reached by another way, least of all by the device.
                let lost = request.protect.is_host_route();
                assert_eq!(way.oif_name, if lost { "" } else { &applied.plan().tun_name });
            }
            assert_eq!(applied.missing(Watched::All).unwrap(), []);
            // Both are back, and all is as it was.
            for (dev, v4, v6, metric) in
                [("eth0", "192.0.2.1", "2001:db8:a::1", 100), ("eth1", "198.51.100.1", "2001:db8:b::1", 200)]
            {
                run(&format!("ip route add default via {v4} dev {dev} metric {metric} proto 4"));
                run(&format!("ip -6 route add default via {v6} dev {dev} metric {metric} proto 4"));
            }
            again(&request, &mut applied);
            assert_eq!(name(&applied).as_deref(), Some("eth0"));
            assert_eq!(start.diff(&Snapshot::take().unwrap()), [""; 0]);
            // An address that changes: the kernel removes the route that names it.
            run("ip address del 192.0.2.2/24 dev eth0");
            run("ip address add 192.0.2.3/24 dev eth0");
            run("ip route add default via 192.0.2.1 dev eth0 metric 100 proto 4");
            again(&request, &mut applied);
            // With the address the kernel removed every route by its network's gateway, a server's among them.
            applied.put_back(Watched::All).whole().unwrap();
            assert_eq!(sources(&applied)[0], "192.0.2.3".parse().ok());
            assert_eq!(applied.missing(Watched::All).unwrap(), []);
            run("ip address del 192.0.2.3/24 dev eth0");
            run("ip address add 192.0.2.2/24 dev eth0");
            run("ip route add default via 192.0.2.1 dev eth0 metric 100 proto 4");
            again(&request, &mut applied);
            // The journal holds no more than there is.
            let lines = std::fs::read_to_string(net.journal()).unwrap().lines().count();
            assert_eq!(lines, 1 + applied.plan().steps.len());
            applied.undo(&mut no_hook).unwrap();
            drop(tun);
            // A program that is just being started by another test holds a copy of the device until it runs.
            is_again(&before, "undone");
        });
    }
}

/// Another VPN of the kind of wg-quick comes while we run: its own transport, which carries its mark, must not be captured,
/// or the two would carry each other (L11).
fn another_vpn_that_comes_later_is_not_captured() {
    let net = Net::new();
    net.host.run(|| {
        let request = Request::default();
        let (_tun, mut applied) = capture(&planned(&request), net.journal());
        let start = Snapshot::take().unwrap();
        let tun = applied.plan().tun_name.clone();
        let mark = oneway_route::Mark(51_820);
        let vpn = Tun::open("vpn0");
        run("ip link set vpn0 up");
        for ip in ["ip", "ip -6"] {
            run(&format!("{ip} route add default dev vpn0 table 51820"));
            run(&format!("{ip} rule add pref 20001 not fwmark 51820 table 51820"));
            run(&format!("{ip} rule add pref 20000 table main suppress_prefixlength 0"));
        }
        for far in [FAR4, FAR6].map(|a| a.parse().unwrap()) {
            let captured = query(&RouteQuery::to(far).marked(mark)).unwrap().oif_name == tun;
            assert!(captured, "without following there is a circle, and this test shows nothing");
        }
        assert!(!again(&request, &mut applied).is_empty());
        for far in [FAR4, FAR6].map(|a| a.parse().unwrap()) {
            assert_eq!(query(&RouteQuery::to(far).marked(mark)).unwrap().oif_name, "eth0");
            // Programs are captured, and our own sockets leave by the VPN, as they would without us.
            assert_eq!(query(&RouteQuery::to(far)).unwrap().oif_name, tun);
            let own = applied.plan().mark.unwrap();
            assert_eq!(query(&RouteQuery::to(far).marked(own)).unwrap().oif_name, "vpn0");
        }
        assert_eq!(again(&request, &mut applied), [""; 0], "it is steady");
        for ip in ["ip", "ip -6"] {
            run(&format!("{ip} rule del pref 20001"));
            run(&format!("{ip} rule del pref 20000"));
        }
        drop(vpn);
        again(&request, &mut applied);
        // Whom connection tracking remembers no socket does: it goes on, and the switches for that stay off.
        let differs = start.diff(&Snapshot::take().unwrap());
        assert!(differs.iter().all(|line| line.contains("fwmark_")), "{differs:?}");
    });
}

fn a_plan_for_the_same_host_changes_nothing() {
    for request in with_more_tables() {
        let net = Net::new();
        net.host.run(|| {
            set("net/ipv4/conf/all/rp_filter", "1");
            let (_tun, mut applied) = capture(&planned(&request), net.journal());
            let plan = applied.plan().clone();
            for _ in 0..3 {
                assert_eq!(again(&request, &mut applied), [""; 0]);
                assert_eq!(applied.plan().steps, plan.steps);
                assert_eq!(applied.plan().uplinks, plan.uplinks);
            }
            let host = Snapshot::take_again(NftSupport::Full).unwrap();
            assert_eq!(find_uplinks(&host, &plan.tun_name, None), plan.uplinks);
            assert_eq!(find_uplinks(&host, &plan.tun_name, Some("gone0")), Default::default());
        });
    }
}

/// Killed at every step of a move: recovering leaves the host as it was.
fn every_point_of_a_move() {
    let request = everything();
    let mut points = 0;
    loop {
        let net = Net::new();
        let done = net.host.run(|| {
            let before = Snapshot::take().unwrap();
            let (tun, mut applied) = capture(&planned(&request), net.journal());
            run("ip route del default dev eth0");
            run("ip -6 route del default dev eth0");
            let host = Snapshot::take_again(NftSupport::Full).unwrap();
            let plan = plan_again(&request, applied.plan(), &host).unwrap();
            let mut count = 0;
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                applied.change_to(plan, &mut |_: StepPoint| {
                    count += 1;
                    // What unwinds here does nothing more to the host, as a process that is killed.
                    if count > points {
                        std::panic::resume_unwind(Box::new(()));
                    }
                })
            }));
            drop(applied);
            drop(tun);
            recover(&net.journal()).unwrap();
            run("ip route add default via 192.0.2.1 dev eth0 metric 100 proto 4");
            run("ip -6 route add default via 2001:db8:a::1 dev eth0 metric 100 proto 4");
            assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0], "point {points}");
            outcome.is_ok()
        });
        if done {
            assert!(points > 5, "{points}");
            return;
        }
        points += 1;
    }
}
