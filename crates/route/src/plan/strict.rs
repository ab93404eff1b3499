//! `--strict`: what is in the captured ranges and cannot be captured is refused, also when this program is gone.
//!
//! Three things refuse. Behind each route into the capture device stands one that refuses, which takes its place when the
//! device is gone; a family that is switched off has those alone. What rules and routes do not see (a socket bound to a
//! device, rules that somebody deletes) a table of nftables refuses on its way out. And queries to resolvers that a
//! specific route leads to are captured like all others.

use ipnet::IpNet;

use super::capture::{never_captured, prepare};
use super::{Draft, Phase, PlanError, Protect, Request, Step, choose};
use crate::change::{Change, RouteSpec};
use crate::host::{NftSupport, Rule, RuleAction, Snapshot};
use crate::id::{Family, Priority};
use crate::nft::{DNS, RefuseTable, TCP, UDP};
use crate::query::RouteKind;

/// Behind all routes by the capture device.
const METRIC: u32 = 8_192;
/// As many rules of nftables a packet that is not captured passes at most.
const MOST: usize = 512;

/// Looks whether it can be kept, and notes what it cannot do.
pub(super) fn prepare_for(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    if !draft.request.strict {
        return Ok(());
    }
    let protect = draft.request.protect;
    if !protect.marks() && protect != Protect::Netns {
        return Err(PlanError::Strict {
            why: format!(
                "with --protect {} nothing tells what our own sockets send from what programs send past the capture",
                protect.name()
            ),
            instead: "use --protect mark, mark-terminal, mark-ifgroup or netns",
        });
    }
    match draft.host.nft {
        NftSupport::Full | NftSupport::NoCgroups => {}
        NftSupport::Unknown => draft.notes.push(
            "whether nftables works is not known without CAP_NET_ADMIN; --strict cannot be without it"
                .to_owned(),
        ),
        NftSupport::Missing => {
            return Err(PlanError::Strict {
                why: "sockets that are bound to a device go past rules and routes, and this kernel has no nftables to refuse \
                      what they send"
                    .to_owned(),
                instead: "load nf_tables and nf_conntrack, or leave --strict out",
            });
        }
    }
    let direct = direct(draft.host).len();
    if direct > MOST {
        return Err(PlanError::Strict {
            why: format!(
                "there are {direct} networks that the host's routes lead to, and {MOST} is the most"
            ),
            instead: "name what is to be captured with --include, or leave --strict out",
        });
    }
    for family in refused(draft.request, draft.host, &draft.families) {
        draft.notes.push(format!("{family} is switched off, and refused"));
    }
    Ok(())
}

/// The families that are not captured and must not get out.
pub(super) fn refused(request: &Request, host: &Snapshot, captured: &[Family]) -> Vec<Family> {
    let wanted = |family: &Family| {
        let included =
            request.include.is_empty() || request.include.iter().any(|net| Family::of_net(*net) == *family);
        host.has(*family) && included && !captured.contains(family)
    };
    if request.strict { Family::ALL.into_iter().filter(wanted).collect() } else { Vec::new() }
}

/// The routes that refuse what is captured when the capture device is gone.
pub(super) fn routes(draft: &Draft<'_>, captured: &[IpNet]) -> Vec<Step> {
    let mut nets: Vec<IpNet> = if draft.request.strict { captured.to_vec() } else { Vec::new() };
    nets.extend(refused(draft.request, draft.host, &draft.families).into_iter().flat_map(|family| {
        let included = draft.request.include.iter().map(IpNet::trunc);
        let included: Vec<_> = included.filter(|net| Family::of_net(*net) == family).collect();
        if included.is_empty() { vec![family.everything()] } else { included }
    }));
    nets.sort();
    nets.dedup();
    let refuse = |dst| {
        let spec = RouteSpec { refuses: true, metric: METRIC, ..RouteSpec::throw(draft.table, dst) };
        prepare(Change::Route(spec), "refused when it cannot be captured, and when this program is gone")
    };
    nets.into_iter().map(refuse).collect()
}

/// The switch that has what is accepted carry the mark of what came in (`inet_request_mark`, include/net/inet_sock.h). The
/// first route of an answer is looked up before nftables sees it, and there is none for it when the device is gone: without
/// this nobody could log in to mend it.
pub(super) fn accept(draft: &Draft<'_>) -> Option<Step> {
    let path = "net/ipv4/tcp_fwmark_accept";
    let old = draft.host.sysctls.get(path).map(|value| value.trim())?;
    let change = Change::Sysctl { path: path.into(), old: old.into(), new: "1".into() };
    let needed = draft.request.strict && old == "0";
    needed.then(|| prepare(change, "who asks this host by TCP is answered, also when this program is gone"))
}

/// How many priorities the rules take.
pub(super) fn rule_count(request: &Request) -> usize {
    if request.strict { 2 } else { 0 }
}

/// The rules that capture DNS wherever it goes: before what specific routes lead to. `selector` is the capture's.
pub(super) fn rules(
    draft: &Draft<'_>,
    first: Priority,
    selector: impl Fn(Family, Priority) -> Rule,
) -> Vec<Step> {
    if !draft.request.strict {
        return Vec::new();
    }
    let mut steps = Vec::new();
    for (n, protocol) in [(0, UDP), (1, TCP)] {
        for family in &draft.routed {
            let change = Change::Rule(Rule {
                action: RuleAction::Lookup(draft.table),
                ip_protocol: Some(protocol),
                dports: Some((DNS, DNS)),
                ..selector(*family, Priority(first.0 + n))
            });
            let why = "queries to resolvers that a specific route leads to are captured, too".to_owned();
            steps.push(Step { phase: Phase::Capture, change, why });
        }
    }
    steps
}

/// The table that refuses what rules and routes let out.
pub(super) fn table(draft: &Draft<'_>) -> Option<Step> {
    let request = draft.request;
    let mark = draft.mark.filter(|_| request.strict)?;
    let captured = if request.include.is_empty() {
        draft.routed.iter().map(|family| family.everything()).collect()
    } else {
        let mut nets: Vec<IpNet> = request.include.iter().map(IpNet::trunc).collect();
        nets.retain(|net| draft.routed.contains(&Family::of_net(*net)));
        IpNet::aggregate(&nets)
    };
    let mut direct: Vec<IpNet> = never_captured().to_vec();
    if request.include.is_empty() {
        direct.extend(self::direct(draft.host));
    } else {
        // On-link and more specific than what is included.
        direct.extend(
            draft.on_link(&draft.tun_addresses).into_iter().filter(|net| !request.include.contains(net)),
        );
    }
    let here = |nets: Vec<IpNet>| {
        let mut nets = IpNet::aggregate(&nets);
        nets.retain(|net| draft.routed.contains(&Family::of_net(*net)));
        nets
    };
    let table = RefuseTable {
        name: choose::nft_name(draft.host, "oneway_strict"),
        mark,
        tun: draft.tun.clone(),
        forwarded: request.forwarded,
        foreign: choose::foreign_marks(draft.host),
        users: request.exclude_uids.clone(),
        excluded: here(request.exclude.iter().map(IpNet::trunc).collect()),
        direct: here(direct),
        captured,
    };
    Some(Step {
        phase: Phase::Capture,
        change: Change::Refuse(table),
        why: "whatever goes past the capture is refused: sockets bound to a device, rules that somebody deletes".into(),
    })
}

/// What specific routes lead to, as the rules of the capture respect it.
fn direct(host: &Snapshot) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for family in Family::ALL {
        let tables = choose::respected_beyond(host, family, Priority(0));
        let specific = host.routes.iter().filter(|route| {
            route.family() == family
                && route.kind == RouteKind::Unicast
                && choose::is_specific(route, &tables)
        });
        nets.extend(specific.map(|route| route.dst));
    }
    IpNet::aggregate(&nets)
}
