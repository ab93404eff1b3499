//! Each protection: its plan, its precondition, and what it says of itself.

use super::*;

fn of(protect: Protect) -> Request {
    let servers = vec!["203.0.113.108".parse().unwrap(), "2001:db8:ffff::108".parse().unwrap()];
    Request { protect, servers, root: true, ..Request::default() }
}

#[test]
fn every_protection_has_a_plan() {
    for (name, protect) in [
        ("mark_terminal", Protect::MarkTerminal),
        ("mark_ifgroup", Protect::MarkIfgroup),
        ("source_rule", Protect::SourceRule),
        ("host_route", Protect::HostRoute),
        ("host_route_halves", Protect::HostRouteHalves),
        ("netns", Protect::Netns),
    ] {
        let plan = golden(name, &of(protect), &host());
        assert!(plan.text().contains(&format!("# protection {}: {}", protect.name(), plan.explanation)));
        assert!(plan.explanation.len() > 60, "{}", plan.explanation);
        let spoken = serde_json::to_string(&protect).unwrap();
        assert_eq!(spoken, format!("{:?}", protect.name()));
    }
}

#[test]
fn forwarded_traffic_beside_source_rules() {
    golden(
        "source_rule_forwarded",
        &Request { forwarded: true, root: false, ..of(Protect::SourceRule) },
        &host(),
    );
}

#[test]
fn what_a_host_cannot_carry_is_named_with_the_reason_and_a_way_out() {
    let refused = |request: &Request, host: &Snapshot| match plan(request, host) {
        Err(error @ PlanError::Protect { .. }) => error.to_string(),
        other => panic!("{:?}: {other:?}", request.protect),
    };
    let mut vpn = host();
    fake::wg_quick(&mut vpn);
    for protect in [Protect::MarkTerminal, Protect::MarkIfgroup] {
        let error = refused(&of(protect), &vpn);
        let start =
            format!("this host cannot carry --protect {}: rule 32765 sends everything", protect.name());
        assert!(error.starts_with(&start) && error.contains("use --protect mark"), "{error}");
    }
    let refusal = |change: &dyn Fn(&mut Snapshot, &mut Request)| {
        let (mut host, mut request) = (host(), of(Protect::HostRouteHalves));
        change(&mut host, &mut request);
        let error = refused(&request, &host);
        assert!(error.ends_with("use --protect host-route"), "{error}");
        error
    };
    assert!(refusal(&|host, _| fake::wg_quick(host)).contains("steer mark 0xca6c"));
    assert!(
        refusal(&|_, request| request.include = nets(["203.0.113.0/24"])).contains("--include asks for less")
    );
    let openvpn = refusal(&|host, _| host.routes.push(route("128.0.0.0/1", 2, None, 0)));
    assert!(openvpn.contains("somebody else has a route to 128.0.0.0/1"), "{openvpn}");
    let mut given = host();
    given.links.push(link(7, "given", Some("tun")));
    let request =
        Request { tun_name: Some("given".into()), device_is_ours: false, ..of(Protect::MarkIfgroup) };
    assert!(refused(&request, &given).contains("was handed over"));
    let mut wide = host();
    wide.sysctls.insert("net/ipv4/ip_local_port_range".into(), "1024\t65535".into());
    let error = refused(&of(Protect::SourceRule), &wide);
    assert!(error.contains("narrow net.ipv4.ip_local_port_range"), "{error}");
    let many = (0..2_000_u32).map(|n| IpAddr::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 + n))).collect();
    let error = refused(&Request { servers: many, ..of(Protect::HostRoute) }, &host());
    assert!(error.contains("there are 2000 servers"), "{error}");
}

#[test]
fn source_ports_are_nobodys() {
    let ports = |range: &str, serving: &[u16]| {
        let mut host = host();
        host.sysctls.insert("net/ipv4/ip_local_port_range".into(), range.into());
        host.serving = serving.to_vec();
        plan(&of(Protect::SourceRule), &host).unwrap().sources.unwrap().ports
    };
    assert_eq!(ports("32768\t60999", &[]), (24_576, 32_767));
    assert_eq!(ports("32768\t60999", &[24_576, 20_000]), (11_264, 19_455));
    assert_eq!(ports("1024\t60999", &[]), (61_440, 65_534));
    assert_eq!(ports("2048\t61440", &[62_000]), (63_488, 65_534));
}

/// The way to a server is the one that the host has without us, whatever it is.
#[test]
fn host_routes_follow_the_host() {
    let ways = |host: &Snapshot, servers: &[&str]| -> Vec<String> {
        let servers = servers.iter().map(|s| s.parse().unwrap()).collect();
        let plan = plan(&Request { servers, ..of(Protect::HostRoute) }, host).unwrap();
        let host_routes = plan.steps.iter().filter_map(|step| match &step.change {
            Change::Route(spec) if spec.dst.prefix_len() == spec.dst.max_prefix_len() => {
                Some(step.change.to_string()).filter(|_| spec.kind() != RouteKind::Throw)
            }
            _ => None,
        });
        host_routes.collect()
    };
    let (gone, spare) = ("unreachable 203.0.113.7/32 table", "metric 4096 proto 162");
    let far = ways(&host(), &["203.0.113.7"]);
    assert_eq!(far.len(), 2, "{far:?}");
    assert!(far[0].contains("203.0.113.7/32 via 192.0.2.1 dev eth0 onlink table"), "{far:?}");
    assert!(far[1].contains(gone) && far[1].ends_with(spare), "{far:?}");
    let mut mixed = host();
    mixed.routes.retain(|route| route.dst.prefix_len() > 0);
    mixed.routes.push(fake::route("0.0.0.0/0", 2, Some("fe80::1"), 100));
    let mixed = ways(&mixed, &["203.0.113.7"]);
    assert!(mixed[0].contains("203.0.113.7/32 via inet6 fe80::1 dev eth0 onlink table"), "{mixed:?}");
    let near = ways(&host(), &["192.0.2.77"]);
    assert!(near[0].contains("192.0.2.77/32 dev eth0 table"), "{near:?}");
    assert_eq!(ways(&host(), &["192.0.2.2", "127.0.0.1", "::1"]), [""; 0], "this host itself needs none");
    let mut without = host();
    without.routes.clear();
    let lost = ways(&without, &["203.0.113.7"]);
    assert!(lost.len() == 1 && lost[0].contains(gone), "{lost:?}");
    // A default route that leads nowhere, however good, is gone past.
    let mut useless = host();
    useless.links.push(crate::host::Link { carrier: false, ..fake::link(4, "eth2", None) });
    useless.routes.push(fake::route("0.0.0.0/0", 4, None, 5));
    assert_eq!(ways(&useless, &["203.0.113.7"]), far);
    let on_link = fake::route("203.0.113.0/24", 4, None, 5);
    useless.routes.push(on_link);
    assert!(ways(&useless, &["203.0.113.7"])[0].contains("dev eth2"), "the user's own word for it");
    let mut vpn = host();
    fake::wg_quick(&mut vpn);
    assert!(ways(&vpn, &["203.0.113.7"])[0].contains("dev wg0"), "as its packets go without us");
}
