//! `doctor`: a verdict on each way out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use oneway_egress::{EgressError, Finding, SelfTest};
use oneway_outbound::Outbound;
use oneway_route::{Family, Packet, RouteKind, classes, rule_words};

use super::carried;
use super::scene::{MOST, Scene, sabotaged};
use crate::control::{Doctor, LoopFree, PathReport};
use crate::dispatch::Entry;

/// What was found out about a set of destinations.
#[derive(Clone)]
struct Found {
    verdict: LoopFree,
    why: String,
    via: BTreeSet<String>,
}

impl Found {
    fn of(verdict: LoopFree, why: impl Into<String>) -> Self {
        Self { verdict, why: why.into(), via: BTreeSet::new() }
    }

    fn proven(why: impl Into<String>) -> Self {
        Self::of(LoopFree::Proven, why)
    }
}

/// Asks about every way out.
pub(super) fn doctor(scene: &Scene<'_>) -> Doctor {
    let tests = scene.egress.self_test();
    let mut paths = Vec::new();
    let everywhere = Family::ALL.map(|family| everywhere(scene, family));
    let anywhere = |family: Family| match family {
        Family::V4 => &everywhere[0],
        Family::V6 => &everywhere[1],
    };
    for (id, entry) in (0_u32..).zip(scene.dispatch.entries()) {
        let mut add = |path: String, found: Found| {
            paths.push(PathReport {
                outbound: entry.name.to_string(),
                path,
                loop_free: found.verdict,
                why: found.why,
                via: found.via.into_iter().collect(),
            });
        };
        if matches!(entry.outbound, Outbound::Block) {
            let why = match entry.group {
                Some(_) => "it makes no sockets: its members do",
                None => "it makes no sockets",
            };
            add("everything".to_owned(), Found::proven(why));
            continue;
        }
        if let Some(found) = name(scene, entry) {
            add(format!("name {}", entry.server.as_deref().unwrap_or_default()), found);
        }
        for family in Family::ALL {
            for network in ["TCP", "UDP"] {
                let found = in_circle(scene, id, path(scene, entry, family, network, anywhere(family)));
                let found = with_socket(&tests, family, network, found);
                add(format!("{family} {network}"), found);
            }
        }
    }
    paths.extend(resolvers(scene, &tests, anywhere));
    let mut verdict = paths.iter().map(|p| p.loop_free).max().unwrap_or_default();
    let mut notes = scene.notes.clone();
    if let Some(doubt) = &scene.doubt {
        notes.push(format!("nothing is proven on this host: {doubt}"));
        verdict = verdict.max(LoopFree::NotProven);
        for path in paths.iter_mut().filter(|p| p.loop_free == LoopFree::Proven && p.path != "everything") {
            path.loop_free = LoopFree::NotProven;
            path.why = doubt.clone();
        }
    }
    let without = scene.egress.left_out();
    if without.any() {
        let sabotaged = sabotaged(without);
        verdict = verdict.max(LoopFree::NotProven);
        for path in paths.iter_mut().filter(|p| p.loop_free == LoopFree::Proven && p.path != "everything") {
            path.loop_free = LoopFree::NotProven;
            path.why.clone_from(&sabotaged);
        }
        notes.insert(0, format!("{sabotaged}, and so nothing is proven"));
    }
    Doctor {
        running: scene.running,
        verdict,
        tun: scene.tun_name.to_owned(),
        protect: scene.egress.strategy().to_string(),
        paths,
        notes,
    }
}

/// One family and protocol of one outbound.
fn path(scene: &Scene<'_>, entry: &Entry, family: Family, network: &str, anywhere: &Found) -> Found {
    let Some(proxy) = entry.outbound.proxy() else { return anywhere.clone() };
    let socks5 = matches!(entry.outbound, Outbound::Socks5(_));
    if network == "UDP" && !socks5 {
        return Found::proven(format!("{} carries no UDP: it is refused, and no socket is made", entry.kind));
    }
    if network == "UDP" {
        // The relay's address is the proxy's choice.
        let mut found = anywhere.clone();
        found.why = format!("a relay may be anywhere: {}", found.why);
        return found;
    }
    if let Some((_, why)) = scene.unresolved.iter().find(|(name, _)| **name == *entry.name) {
        return Found::of(LoopFree::NotProven, why.clone());
    }
    let addresses: Vec<IpAddr> =
        proxy.addrs().iter().map(|a| a.ip()).filter(|a| Family::of(*a) == family).collect();
    if addresses.is_empty() {
        return Found::proven(format!("the proxy has no {family} address, and no socket is made"));
    }
    let mut found = ask(scene, &addresses);
    if found.verdict == LoopFree::Proven {
        let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        found.why = format!("{}: {}", list.join(", "), found.why);
    }
    found
}

/// What the proxy's own traffic makes of it, if that is a program of this host.
fn in_circle(scene: &Scene<'_>, id: u32, found: Found) -> Found {
    match scene.circles.iter().find(|(outbound, ..)| *outbound == id) {
        Some((_, verdict, why)) if *verdict > found.verdict => Found::of(*verdict, why.clone()),
        _ => found,
    }
}

/// The proxy's name, if it has one.
fn name(scene: &Scene<'_>, entry: &Entry) -> Option<Found> {
    let proxy = entry.outbound.proxy()?;
    if proxy.config().host.parse::<IpAddr>().is_ok() {
        return None;
    }
    if let Some((_, why)) = scene.unresolved.iter().find(|(name, _)| **name == *entry.name) {
        return Some(Found::of(LoopFree::NotProven, why.clone()));
    }
    if proxy.addrs().is_empty() {
        return Some(Found::of(LoopFree::NotProven, "it has no address"));
    }
    let when = if scene.running { "it was" } else { "it will be" };
    let servers: Vec<IpAddr> = scene.servers.0.iter().map(|server| server.ip()).collect();
    let mut found = Found::proven("");
    for server in &servers {
        let asked = ask(scene, &[*server]);
        if asked.verdict > found.verdict {
            found = asked;
        }
    }
    if found.verdict == LoopFree::Proven {
        found.why = match servers.len() {
            0 => format!(
                "{when} looked up before anything is captured, and is not looked up again: no server is known"
            ),
            _ => format!("{when} looked up before anything is captured, and later by protected sockets"),
        };
    }
    Some(found)
}

/// The servers that our own DNS questions go to.
fn resolvers<'f>(
    scene: &Scene<'_>,
    tests: &[SelfTest],
    anywhere: impl Fn(Family) -> &'f Found,
) -> Vec<PathReport> {
    let report = |path: String, found: Found| PathReport {
        outbound: "dns".to_owned(),
        path,
        loop_free: found.verdict,
        why: found.why,
        via: found.via.into_iter().collect(),
    };
    let (servers, any) = &scene.servers;
    let mut reports = Vec::new();
    for server in servers {
        let found = with_socket(tests, Family::of(server.ip()), "UDP", ask(scene, &[server.ip()]));
        reports.push(report(format!("server {server}"), found));
    }
    if *any {
        for family in Family::ALL {
            let mut found = with_socket(tests, family, "UDP", anywhere(family).clone());
            found.why = format!("it may be anywhere: {}", found.why);
            reports.push(report(format!("{family} server that a client asks"), found));
        }
    }
    reports
}

/// Every destination of a family that the host can tell apart.
fn everywhere(scene: &Scene<'_>, family: Family) -> Found {
    if !scene.host.has(family) {
        return Found::proven(format!("this host has no {family}, and no socket is made"));
    }
    let destinations = classes(scene.elsewhere.as_ref().unwrap_or(scene.host), family, &scene.own);
    if destinations.len() > MOST {
        return Found::of(
            LoopFree::NotProven,
            format!("the host's routes tell more than {MOST} classes of destinations apart"),
        );
    }
    ask(scene, &destinations)
}

/// Asks the kernel, or the model in its place, and then the model about everything that the question leaves out: the
/// source that a connection gets, ports, next hops that are chosen per flow.
fn ask(scene: &Scene<'_>, destinations: &[IpAddr]) -> Found {
    let mut found = Found::proven("");
    let mut doubtful = None;
    let mut refused = 0;
    for verdict in scene.egress.prove(scene.oracle, scene.tun, destinations) {
        match verdict.finding {
            Finding::Loops => {
                return Found::of(LoopFree::Loops, format!("{}: {}", verdict.dst, verdict.why));
            }
            Finding::NotProven => {
                doubtful.get_or_insert(format!("{}: {}", verdict.dst, verdict.why));
            }
            Finding::Proven => {
                refused += usize::from(scene.egress.check(verdict.dst).is_err());
                found.via.extend(verdict.via);
            }
        }
    }
    // In another namespace there is no device of ours that a packet could be led into.
    let asked = destinations.iter().filter(|_| scene.elsewhere.is_none());
    for dst in asked.filter(|dst| scene.egress.check(**dst).is_ok()) {
        let packet = Packet::of_socket(&scene.own_query(*dst), Scene::uid());
        for outcome in scene.model.decide_socket(&packet) {
            if outcome.answer.oif == Some(scene.tun) && outcome.answer.kind != RouteKind::Local {
                let rule = outcome.rule.and_then(|n| scene.host.rules.get(n)).map(rule_words);
                let if_so = match outcome.assumed.as_slice() {
                    [] => String::new(),
                    some => format!(", if {}", some.join(" and ")),
                };
                let why = format!(
                    "{dst}: {} would lead it into {}{if_so}",
                    rule.map_or_else(|| "the routes".to_owned(), |r| format!("rule \"{r}\"")),
                    scene.tun_name,
                );
                return Found::of(LoopFree::Loops, why);
            }
        }
    }
    if let Some(why) = doubtful {
        return Found { verdict: LoopFree::NotProven, why, via: found.via };
    }
    let family = destinations.first().map_or(Family::V4, |dst| Family::of(*dst));
    let carried = match &scene.elsewhere {
        Some(there) => carried::by_tunnels_elsewhere(there, &found.via),
        None => carried::by_tunnels(scene.model, scene.tun, family, &found.via),
    };
    if let Some((verdict, why)) = carried {
        return Found { verdict, why, via: found.via };
    }
    let says = if scene.running { "asked of the kernel" } else { "asked of the model of the plan" };
    found.why = match destinations.len() {
        1 => format!("{says}, it does not lead into {}", scene.tun_name),
        n => format!(
            "{says}, none of {n} classes of destinations, all that this host tells apart, leads into {}; {refused} of \
             them are refused",
            scene.tun_name
        ),
    };
    found
}

/// Whether sockets of the kind can be made and protected.
fn with_socket(tests: &[SelfTest], family: Family, network: &str, found: Found) -> Found {
    let what = format!("{network}/{family}");
    match tests.iter().find(|t| t.what == what).map(|t| &t.result) {
        Some(Ok(())) => found,
        Some(Err(EgressError::Create { source, .. })) if found.verdict != LoopFree::Loops => {
            Found::proven(format!("no socket can be made: {source}"))
        }
        Some(Err(error)) => {
            Found::of(found.verdict.max(LoopFree::NotProven), format!("{error}; such sockets are refused"))
        }
        None => Found::of(found.verdict.max(LoopFree::NotProven), "no such socket was tried"),
    }
}
