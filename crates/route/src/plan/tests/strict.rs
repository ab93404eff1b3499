//! What `--strict` adds, and where it cannot be kept.

use super::fake::{host, route, second_uplink, tailscale};
use super::{golden, nets};
use crate::change::Change;
use crate::host::{NftSupport, Snapshot};
use crate::id::Family;
use crate::nft::RefuseTable;
use crate::plan::{Phase, Plan, PlanError, Protect, Request, plan};
use crate::query::RouteKind;

fn strict() -> Request {
    Request { strict: true, ..Request::default() }
}

fn table(plan: &Plan) -> &RefuseTable {
    plan.refusals().expect("a table that refuses")
}

fn refusing_routes(plan: &Plan, family: Family) -> usize {
    let refuses = |change: &Change| {
        matches!(change, Change::Route(spec)
            if spec.kind() == RouteKind::Unreachable && Family::of_net(spec.dst) == family)
    };
    plan.steps.iter().filter(|step| refuses(&step.change)).count()
}

#[test]
fn what_cannot_be_captured_is_refused() {
    let mut host = host();
    second_uplink(&mut host);
    let plan = golden("strict", &strict(), &host);
    assert_eq!(plan.steps.last().unwrap().phase, Phase::Capture);
    assert_eq!(table(&plan).direct.iter().filter(|net| net.to_string() == "192.0.2.0/24").count(), 1);
    assert!(plan.strict);
}

#[test]
fn a_family_that_is_switched_off_is_refused() {
    let plan = golden("strict_without_ipv6", &Request { ipv6: false, ..strict() }, &host());
    assert_eq!(plan.families, [Family::V4]);
    assert_eq!(refusing_routes(&plan, Family::V6), 1);
    let left_alone = self::plan(&Request { ipv6: false, ..Request::default() }, &host()).unwrap();
    assert!(!left_alone.text().contains("ip -6"), "without --strict it is left alone");
}

#[test]
fn the_ranges_that_are_captured_are_those_that_are_refused() {
    let request = Request {
        include: nets(["203.0.113.0/24", "2001:db8:ffff::/48"]),
        exclude: nets(["203.0.113.64/26"]),
        exclude_uids: vec![1234],
        ipv6: false,
        forwarded: true,
        ..strict()
    };
    let plan = golden("strict_includes", &request, &host());
    assert_eq!(table(&plan).captured, nets(["203.0.113.0/24", "2001:db8:ffff::/48"]));
    // Of a family that nothing of is included nothing is refused.
    let request = Request { include: nets(["203.0.113.0/24"]), ..strict() };
    assert_eq!(refusing_routes(&self::plan(&request, &host()).unwrap(), Family::V6), 0);
}

#[test]
fn another_tunnel_keeps_its_own() {
    let mut host = host();
    tailscale(&mut host, false);
    let plan = plan(&strict(), &host).unwrap();
    assert!(!table(&plan).foreign.is_empty());
    assert!(
        table(&plan).direct.iter().any(|net| net.to_string().starts_with("100.")),
        "{:?}",
        table(&plan).direct
    );
}

#[test]
fn where_it_cannot_be_kept_it_is_refused_by_name() {
    let refused = |request: &Request, host: &Snapshot| match plan(request, host) {
        Err(error @ PlanError::Strict { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for protect in [Protect::Bind, Protect::SourceRule, Protect::HostRoute, Protect::HostRouteHalves] {
        let servers = vec!["203.0.113.1".parse().unwrap()];
        let why = refused(&Request { protect, servers, root: true, ..strict() }, &host());
        assert!(
            why.contains(&format!("--protect {}", protect.name())) && why.contains("use --protect mark"),
            "{why}"
        );
    }
    let without = Snapshot { nft: NftSupport::Missing, ..host() };
    assert!(refused(&strict(), &without).contains("nf_tables"));
    let mut crowded = host();
    for n in 0..600_u32 {
        // Apart from one another, so that they do not make fewer networks.
        crowded.routes.push(route(&format!("11.{}.{}.0/25", n / 256, n % 256), 2, None, 0));
    }
    assert!(refused(&strict(), &crowded).contains("--include"));
}
