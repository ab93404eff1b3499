//! `host-route-halves`: as [`host_route`](super::host_route), but what captures is `0.0.0.0/1` and `128.0.0.0/1` (`::/1` and
//! `8000::/1`) in main, over the default route, which nobody touches. So tunnels have done it since before there were tables.
//!
//! In main stands nothing else of ours, and the halves vanish with the device: a crash leaves nothing there. All that must
//! not be captured is asked for before main, in our own table: the servers, what is excluded, multicast; and a copy of the
//! default route for what answers others, for excluded users, and for what is only forwarded.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Draft, PlanError, Protect, refuse, rule, step};
use crate::change::{Change, RouteSpec};
use crate::host::{Rule, RuleAction};
use crate::id::{Family, Mark, Priority, Table};
use crate::model::{Packet, decide};
use crate::plan::capture::{Rules, SPARE_METRIC, never_captured};
use crate::plan::{Phase, Step, choose};
use crate::query::{RouteKind, RouteQuery};

/// Of the halves: one that nobody else's have, so that none of theirs is replaced by ours.
const METRIC: u32 = 162;

pub(super) fn prepare(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let refuse = |why: String| Err(refuse(Protect::HostRouteHalves, why, "--protect host-route"));
    let (host, request) = (draft.host, draft.request);
    if !request.device_is_ours {
        return refuse(format!("routes in main are to vanish with {}, which was handed over", draft.tun));
    }
    if !request.include.is_empty() {
        return refuse("the halves capture everything, and --include asks for less".to_owned());
    }
    if let Some((mark, _)) = choose::foreign_marks(host).first() {
        return refuse(format!(
            "another program's rules steer mark {mark}, and would meet the halves in main"
        ));
    }
    let halves = |family: Family| halves(family).into_iter();
    let theirs = |net: &IpNet| host.routes.iter().any(|r| r.table == Table::MAIN && r.dst == *net);
    if let Some(net) = draft.families.iter().flat_map(|family| halves(*family)).find(theirs) {
        return refuse(format!("somebody else has a route to {net} in main"));
    }
    for family in &draft.families {
        if let Some((rule, table)) = choose::everything_elsewhere(host, *family).first() {
            return refuse(format!("rule {rule} sends everything to table {table}, and nothing to main"));
        }
    }
    if let Some(family) = draft.families.iter().find(|family| !choose::asks_main(host, **family)) {
        return refuse(format!("no rule asks table main about {family}"));
    }
    super::host_route::prepare(draft)
}

fn halves(family: Family) -> [IpNet; 2] {
    match family {
        Family::V4 => [[0, 0, 0, 0], [128, 0, 0, 0]].map(|a| Ipv4Net::new_assert(a.into(), 1).into()),
        Family::V6 => [0, 0x8000].map(|a| Ipv6Net::new_assert([a, 0, 0, 0, 0, 0, 0, 0].into(), 1).into()),
    }
}

/// The routes of our table: what goes past the capture.
pub(super) fn routes(draft: &Draft<'_>) -> Vec<Step> {
    let mut steps = super::host_route::routes(draft);
    let ours = |net: &IpNet| draft.families.contains(&Family::of_net(*net)) && net.prefix_len() > 0;
    let excluded = draft.request.exclude.iter().map(|net| (net.trunc(), "excluded"));
    let never = never_captured()
        .into_iter()
        .map(|net| (net, "link-local, multicast and broadcast are never captured"));
    let mut nets: Vec<_> = never.chain(excluded).filter(|(net, _)| ours(net)).collect();
    nets.sort_by_key(|(net, _)| *net);
    nets.dedup_by_key(|(net, _)| *net);
    for (net, why) in nets {
        // The kernel itself knows loopback's way, and link-local ones of IPv6 are of a device.
        let own = net.addr().is_loopback() || net.addr().is_ipv6() && net.prefix_len() < 16;
        let way = decide(draft.host, &Packet::of(&RouteQuery::to(net.addr()), 0)).into_iter().next();
        let Some(way) = way.filter(|way| !own && way.answer.oif.is_some()) else { continue };
        // To many: on the link, as without a gateway.
        let many = net.addr().is_multicast() || way.answer.kind == RouteKind::Broadcast;
        let spec = RouteSpec {
            dev: Some(way.answer.oif_name),
            gateway: way.answer.gateway.filter(|_| !many),
            ..RouteSpec::throw(draft.table, net)
        };
        steps.push(step(Change::Route(spec), why));
    }
    for family in &draft.families {
        let Some(uplink) = draft.uplinks.get(*family) else { continue };
        let spec = RouteSpec {
            dev: Some(uplink.name.clone()),
            gateway: uplink.gateway,
            ..RouteSpec::throw(draft.table, family.everything())
        };
        steps.push(step(
            Change::Route(spec),
            "the default route as it is in main, for what must not meet the halves there",
        ));
    }
    steps
}

/// Its rules, and the halves in place of a capture's rules.
pub(in crate::plan) fn rules(draft: &Draft<'_>, rehearsal_mark: Mark) -> Result<Rules, PlanError> {
    let request = draft.request;
    let mut past: Vec<(Rule, &str)> = Vec::new();
    let any = || rule(Family::V4, Priority(0), RuleAction::Nop);
    let local = || Some("lo".to_owned());
    if let Some(mark) = draft.mark {
        let marked = Rule { fwmark: Some((mark, mark.0)), ..any() };
        past.push((marked, "answers to incoming connections are not captured"));
    }
    for uid in &request.exclude_uids {
        past.push((Rule { iif: local(), uids: Some((*uid, *uid)), ..any() }, "this user is excluded"));
    }
    past.push(match request.forwarded {
        true => (
            Rule { iif: Some(draft.tun.clone()), ..any() },
            "what comes out of the device must not go back into it",
        ),
        false => {
            (Rule { invert: true, iif: local(), ..any() }, "only what this host itself sends is captured")
        }
    });
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    // Two for the rehearsal, one for our table, two for each of those.
    let wanted = count(past.len()).saturating_mul(2).saturating_add(3);
    let first = choose::block(draft.host, &draft.families, wanted)?.first;
    let at = |n: u32| Priority(first.0 + n);
    let trial = choose::table_but(draft.host, draft.table)?;
    let mut rules = Rules { first, rehearsal: Vec::new(), prepare: Vec::new(), capture: Vec::new() };
    for family in &draft.families {
        let suppress = choose::default_length(draft.host, *family, Table::MAIN).max(1);
        let of = |selector: &Rule, priority, table, suppress: Option<u32>| {
            Change::Rule(Rule {
                family: *family,
                priority,
                action: RuleAction::Lookup(table),
                suppress_prefixlength: suppress,
                ..selector.clone()
            })
        };
        let everything = if request.forwarded { any() } else { Rule { iif: local(), ..any() } };
        rules.prepare.push(step(
            of(&everything, at(2), draft.table, Some(0)),
            "the servers, and what is never captured, before main",
        ));
        for (n, (selector, why)) in (0..).zip(&past) {
            let selector = &selector.clone();
            rules.prepare.push(step(of(selector, at(3 + 2 * n), Table::MAIN, Some(suppress)), why));
            rules.prepare.push(step(of(selector, at(4 + 2 * n), draft.table, None), why));
        }
        for half in halves(*family) {
            rules.capture.extend(captures(draft, Table::MAIN, half).into_iter().map(|change| Step {
                phase: Phase::Capture,
                change,
                why: "captures half of everything that main has no other route for".to_owned(),
            }));
            let there = RouteSpec { dev: Some(draft.tun.clone()), ..RouteSpec::throw(trial, half) };
            rules
                .rehearsal
                .push(step(Change::Route(there), "the halves in a table of their own, for the rehearsal"));
        }
        let marked = Rule { iif: local(), fwmark: Some((rehearsal_mark, rehearsal_mark.0)), ..any() };
        let why = "for the rehearsal's mark, which no packet carries";
        rules.rehearsal.push(step(of(&marked, at(0), draft.table, Some(0)), why));
        rules.rehearsal.push(step(of(&marked, at(1), trial, None), why));
    }
    Ok(rules)
}

/// The routes for one half: with the uplink's address as source, and without, for when that is removed.
fn captures(draft: &Draft<'_>, table: Table, half: IpNet) -> Vec<Change> {
    let route = |src, metric| {
        Change::Route(RouteSpec {
            dev: Some(draft.tun.clone()),
            src,
            metric,
            congestion: crate::plan::congestion::of_captured(draft.host),
            ..RouteSpec::throw(table, half)
        })
    };
    let address = draft.uplinks.get(Family::of_net(half)).and_then(|uplink| uplink.address);
    match address {
        Some(src) => vec![route(Some(src), METRIC), route(None, SPARE_METRIC)],
        None => vec![route(None, METRIC)],
    }
}

pub(super) fn explanation(draft: &Draft<'_>) -> String {
    format!(
        "our own sockets go to {} servers alone and are refused to all else; each has a host route in table {}, which is asked \
         before main, where 0/1 and 128/1 lead into {} over the default route, and an unreachable route behind it for when \
         the gateway is lost",
        draft.request.servers.len(),
        draft.table,
        draft.tun
    )
}
