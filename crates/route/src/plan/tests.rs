//! Golden text against fake hosts. `UPDATE_GOLDEN=1 cargo test -p oneway-route` writes the files anew;
//! read the difference before committing it.

pub(crate) mod fake;

use std::path::PathBuf;

use super::*;
use crate::cgroup::Cgroup;
use crate::host::{NextHop, NftSupport, NftTableId, Route, Rule, RuleAction};
use crate::id::{IfIndex, Priority};
use crate::nft::Memory;
use crate::query::RouteKind;
use fake::{host, link, route};

fn golden(name: &str, request: &Request, host: &Snapshot) -> Plan {
    let plan = plan(request, host).unwrap_or_else(|e| panic!("{name}: {e}"));
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/plan/golden/{name}.txt"));
    let text = plan.text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert_eq!(text, wanted, "{name}");
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    plan
}

fn nets<const N: usize>(texts: [&str; N]) -> Vec<IpNet> {
    texts.map(|t| t.parse().unwrap()).into()
}

#[test]
fn single_uplink() {
    let plan = golden("single_uplink", &Request::default(), &host());
    assert_eq!(plan.tun_name, "oneway0");
    assert_eq!(plan.mark, Some(Mark(0x1000_0000)));
    assert_eq!(plan.uplinks.v4.unwrap().address, Some("192.0.2.2".parse().unwrap()));
    // The last steps capture, and nothing before them does.
    let first = plan.steps.iter().position(|s| s.phase == Phase::Capture).unwrap();
    assert!(plan.steps[first..].iter().all(|s| s.phase == Phase::Capture));
}

#[test]
fn captured_programs_are_not_paced() {
    let mut host = host();
    host.sysctls.insert(CONGESTION.into(), "bbr".into());
    let paced = golden("host_with_bbr", &Request::default(), &host);
    // What others choose later changes nothing: no route could be replaced by one that differs in this alone.
    host.sysctls.insert(CONGESTION.into(), "cubic".into());
    assert_eq!(plan_again(&Request::default(), &paced, &host).unwrap().steps, paced.steps);
    let plain = plan(&Request::default(), &host).unwrap();
    host.sysctls.insert(CONGESTION.into(), "bbr2".into());
    assert_eq!(plan_again(&Request::default(), &plain, &host).unwrap().steps, plain.steps);
}

#[test]
fn two_uplinks() {
    let mut host = host();
    fake::second_uplink(&mut host);
    let best = golden("two_uplinks", &Request::default(), &host);
    assert_eq!(best.uplinks.v4.unwrap().name, "eth0");
    let request = Request { interface: Some("eth1".into()), protect: Protect::Bind, ..Request::default() };
    let pinned = golden("two_uplinks_pinned", &request, &host);
    assert_eq!(pinned.uplinks.v4.unwrap().name, "eth1");
    let request = Request { interface: Some("eth7".into()), ..Request::default() };
    assert_eq!(plan(&request, &host), Err(PlanError::NoInterface("eth7".into())));
}

#[test]
fn ipv6_only() {
    let mut host = host();
    host.routes.retain(|r| r.family() == Family::V6);
    host.addresses.retain(|a| Family::of_net(a.net) == Family::V6);
    let plan = golden("ipv6_only", &Request::default(), &host);
    assert_eq!(plan.uplinks.v4, None);
    assert!(plan.notes.iter().any(|n| n.contains("IPv4 has no default route")));
}

#[test]
fn no_ipv6() {
    let mut host = host();
    host.sysctls.remove("net/ipv6/conf/all/disable_ipv6");
    let plan = golden("no_ipv6", &Request { mtu: 576, ..Request::default() }, &host);
    assert_eq!(plan.families, [Family::V4]);
}

#[test]
fn the_source_is_the_one_that_the_kernel_would_take() {
    let mut host = host();
    let first = |host: &mut Snapshot, net: &str| {
        let beside = host.addresses.iter().find(|a| !a.net.addr().is_loopback()).unwrap().clone();
        host.addresses.insert(0, crate::host::Address { net: net.parse().unwrap(), ..beside });
    };
    let wanted = plan(&Request::default(), &host).unwrap().uplinks;
    first(&mut host, "192.168.77.2/24");
    first(&mut host, "fd00:77::2/64");
    let found = plan(&Request::default(), &host).unwrap().uplinks;
    assert_eq!(found, wanted);
}

/// Hosts whose default routes are not in main, or not of length 0, or whose address is not the device's.
#[test]
fn an_uplink_is_found_wherever_it_is() {
    type Change = fn(&mut Snapshot);
    let wanted = plan(&Request::default(), &host()).unwrap().uplinks;
    let moved: [(&str, Change); 4] = [
        ("in a table that everything is asked of", |host| {
            let gone = |r: &Route| r.dst.prefix_len() == 0;
            let all: Vec<_> = host.routes.extract_if(.., |r| gone(r)).collect();
            host.routes.extend(all.into_iter().map(|r| Route { table: Table(254_000), ..r }));
            let rules = Family::ALL.map(|f| Rule::lookup(f, Priority(20_000), Table(254_000)));
            host.rules.extend(rules);
        }),
        ("in halves, and as global unicast", |host| {
            let halves = ["0.0.0.0/1", "128.0.0.0/1", "2000::/3"].map(|text| text.parse::<IpNet>().unwrap());
            for route in host.routes.extract_if(.., |r| r.dst.prefix_len() == 0).collect::<Vec<_>>() {
                let family = route.family();
                let parts = halves.iter().filter(|half| Family::of_net(**half) == family);
                host.routes.extend(parts.map(|dst| Route { dst: *dst, ..route.clone() }));
            }
        }),
        ("with a source by several ways", |host| {
            let first =
                |net: &str| crate::host::Address { net: net.parse().unwrap(), ..host.addresses[1].clone() };
            let others = ["192.0.2.9/24", "2001:db8:a::9/64"].map(first);
            host.addresses.splice(0..0, others);
            for route in host.routes.iter_mut().filter(|r| r.dst.prefix_len() == 0) {
                let (oif, gateway) = (route.oif.take().unwrap(), route.gateway.take());
                route.next_hops = vec![NextHop { oif, gateway, hops: 0 }];
                route.prefsrc = Some(match route.family() {
                    Family::V4 => "192.0.2.2".parse().unwrap(),
                    Family::V6 => "2001:db8:a::2".parse().unwrap(),
                });
            }
        }),
        ("on loopback", |host| {
            for address in host.addresses.iter_mut().filter(|a| a.usable()) {
                address.index = IfIndex(1);
            }
        }),
    ];
    for (what, change) in moved {
        let mut host = host();
        change(&mut host);
        let plan = plan(&Request { protect: Protect::Bind, ..Request::default() }, &host).unwrap();
        assert_eq!(plan.uplinks, wanted, "{what}");
    }
}

/// VRFs have the rule for the host's own addresses moved behind theirs, and others behind ours.
#[test]
fn own_addresses_are_not_captured_where_the_host_asks_late_for_them() {
    let own_rules = |plan: &Plan| {
        let of = |step: &Step| match &step.change {
            Change::Rule(rule) if rule.action == RuleAction::Lookup(Table::LOCAL) => Some(rule.priority),
            _ => None,
        };
        plan.steps.iter().filter_map(of).collect::<Vec<_>>()
    };
    let mut host = host();
    let local = |rule: &&mut Rule| rule.action == RuleAction::Lookup(Table::LOCAL);
    host.rules.iter_mut().filter(local).for_each(|rule| rule.priority = Priority(1_000));
    assert!(own_rules(&plan(&Request::default(), &host).unwrap()).is_empty());
    host.rules.iter_mut().filter(local).for_each(|rule| rule.priority = Priority(32_765));
    for include in [vec![], nets(["192.0.2.0/23", "2001:db8::/32"])] {
        let plan = plan(&Request { include, ..Request::default() }, &host).unwrap();
        let found = own_rules(&plan);
        let captures = plan.steps.iter().filter_map(|step| match &step.change {
            Change::Rule(rule) if rule.action == RuleAction::Lookup(plan.table) => Some(rule.priority),
            _ => None,
        });
        assert_eq!(found.len(), 2);
        assert!(captures.min() > found.into_iter().max());
    }
}

#[test]
fn ipv6_that_is_switched_off() {
    let off = |value: &str, switches| {
        let mut host = Snapshot { switches, ..host() };
        host.sysctls.insert("net/ipv6/conf/default/disable_ipv6".into(), value.into());
        let plan = plan(&Request::default(), &host).unwrap();
        let again = plan_again(&Request::default(), &plan, &host).unwrap();
        assert_eq!(plan.steps, again.steps);
        plan
    };
    let set = "sysctl -w net/ipv6/conf/oneway0/disable_ipv6=0";
    let on = off("0", true);
    assert!(on.steps.iter().all(|step| step.change.to_string() != set));
    let on_our_device = off("1", true);
    assert_eq!(on_our_device.families, Family::ALL);
    // Before the device has an address.
    assert_eq!(on_our_device.steps[0].change.to_string(), set);
    assert_eq!(on_our_device.steps[1..], on.steps);
    let left_out = off("1", false);
    assert_eq!(left_out.families, [Family::V4]);
    assert!(left_out.notes.iter().any(|note| note.contains("IPv6 is switched off")), "{:?}", left_out.notes);
}

#[test]
fn beside_tailscale() {
    let mut host = host();
    fake::tailscale(&mut host, false);
    let beside = golden("tailscale", &Request::default(), &host);
    // Tailscale's rules for its own networks come first: its table has no default route.
    assert!(beside.steps.iter().all(|s| match &s.change {
        Change::Rule(rule) => rule.priority > Priority(5270),
        _ => true,
    }));
    let mut host = fake::host();
    fake::tailscale(&mut host, true);
    let exit_node = golden("tailscale_exit_node", &Request::default(), &host);
    assert!(exit_node.steps.iter().all(|s| match &s.change {
        Change::Rule(rule) => rule.priority < Priority(5270),
        _ => true,
    }));
    // 100.64.0.0/10 goes to Tailscale all the same.
    assert!(exit_node.text().contains("lookup 52 suppress_prefixlength 0"));
}

#[test]
fn beside_wg_quick() {
    let mut host = host();
    fake::wg_quick(&mut host);
    let plan = golden("wg_quick", &Request::default(), &host);
    let capture = plan.steps.last().unwrap();
    let Change::Rule(rule) = &capture.change else { panic!("{capture:?}") };
    assert!(rule.priority < Priority(32_764));
    // WireGuard's own packets must not be captured, or the tunnels carry each other.
    assert!(plan.text().contains("fwmark 0xca6c goto"));
    // The uplink is the physical one, although the tunnel has the default route.
    assert_eq!(plan.uplinks.v4.unwrap().name, "eth0");
}

#[test]
fn a_tunnel_for_one_family_may_be_carried_by_the_other() {
    let mut host = host();
    fake::wg_quick(&mut host);
    host.rules.retain(|r| r.family == Family::V4 || r.fwmark.is_none() && r.suppress_prefixlength.is_none());
    let text = plan(&Request::default(), &host).unwrap().text();
    for ip in ["ip", "ip -6"] {
        let exempt = |l: &str| l.contains(&format!("{ip} rule add")) && l.contains("fwmark 0xca6c goto");
        assert!(text.lines().any(exempt), "{ip}\n{text}");
    }
}

#[test]
fn beside_openvpn_halves() {
    let mut host = host();
    host.links.push(link(9, "tun0", Some("tun")));
    host.links.last_mut().unwrap().point_to_point = true;
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        host.routes.push(route(half, 9, Some("10.8.0.1"), 0));
    }
    host.routes.push(route("10.8.0.0/24", 9, None, 0));
    let plan = golden("openvpn", &Request::default(), &host);
    assert!(plan.text().contains("lookup main suppress_prefixlength 1"));
}

#[test]
fn strict_rp_filter() {
    let mut host = host();
    host.sysctls.insert("net/ipv4/conf/eth0/rp_filter".into(), "1".into());
    golden("strict_rp_filter", &Request::default(), &host);
    host.sysctls.insert("net/ipv4/conf/all/rp_filter".into(), "2".into());
    let loose = plan(&Request::default(), &host).unwrap();
    assert!(!loose.text().contains("src_valid_mark"), "the greater of both counts: 2 is loose");
}

#[test]
fn no_uplink() {
    let mut host = host();
    host.routes.clear();
    host.addresses.clear();
    let plan = golden("no_uplink", &Request::default(), &host);
    assert_eq!(plan.uplinks, Uplinks::default());
}

#[test]
fn includes_and_excludes() {
    let request = Request {
        include: nets(["192.0.0.0/16", "203.0.113.0/24", "198.51.100.0/24", "2001:db8::/32"]),
        exclude: nets(["203.0.113.64/26", "198.51.0.0/16", "2001:db8:1::/48"]),
        ..Request::default()
    };
    let plan = golden("includes_and_excludes", &request, &host());
    // Exclude wins over an include inside it.
    assert!(!plan.steps.iter().any(|s| matches!(&s.change, Change::Route(r)
        if r.dst == "198.51.100.0/24".parse::<IpNet>().unwrap())));
    let request = Request { exclude: nets(["0.0.0.0/0", "::/0"]), ..Request::default() };
    assert_eq!(super::plan(&request, &host()), Err(PlanError::Nothing));
}

#[test]
fn forwarded() {
    golden("forwarded", &Request { forwarded: true, ..Request::default() }, &host());
}

#[test]
fn only_one_user_begins_connections_with_the_mark() {
    golden("one_user", &Request { user: Some(0), ..Request::default() }, &host());
    golden("one_user_strict", &Request { user: Some(0), strict: true, ..Request::default() }, &host());
}

#[test]
fn excluded_users() {
    golden("excluded_users", &Request { exclude_uids: vec![1000, 1001], ..Request::default() }, &host());
}

#[test]
fn excluded_groups() {
    let group = |path: &str, id, level, ours| Cgroup { path: path.to_owned(), id, level, ours };
    let groups =
        vec![group("system.slice/proxy.service", 4711, 2, false), group("oneway-exclude-7", 815, 1, true)];
    let request = Request { exclude_cgroups: groups.clone(), ..Request::default() };
    let plan = golden("excluded_groups", &request, &host());
    let bit = plan.mark.unwrap().0;
    assert_eq!(crate::marked_by(&plan, 0x40, &[1, 4711, 9]), 0x40 | bit);
    assert_eq!(crate::marked_by(&plan, 0x40, &[1, 9]), 0x40);
    let undo = plan.steps.iter().find(|s| matches!(s.change, Change::Cgroup { .. })).unwrap().change.undo();
    let line = serde_json::to_string(&undo).unwrap();
    assert_eq!(serde_json::from_str::<crate::change::Undo>(&line).unwrap(), undo);
    for nft in [NftSupport::Missing, NftSupport::NoCgroups, NftSupport::Unknown] {
        let error = super::plan(&request, &Snapshot { nft, ..host() }).unwrap_err();
        assert_eq!(error, PlanError::NoCgroupMatch("system.slice/proxy.service".into()));
        assert!(super::plan(&Request::default(), &Snapshot { nft, ..host() }).is_ok());
    }
}

/// What remembers who began, and the switches that are set for it.
fn remembered(request: &Request, host: &Snapshot) -> (Option<Memory>, Vec<String>) {
    let plan = super::plan(request, host).unwrap();
    let memory = plan.steps.iter().find_map(|step| match &step.change {
        Change::Nft(table) => Some(table.memory),
        _ => None,
    });
    let switches = plan.steps.iter().filter_map(|step| match &step.change {
        Change::Sysctl { path, .. } => Some(path.clone()),
        _ => None,
    });
    (memory, switches.collect())
}

#[test]
fn sockets_remember_where_nothing_needs_tracking() {
    const ALL: [&str; 3] =
        ["net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"];
    let tracking = (Some(Memory::Tracking), Vec::new());
    let sockets = |switches: &[&str]| {
        (Some(Memory::Sockets), switches.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
    };
    let plain = Request::default();
    assert_eq!(remembered(&plain, &host()), sockets(&ALL));
    for protect in [Protect::MarkTerminal, Protect::MarkIfgroup] {
        assert_eq!(remembered(&Request { protect, ..plain.clone() }, &host()).0, Some(Memory::Sockets));
    }

    let group = Cgroup { path: "a".into(), id: 7, level: 1, ours: false };
    for request in [
        Request { forwarded: true, ..plain.clone() },
        Request { redirect: Some(16_262), ..plain.clone() },
        Request { tproxy: Some(16_262), ..plain.clone() },
        Request { protect: Protect::Bind, ..plain.clone() },
        Request { exclude_cgroups: vec![group], ..plain.clone() },
        Request { track: true, ..plain.clone() },
    ] {
        assert_eq!(remembered(&request, &host()), tracking, "{request:?}");
    }
    let strict = remembered(&Request { strict: true, ..plain.clone() }, &host());
    assert_eq!(strict, (Some(Memory::Tracking), vec![ALL[0].to_owned()]));

    assert_eq!(remembered(&plain, &Snapshot { nft: NftSupport::NoCgroups, ..host() }), tracking);
    assert_eq!(remembered(&plain, &Snapshot { nft: NftSupport::Missing, ..host() }), (None, Vec::new()));
    assert_eq!(remembered(&plain, &Snapshot { switches: false, ..host() }), tracking, "read-only");
    let mut other = host();
    let mut rule = Rule::lookup(Family::V6, Priority(100), Table(100));
    rule.fwmark = Some((Mark(1), 1));
    other.rules.push(rule);
    assert_eq!(remembered(&plain, &other), tracking, "others steer by marks");
    let mut other = host();
    other.sysctls.remove(ALL[1]);
    assert_eq!(remembered(&plain, &other), tracking, "a kernel without the switch");
    let mut other = Snapshot { switches: false, ..host() };
    ALL.iter().for_each(|path| drop(other.sysctls.insert((*path).to_owned(), "1".into())));
    assert_eq!(remembered(&plain, &other), sockets(&[]), "set before");
    let mut other = host();
    other.sysctls.remove("net/ipv6/conf/all/disable_ipv6");
    other.sysctls.remove(ALL[2]);
    other.addresses.retain(|address| address.net.addr().is_ipv4());
    other.routes.retain(|route| route.dst.addr().is_ipv4());
    assert_eq!(remembered(&plain, &other), sockets(&ALL[..2]), "no IPv6");
}

/// What it remembers no socket does.
#[test]
fn what_is_tracked_stays_tracked() {
    let mut steered = host();
    let mut rule = Rule::lookup(Family::V4, Priority(100), Table(100));
    rule.fwmark = Some((Mark(1), 1));
    steered.rules.push(rule);
    let request = Request::default();
    let of = |plan: &Plan| {
        plan.steps.iter().any(|s| matches!(&s.change, Change::Nft(t) if t.memory == Memory::Tracking))
    };
    let before = super::plan(&request, &host()).unwrap();
    assert!(!of(&before));
    let tracked = plan_again(&request, &before, &steered).unwrap();
    assert!(of(&tracked));
    assert!(of(&plan_again(&request, &tracked, &host()).unwrap()));
    assert!(!of(&plan_again(&request, &before, &host()).unwrap()));
}

#[test]
fn bound_without_nftables() {
    let mut host = host();
    host.nft = NftSupport::Missing;
    let plan =
        golden("bound_without_nftables", &Request { protect: Protect::Bind, ..Request::default() }, &host);
    assert_eq!(plan.mark, None);
}

mod protections;
mod resolver;
mod strict;

#[test]
fn tproxy() {
    let request =
        Request { tproxy: Some(16_262), strict: true, exclude_uids: vec![1234], ..Request::default() };
    let plan = golden("tproxy", &request, &host());
    let divert = plan.divert.unwrap();
    assert!(![plan.mark.unwrap(), plan.rehearsal_mark].contains(&divert.mark) && divert.table != plan.table);
    let without = Snapshot { nft: NftSupport::Missing, ..host() };
    let request = Request { tproxy: Some(16_262), ..Request::default() };
    assert!(matches!(super::plan(&request, &without), Err(PlanError::NoTproxy(_))));
    // Made once, it is what it would be again.
    let made = crate::planned(&host(), &plan);
    let request = Request { strict: true, exclude_uids: vec![1234], ..request };
    assert_eq!(crate::plan_again(&request, &plan, &made).unwrap().steps, plan.steps);
}

#[test]
fn redirect() {
    let request = Request { redirect: Some(16_262), ..Request::default() };
    let plan = golden("redirect", &request, &host());
    assert_eq!(plan.steps.last().unwrap().phase, Phase::Capture, "not before our sockets are proven exempt");
    let without = Snapshot { nft: NftSupport::Missing, ..host() };
    assert_eq!(super::plan(&request, &without), Err(PlanError::NoRedirect));
}

#[test]
fn handed_over_device() {
    let mut host = host();
    host.links.push(link(7, "given", Some("tun")));
    let request = Request { tun_name: Some("given".into()), device_is_ours: false, ..Request::default() };
    let plan = golden("handed_over_device", &request, &host);
    assert!(!plan.steps.iter().any(|s| matches!(s.change, Change::Link { .. } | Change::Address { .. })));
    let request = Request { tun_name: Some("absent".into()), ..request };
    assert_eq!(super::plan(&request, &host), Err(PlanError::NoSuchTun(Some("absent".into()))));
    host.links.push(crate::Link { up: false, ..link(8, "absent", Some("tun")) });
    assert_eq!(super::plan(&request, &host), Err(PlanError::TunDown("absent".into())));
}

#[test]
fn nothing_is_taken_twice() {
    let mut host = host();
    host.links.push(link(7, "oneway0", Some("tun")));
    host.routes.push(route("10.160.0.0/12", 2, Some("192.0.2.9"), 0));
    host.rules.push(Rule::lookup(Family::V4, Priority(32_765), Table(16_200)));
    host.rules.push(Rule {
        fwmark: Some((Mark(0), 0x1000_0000)),
        ..Rule::lookup(Family::V4, Priority(9), Table(5))
    });
    host.nft_tables.push(NftTableId { family: 1, name: "oneway".into(), ours: false });
    let plan = plan(&Request::default(), &host).unwrap();
    assert_eq!(plan.tun_name, "oneway1");
    assert_eq!(plan.table, Table(16_201));
    assert_eq!(plan.mark, Some(Mark(0x2000_0000)));
    assert_eq!(plan.tun_addresses[0], "172.29.0.1/24".parse::<IpNet>().unwrap());
    assert!(plan.text().contains("nft table inet oneway1 {"));
    assert!(
        plan.steps.iter().all(|s| !matches!(&s.change, Change::Rule(r) if r.priority == Priority(32_765)))
    );
}

#[test]
fn wishes_that_cannot_be_met() {
    let mut host = host();
    host.links.push(link(7, "dummy0", Some("dummy")));
    host.rules
        .push(Rule { fwmark: Some((Mark(0x40), 0xff)), ..Rule::lookup(Family::V4, Priority(77), Table(5)) });
    let error = |request: Request| plan(&request, &host).unwrap_err();
    let named = |name: &str| Request { tun_name: Some(name.into()), ..Request::default() };
    assert_eq!(error(named("dummy0")), PlanError::TunNameTaken("dummy0".into()));
    for bad in ["", "a/b", "sixteen-letters-", ".", "a b"] {
        assert_eq!(error(named(bad)), PlanError::BadTunName(bad.into()));
    }
    let at = |net: &str| Request { tun_addresses: nets([net]), ..Request::default() };
    let overlap = error(at("192.0.2.200/28"));
    assert!(overlap.to_string().contains("192.0.2.2/24 of eth0"), "{overlap}");
    for bad in ["10.9.9.0/24", "10.9.9.255/24", "10.9.9.9/31", "224.0.0.9/24", "ff02::1/64"] {
        assert_eq!(error(at(bad)), PlanError::BadTunAddress(bad.parse().unwrap()));
    }
    let mark = |mark| Request { mark: Some(Mark(mark)), ..Request::default() };
    assert_eq!(error(mark(3)), PlanError::NotOneBit(Mark(3)));
    assert_eq!(error(mark(0)), PlanError::NotOneBit(Mark(0)));
    assert_eq!(error(mark(0x10)), PlanError::MarkInUse { mark: Mark(0x10), rule: 77 });
    for mtu in [1279, 65_536] {
        assert_eq!(error(Request { mtu, ..Request::default() }), PlanError::BadMtu { mtu, least: 1280 });
    }
}

/// A host whose rules stand so close that no block fits after the last one before main.
#[test]
fn crowded_priorities() {
    let mut host = host();
    for priority in (30_000..32_766).step_by(2) {
        host.rules.push(Rule::lookup(Family::V6, Priority(priority), Table(500)));
    }
    let plan = plan(&Request::default(), &host).unwrap();
    let last = plan.steps.iter().filter_map(|s| match &s.change {
        Change::Rule(rule) => Some(rule.priority),
        _ => None,
    });
    assert!(last.max().unwrap() < Priority(30_000));
}

/// Every change is undone by the inverse that the journal holds, whatever the request.
#[test]
fn changes_and_undos_survive_the_journal() {
    let mut host = host();
    fake::wg_quick(&mut host);
    let request = Request { forwarded: true, exclude_uids: vec![7], ..Request::default() };
    let mut steps = plan(&request, &host).unwrap().steps;
    for protect in [Protect::MarkIfgroup, Protect::SourceRule, Protect::HostRoute, Protect::HostRouteHalves] {
        let servers = vec!["203.0.113.108".parse().unwrap(), "2001:db8:ffff::108".parse().unwrap()];
        let request = Request { protect, servers, ..request.clone() };
        let plan = plan(&request, &fake::host()).unwrap();
        steps.extend(plan.steps.into_iter().chain(plan.rehearsal));
    }
    for step in steps {
        let undo = step.change.undo();
        let line = serde_json::to_string(&undo).unwrap();
        assert_eq!(serde_json::from_str::<crate::change::Undo>(&line).unwrap(), undo);
        if let Change::Rule(rule) = &step.change {
            assert_eq!(rule.protocol, crate::host::PROTOCOL);
            assert!(rule.action != RuleAction::Lookup(Table::DEFAULT) || rule.fwmark.is_some());
        }
        if let Change::Route(spec) = &step.change {
            assert!(matches!(spec.kind(), RouteKind::Unicast | RouteKind::Throw | RouteKind::Unreachable));
            assert!(
                spec.table != Table::MAIN || spec.dst.prefix_len() == 1,
                "main's default is never touched"
            );
        }
    }
}

/// A router has a million routes. Whoever looks at all of them for each of them is not done today.
#[test]
fn a_full_table_is_planned_at_once() {
    let mut host = host();
    let v4 =
        (0..200_000_u32).map(|n| std::net::Ipv4Addr::from_bits((11 << 24) + n * 512).to_string() + "/24");
    let v6 = (0..50_000_u32).map(|n| format!("2001:{:x}:{:x}::/48", 0x4000 + n / 1000, n % 1000));
    host.routes.extend(v4.chain(v6).map(|dst| route(&dst, 2, None, 20)));
    let begin = std::time::Instant::now();
    for request in [
        Request::default(),
        Request { include: nets(["203.0.113.0/24"]), forwarded: true, ..Request::default() },
        Request {
            protect: Protect::HostRoute,
            servers: vec![[198, 51, 100, 7].into()],
            ..Request::default()
        },
    ] {
        let first = plan(&request, &host).unwrap();
        plan_again(&request, &first, &host).unwrap();
    }
    assert!(matches!(
        plan(&Request { strict: true, ..Request::default() }, &host),
        Err(PlanError::Strict { .. })
    ));
    assert!(begin.elapsed() < std::time::Duration::from_secs(300), "it took {:?}", begin.elapsed());
}
