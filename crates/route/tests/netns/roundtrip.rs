//! Plans made real and undone again.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use oneway_route::{
    Cgroup, Journal, JournalState, PROTOCOL, Protect, Request, RouteError, RouteKind, RouteQuery, Snapshot,
    Watched, apply, no_hook, prove_rules, query, recover,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::drift::run;
use crate::host::{FAR4, FAR6, HOST4, HOST6, Net, SWITCHES, Tun, capture, planned, protections, set};
use crate::namespace::{other_group, other_user};
use crate::wire::Wire;

crate::trials!(
    every_change_is_undone,
    a_bound_socket_is_not_captured,
    each_protection_does_what_it_says,
    host_routes_go_by_whatever_gateway_the_host_has,
    a_second_instance_is_refused,
    a_lock_that_was_asked_often_still_answers,
    a_lock_that_was_let_go_is_free_whoever_has_a_copy,
    recovery_works_by_tag_alone,
    a_journal_that_is_lost_while_it_runs_is_put_back,
    switches_that_nobody_knows_any_more_are_named,
    recovery_leaves_foreign_things_alone,
    a_switch_that_others_changed_is_not_restored,
    a_torn_journal_is_applied_as_far_as_it_goes,
    a_journal_of_another_namespace_is_left_alone,
    includes_excludes_and_users,
    the_group_of_excluded_programs_comes_and_goes,
    the_same_plan_twice_is_harmless,
    printed_state_is_equal_byte_for_byte,
    nft_prints_what_the_plan_prints,
);

fn requests() -> Vec<Request> {
    let base = Request::default();
    let mut requests = vec![
        base.clone(),
        Request { protect: Protect::Bind, interface: Some("eth1".into()), ..base.clone() },
        Request { forwarded: true, exclude_uids: other_user().into_iter().collect(), ..base.clone() },
        Request {
            include: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:ffff::/48".parse().unwrap()],
            exclude: vec!["203.0.113.128/25".parse().unwrap()],
            ..base.clone()
        },
        Request { exclude_cgroups: vec![other_group()], ..base.clone() },
        Request { track: true, ..base.clone() },
        Request { ipv6: false, mtu: 1500, ..base },
    ];
    requests.extend(protections());
    requests
}

fn every_change_is_undone() {
    let handed = [
        Request { strict: true, tproxy: Some(16_262), forwarded: true, ..Request::default() },
        Request { strict: true, redirect: Some(16_262), ipv6: false, ..Request::default() },
    ];
    for request in requests().into_iter().chain(handed) {
        let net = Net::new();
        net.host.run(|| {
            set("net/ipv4/conf/all/rp_filter", "1");
            let before = Snapshot::take().unwrap();
            let plan = planned(&request);
            let (tun, applied) = capture(&plan, net.journal());
            let during = Snapshot::take().unwrap();
            assert!(during.diff(&before).len() >= plan.steps.len(), "{:#?}", before.diff(&during));
            for family in plan.families.iter() {
                for sample in plan.samples_of(*family) {
                    let way = query(&RouteQuery::to(sample)).unwrap();
                    assert_eq!(way.oif_name, plan.tun_name, "{request:?}");
                    assert_eq!(way.prefsrc, plan.uplinks.get(*family).unwrap().address);
                }
            }
            applied.undo(&mut no_hook).unwrap();
            drop(tun);
            assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
            assert!(!net.journal().exists());
        });
    }
}

/// The rule matches a bound socket as well. The route in our table leads to another device than the
/// socket's and is passed over, so the look-up goes on to main.
fn a_bound_socket_is_not_captured() {
    let net = Net::new();
    net.host.run(|| {
        let request =
            Request { protect: Protect::Bind, interface: Some("eth0".into()), ..Request::default() };
        let plan = planned(&request);
        let eth1 = Snapshot::take().unwrap().link("eth1").unwrap().index;
        let (_tun, _applied) = capture(&plan, net.journal());
        for far in [FAR4, FAR6].map(|a| a.parse().unwrap()) {
            assert_eq!(query(&RouteQuery::to(far)).unwrap().oif_name, plan.tun_name);
            for (name, index) in [("eth0", plan.uplinks.v4.as_ref().unwrap().index), ("eth1", eth1)] {
                let answer = query(&RouteQuery::to(far).bound(index)).unwrap();
                assert_eq!(answer.oif_name, name);
                assert!(answer.gateway.is_some(), "by way of main's default route: {answer:?}");
            }
        }
    });
}

/// What the kernel says about our own sockets, and about programs that look like them, under each protection.
fn each_protection_does_what_it_says() {
    for request in protections() {
        let net = Net::new();
        net.host.run(|| {
            let plan = planned(&request);
            let (_tun, _applied) = capture(&plan, net.journal());
            let way = |query: RouteQuery| oneway_route::query(&query).unwrap();
            for (far, own) in [(FAR4, HOST4), (FAR6, HOST6)] {
                let (to, own) = (RouteQuery::to(far.parse().unwrap()), own.parse().unwrap());
                match request.protect {
                    Protect::SourceRule => {
                        let (first, last) = plan.sources.unwrap().ports;
                        for port in [first, last] {
                            assert_eq!(way(to.from(own, port)).oif_name, "eth0");
                        }
                        // K7: a program that binds the address alone, or such a port alone, does not escape.
                        for port in [first - 1, last + 1] {
                            assert_eq!(way(to.from(own, port)).oif_name, plan.tun_name);
                        }
                        assert_eq!(way(RouteQuery { src: Some(own), ..to }).oif_name, plan.tun_name);
                        assert_eq!(way(RouteQuery { sport: Some(first), ..to }).oif_name, plan.tun_name);
                        if let Some(other) = other_user() {
                            let theirs = RouteQuery { uid: Some(other), ..to.from(own, first) };
                            assert_eq!(way(theirs).oif_name, plan.tun_name, "of another user");
                        }
                    }
                    Protect::HostRoute | Protect::HostRouteHalves => {
                        assert_eq!(way(to).oif_name, "eth0");
                        // Whatever others have for the server, and without its gateway nothing at all.
                        let ip = if own.is_ipv4() { "ip" } else { "ip -6" };
                        tool(&format!("{ip} route add {far} dev {}", plan.tun_name));
                        assert_eq!(way(to).oif_name, "eth0");
                        tool(&format!("{ip} route del {far} dev eth0 table {}", plan.table));
                        let lost = way(to);
                        assert_eq!((lost.kind, lost.oif), (RouteKind::Unreachable, None));
                    }
                    Protect::MarkTerminal | Protect::MarkIfgroup => {
                        let marked = to.marked(plan.mark.unwrap());
                        assert_eq!(way(marked).oif_name, "eth0");
                        let ip = if own.is_ipv4() { "ip" } else { "ip -6" };
                        tool(&format!("{ip} route add {far} dev {}", plan.tun_name));
                        let astray = way(marked).oif_name == plan.tun_name;
                        assert_eq!(
                            astray,
                            request.protect == Protect::MarkTerminal,
                            "a route into the device"
                        );
                        tool(&format!("{ip} route del {far} dev {}", plan.tun_name));
                        // Without a way in main it is not sent, whatever a rule behind ours says.
                        tool(&format!("{ip} rule add pref 32765 lookup 77"));
                        tool(&format!("{ip} route add default dev {} table 77", plan.tun_name));
                        for dev in ["eth0", "eth1"] {
                            tool(&format!("{ip} route del default dev {dev}"));
                        }
                        let ended = way(marked);
                        assert_eq!((ended.kind, ended.oif), (RouteKind::Unreachable, None));
                    }
                    _ => assert_eq!(way(to).oif_name, plan.tun_name),
                }
            }
        });
    }
}

#[allow(clippy::disallowed_methods, reason = "the administrator of the host is played")]
fn tool(words: &str) {
    let words: Vec<&str> = words.split_whitespace().collect();
    let out = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// As hosting companies have them: no network of an address holds the gateway. IPv4 has one of IPv6 besides (RFC 5549).
fn host_routes_go_by_whatever_gateway_the_host_has() {
    let gateways = [("198.51.100.77", "2001:db8:77::1"), ("inet6 fe80::1", "fe80::1")];
    let of_servers = protections().into_iter().filter(|request| request.protect.is_host_route());
    let cases = of_servers.flat_map(|request| gateways.map(|gateways| (request.clone(), gateways)));
    for (request, (v4, v6)) in cases {
        let net = Net::new();
        net.host.run(|| {
            run("ip link del eth1");
            run("ip address flush dev eth0 scope global");
            run("ip address add 192.0.2.2/32 dev eth0");
            run("ip -6 address add 2001:db8:a::2/128 dev eth0 nodad");
            run(&format!("ip -4 route add default via {v4} dev eth0 onlink"));
            run("ip -6 route del default dev eth0");
            run(&format!("ip -6 route add default via {v6} dev eth0 onlink"));
            let before = Snapshot::take().unwrap();
            let plan = planned(&request);
            let (tun, mut applied) = capture(&plan, net.journal());
            for (far, gateway) in [(FAR4, v4), (FAR6, v6)] {
                let answer = query(&RouteQuery::to(far.parse().unwrap())).unwrap();
                let gateway = gateway.trim_start_matches("inet6 ").parse().ok();
                assert_eq!((answer.oif_name.as_str(), answer.gateway), ("eth0", gateway), "{request:?}");
                assert_eq!(answer.table, Some(plan.table));
            }
            assert_eq!(
                applied.put_back(Watched::All).whole().unwrap(),
                [""; 0],
                "what was made is what was planned"
            );
            applied.undo(&mut no_hook).unwrap();
            drop(tun);
            assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
        });
    }
}

fn a_second_instance_is_refused() {
    let (net, other) = (Net::new(), Net::new());
    net.host.run(|| {
        let plan = planned(&Request::default());
        let (_tun, applied) = capture(&plan, net.journal());
        let busy = Journal::create(&net.dir.path().join("second")).unwrap_err();
        assert!(matches!(busy, RouteError::Running { pid: Some(p) } if p == std::process::id()), "{busy}");
        assert!(matches!(recover(&net.journal()), Err(RouteError::Running { .. })));
        // Another namespace is another host.
        other.host.run(|| {
            let plan = planned(&Request::default());
            let (_tun, applied) = capture(&plan, other.journal());
            applied.undo(&mut no_hook).unwrap();
        });
        prove_rules(&plan, &[]).unwrap();
        applied.undo(&mut no_hook).unwrap();
    });
}

/// Nobody accepts at the lock, so that whoever asks stays in its queue: every `oneway exclude` does.
fn a_lock_that_was_asked_often_still_answers() {
    let net = Net::new();
    net.host.run(|| {
        let held = Journal::create(&net.journal()).unwrap();
        // Beyond `net.core.somaxconn`, which is this namespace's own.
        set("net/core/somaxconn", "64");
        for _ in 0..10_000 {
            assert!(oneway_route::instance_runs());
        }
        let busy = Journal::create(&net.dir.path().join("second")).unwrap_err();
        assert!(matches!(busy, RouteError::Running { .. }), "{busy}");
        drop(held);
        assert!(!oneway_route::instance_runs());
        if let Some(user) = other_user() {
            let _squatter = squat(user);
            for _ in 0..200 {
                assert!(oneway_route::instance_runs());
            }
            // Another user's does not count, though none of its connections tells whose it is.
            drop(Journal::create(&net.dir.path().join("third")).unwrap());
        }
    });
}

/// What a process has that was forked meanwhile, and has not begun its program.
fn copy_of_the_lock() -> OwnedFd {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    let line = sockets.lines().find(|line| line.ends_with(" @oneway/route")).unwrap();
    let link = format!("socket:[{}]", line.split_whitespace().nth(6).unwrap());
    let mut files = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap());
    let file = files
        .find(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
        .unwrap();
    let number = file.file_name().to_str().unwrap().parse().unwrap();
    let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(me, number, PidfdGetfdFlags::empty()).unwrap()
}

fn a_lock_that_was_let_go_is_free_whoever_has_a_copy() {
    let net = Net::new();
    let second = net.dir.path().join("second");
    net.host.run(|| {
        let held = Journal::create(&net.journal()).unwrap();
        let copy = copy_of_the_lock();
        assert!(oneway_route::instance_runs());
        drop(held);
        assert!(!oneway_route::instance_runs());
        // Not taken while there is a copy, since a third would take it as well.
        assert!(matches!(Journal::create(&second).unwrap_err(), RouteError::Kept));
        let began = std::thread::scope(|scope| {
            let waits = scope.spawn(|| Journal::create(&second).map(drop));
            drop(copy);
            waits.join().unwrap()
        });
        began.unwrap();
    });
}

/// Takes the lock's name as another user.
fn squat(user: u32) -> UnixListener {
    let as_that_user = move || {
        let user = rustix::process::Uid::from_raw(user);
        // This thread alone becomes that user.
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        UnixListener::bind_addr(&SocketAddr::from_abstract_name("oneway/route").unwrap()).unwrap()
    };
    std::thread::spawn(as_that_user).join().unwrap()
}

/// All but the switches, which carry no tag: here they are as they are to be.
fn recovery_works_by_tag_alone() {
    for request in requests() {
        let net = Net::new();
        net.host.run(|| {
            SWITCHES.iter().for_each(|path| set(path, "1"));
            let before = Snapshot::take().unwrap();
            let (tun, applied) = capture(&planned(&request), net.journal());
            std::fs::remove_file(net.journal()).unwrap();
            drop(applied);
            drop(tun);
            let recovered = recover(&net.journal()).unwrap();
            assert_eq!((recovered.undone, recovered.journal), (0, JournalState::None));
            assert!(recovered.by_tag > 0);
            assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
        });
    }
}

/// Whatever clears `/run` takes it along.
fn a_journal_that_is_lost_while_it_runs_is_put_back() {
    let net = Net::new();
    net.host.run(|| {
        set("net/ipv4/conf/all/rp_filter", "1");
        let before = Snapshot::take().unwrap();
        let (tun, mut applied) = capture(&planned(&Request::default()), net.journal());
        std::fs::remove_file(net.journal()).unwrap();
        let done = applied.put_back(Watched::Switches).whole().unwrap();
        assert_eq!(done, [format!("the journal {}", net.journal().display())]);
        assert_eq!(applied.put_back(Watched::All).whole().unwrap(), [""; 0]);
        // As after a crash.
        drop((applied, tun));
        let recovered = recover(&net.journal()).unwrap();
        assert_eq!((recovered.journal, recovered.by_tag), (JournalState::Applied, 0));
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
    });
}

/// With the journal goes what they were; tags tell of the rest.
fn switches_that_nobody_knows_any_more_are_named() {
    let net = Net::new();
    net.host.run(|| {
        let (tun, applied) = capture(&planned(&Request::default()), net.journal());
        drop((applied, tun));
        std::fs::remove_file(net.journal()).unwrap();
        let recovered = recover(&net.journal()).unwrap();
        assert_eq!((recovered.undone, recovered.journal), (0, JournalState::None));
        assert_eq!(recovered.switches, SWITCHES);
        // Nothing of ours is here any more: whoever has set them now, it may not have been us.
        assert_eq!(recover(&net.journal()).unwrap().switches, [""; 0]);
    });
}

/// K11: what carries other protocol numbers, or our number in a table of the host, is not ours.
fn recovery_leaves_foreign_things_alone() {
    let net = Net::new();
    net.host.run(|| {
        let wire = Wire::open();
        for (v6, dst) in [(false, "203.0.113.0/24"), (true, "2001:db8:ffff::/48")] {
            wire.rule(v6, 100, 4321, 99);
            wire.route(dst, None, "eth1", 5, 4321, 99);
            wire.route(dst, None, "eth1", 5, 254, PROTOCOL);
        }
        let before = Snapshot::take().unwrap();
        let recovered = recover(&net.journal()).unwrap();
        assert_eq!((recovered.undone, recovered.by_tag), (0, 0));
        let (tun, applied) = capture(&planned(&Request { ipv6: true, ..Request::default() }), net.journal());
        drop((applied, tun));
        recover(&net.journal()).unwrap();
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
    });
}

fn a_switch_that_others_changed_is_not_restored() {
    let net = Net::new();
    net.host.run(|| {
        let switch = "net/ipv4/conf/all/src_valid_mark";
        set("net/ipv4/conf/eth0/rp_filter", "1");
        let (_tun, applied) = capture(&planned(&Request::default()), net.journal());
        assert_eq!(Snapshot::take().unwrap().sysctl(switch), 1);
        set(switch, "0");
        set(switch, "1");
        applied.undo(&mut no_hook).unwrap();
        assert_eq!(Snapshot::take().unwrap().sysctl(switch), 0, "still our value");

        let (_tun, applied) = capture(&planned(&Request::default()), net.journal());
        set(switch, "0");
        applied.undo(&mut no_hook).unwrap();
        assert_eq!(Snapshot::take().unwrap().sysctl(switch), 0, "not our value any more");
    });
}

fn a_torn_journal_is_applied_as_far_as_it_goes() {
    let net = Net::new();
    net.host.run(|| {
        let before = Snapshot::take().unwrap();
        let (tun, applied) = capture(&planned(&Request::default()), net.journal());
        drop((applied, tun));
        let whole = std::fs::read(net.journal()).unwrap();
        std::fs::write(net.journal(), &whole[..whole.len() * 2 / 3]).unwrap();
        let recovered = recover(&net.journal()).unwrap();
        assert!(recovered.undone > 0 && recovered.by_tag > 0, "{recovered:?}");
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
    });
}

fn a_journal_of_another_namespace_is_left_alone() {
    let (net, other) = (Net::new(), Net::new());
    net.host.run(|| {
        set("net/ipv4/conf/all/rp_filter", "1");
        let (_tun, applied) = capture(&planned(&Request::default()), net.journal());
        other.host.run(|| {
            set("net/ipv4/conf/all/src_valid_mark", "1");
            let recovered = recover(&net.journal()).unwrap();
            assert_eq!((recovered.undone, recovered.journal), (0, JournalState::Elsewhere));
            assert_eq!(Snapshot::take().unwrap().sysctl("net/ipv4/conf/all/src_valid_mark"), 1);
        });
        assert!(net.journal().exists());
        applied.undo(&mut no_hook).unwrap();

        let text = r#"{"journal":"oneway route","version":1,"boot":"another","netns":1,"pid":1}"#;
        std::fs::write(net.journal(), format!("{text}\n")).unwrap();
        assert_eq!(recover(&net.journal()).unwrap().journal, JournalState::OtherBoot);
        assert!(!net.journal().exists());
    });
}

fn includes_excludes_and_users() {
    let net = Net::new();
    net.host.run(|| {
        let request = Request {
            // An on-link network lies inside, and one is named itself.
            include: ["192.0.0.0/16", "203.0.113.0/24", "198.51.100.0/24", "2001:db8::/32"]
                .map(|n| n.parse().unwrap())
                .into(),
            exclude: ["203.0.113.64/26", "2001:db8:ffff:1::/64"].map(|n| n.parse().unwrap()).into(),
            exclude_uids: other_user().into_iter().collect(),
            ..Request::default()
        };
        let plan = planned(&request);
        let (_tun, _applied) = capture(&plan, net.journal());
        let way = |dst: &str| query(&RouteQuery::to(dst.parse().unwrap())).unwrap().oif_name;
        let tun = plan.tun_name.as_str();
        assert_eq!(way("203.0.113.9"), tun);
        assert_eq!(way("203.0.113.65"), "eth0", "excluded");
        assert_eq!(way("192.0.99.1"), tun);
        assert_eq!(way("192.0.2.77"), "eth0", "on-link, inside an include");
        assert_eq!(way("198.51.100.77"), tun, "on-link, but included itself");
        assert_eq!(way("8.8.8.8"), "eth0", "not included");
        assert_eq!(way(FAR6), tun);
        assert_eq!(way("2001:db8:ffff:1::1"), "eth0");
        assert_eq!(way("2001:db8:a::77"), "eth0");
        for far in [FAR4, FAR6] {
            let Some(other) = other_user() else { continue };
            let user = RouteQuery { uid: Some(other), ..RouteQuery::to(far.parse().unwrap()) };
            assert_eq!(query(&user).unwrap().oif_name, "eth0", "excluded user");
            let user = RouteQuery { uid: Some(other + 1), ..user };
            assert_eq!(query(&user).unwrap().oif_name, tun);
        }
        let multicast = query(&RouteQuery::to("224.0.0.251".parse().unwrap())).unwrap();
        assert_eq!((multicast.oif_name.as_str(), multicast.kind), ("eth0", RouteKind::Multicast));
    });
}

/// Without the right to make control groups, as in a user namespace, there is nothing to try.
fn the_group_of_excluded_programs_comes_and_goes() {
    let net = Net::new();
    net.host.run(|| {
        assert_eq!(
            Cgroup::find("/no/such/group").unwrap_err().to_string().split(" below").next(),
            Some("there is no control group \"/no/such/group\"")
        );
        for bad in ["/", "", "a/../b", "/proc"] {
            assert!(Cgroup::find(bad).is_err(), "{bad}");
        }
        assert_eq!(Cgroup::ours().unwrap(), None);
        if !rustix::process::geteuid().is_root()
            || std::fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().nth(1) != Some("0")
        {
            return;
        }
        let group = Cgroup::make_ours().unwrap();
        assert!(group.ours && group.level == 1);
        assert_eq!(Cgroup::make_ours().unwrap(), group);
        assert_eq!(Cgroup { ours: true, ..Cgroup::find(&group.path).unwrap() }, group);
        let request = Request { exclude_cgroups: vec![group.clone()], ..Request::default() };
        let plan = planned(&request);
        assert!(!group.is_excluded().unwrap());
        let (_tun, applied) = capture(&plan, net.journal());
        assert!(group.is_excluded().unwrap());
        assert!(!Cgroup { id: group.id + 1, ..group.clone() }.is_excluded().unwrap());
        assert!(!Cgroup { level: 2, ..group.clone() }.is_excluded().unwrap());
        applied.undo(&mut no_hook).unwrap();
        assert_eq!(Cgroup::ours().unwrap(), None, "it was empty");
        assert!(!group.is_excluded().unwrap());
        // By the tag of its name, too.
        Cgroup::make_ours().unwrap();
        assert_eq!(recover(&net.journal()).unwrap().by_tag, 0, "nobody was in it");
        assert_eq!(Cgroup::ours().unwrap(), None);
    });
}

/// K10: what is there already is no error.
fn the_same_plan_twice_is_harmless() {
    let net = Net::new();
    net.host.run(|| {
        let before = Snapshot::take().unwrap();
        let plan =
            planned(&Request { exclude_uids: other_user().into_iter().collect(), ..Request::default() });
        let (tun, applied) = capture(&plan, net.journal());
        let once = Snapshot::take().unwrap();
        drop(applied);
        std::fs::remove_file(net.journal()).unwrap();
        let journal = Journal::create(&net.journal()).unwrap();
        let again = apply(plan.clone(), journal, &mut no_hook).unwrap();
        let again = again.verify(&[], &mut no_hook).unwrap().capture(&[], &mut no_hook).unwrap();
        assert_eq!(once.diff(&Snapshot::take().unwrap()), [""; 0]);
        again.undo(&mut no_hook).unwrap();
        drop(tun);
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
        let _ = Tun::open(&plan.tun_name);
    });
}

/// What the usual tools print. They are asked, never used to change anything.
#[allow(clippy::disallowed_methods, reason = "comparing with what other programs see")]
fn printed() -> Vec<String> {
    let commands: [&[&str]; 9] = [
        &["ip", "rule"],
        &["ip", "-6", "rule"],
        &["ip", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "address"],
        &["ip", "-d", "link"],
        &["nft", "list", "ruleset"],
        &["sysctl", "-e", "-a", "--pattern", "rp_filter|src_valid_mark|forward|disable_ipv6"],
        &["ip", "nexthop"],
    ];
    let run = |c: &&[&str]| {
        let out =
            std::process::Command::new(c[0]).args(&c[1..]).output().unwrap_or_else(|e| panic!("{c:?}: {e}"));
        assert!(out.status.success(), "{c:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    commands.iter().map(run).collect()
}

fn printed_state_is_equal_byte_for_byte() {
    let net = Net::new();
    net.host.run(|| {
        set("net/ipv4/conf/all/rp_filter", "1");
        let before = printed();
        let (tun, applied) = capture(&planned(&Request::default()), net.journal());
        assert_ne!(before, printed());
        applied.undo(&mut no_hook).unwrap();
        drop(tun);
        assert_eq!(before, printed());
    });
}

/// The words of the plan are those that `nft` has for what was made.
#[allow(clippy::disallowed_methods, reason = "comparing with what other programs see; plain sockets")]
fn nft_prints_what_the_plan_prints() {
    // `nft` wants to show a group by its path, and there is none.
    for request in requests().into_iter().filter(|request| request.exclude_cgroups.is_empty()) {
        let net = Net::new();
        net.host.run(|| {
            // One port that the world is connected to, one that nobody is, one on loopback.
            let server = TcpListener::bind("[::]:4433").unwrap();
            let _idle = TcpListener::bind("[::]:4434").unwrap();
            let private = TcpListener::bind("127.0.0.1:4435").unwrap();
            let _client = net.world.run(|| TcpStream::connect((HOST4, 4433)).unwrap());
            let _neighbour = TcpStream::connect("127.0.0.1:4435").unwrap();
            let _sessions = [server.accept().unwrap(), private.accept().unwrap()];
            let plan = planned(&request);
            let tracked = plan.text().contains("ct direction");
            let sports = plan.text().matches("tcp sport 4").count();
            let port = plan.text().contains("tcp sport 4433 ");
            assert!(sports == usize::from(tracked) && port == tracked, "{}", plan.text());
            let (_tun, _applied) = capture(&plan, net.journal());
            let out = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
            let listed = String::from_utf8(out.stdout).unwrap();
            let words = |text: &str| {
                // What the key of a set says already is left out by `nft`, mostly.
                let implied = |line: String| match line.contains('@') {
                    true => {
                        ["meta l4proto udp ", "meta l4proto tcp ", "meta nfproto ipv4 ", "meta nfproto ipv6 "]
                            .into_iter()
                            .fold(line, |line, implied| line.replace(implied, ""))
                    }
                    false => line,
                };
                let lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
                let lines = lines.map(implied);
                lines
                    .filter(|l| !l.is_empty() && !l.starts_with("comment") && !l.starts_with("elements"))
                    .collect::<Vec<_>>()
            };
            let ours = plan.text();
            let start = ours.find("nft table inet").unwrap() + "nft ".len();
            let end = start + ours[start..].find("\n    undo:").unwrap();
            assert_eq!(words(&listed), words(&ours[start..end]), "{listed}");
        });
    }
}
