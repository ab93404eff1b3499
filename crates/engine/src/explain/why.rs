//! `why`: from a program's packet to ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use oneway_egress::{Finding, Strategy};
use oneway_flow::{Inbound, Network, Owner, Target};
use oneway_outbound::Outbound;
use oneway_route::{
    Family, Leaving, Outcome, Packet, RouteAnswer, RouteQuery, Snapshot, decide, route_words, rule_words,
};

use super::carried;
use super::scene::{Scene, sabotaged};
use crate::config::DnsMode;
use crate::control::{Dial, LoopFree, Way, Why, WhyQuestion};
use crate::dispatch::{Subject, inbound_of_own};
use crate::dns::Dns;
use crate::guard::Destination;

/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// `IPPROTO_UDP`
const UDP: u8 = 17;
/// The port of DNS.
const DNS: u16 = 53;

/// Answers one question.
pub(super) fn why(scene: &Scene<'_>, question: &WhyQuestion) -> Why {
    let dst = question.addr.ip().to_canonical();
    let addr = SocketAddr::new(dst, question.addr.port());
    let question = &WhyQuestion { addr, ..question.clone() };
    let network = if question.udp { Network::Udp } else { Network::Tcp };
    let tell = scene.dispatch.sniffs(network, addr.port());
    let named = |dns: &Dns| dns.fake_name(dst).or_else(|| dns.name_to_judge(dst, tell));
    let host = question.host.as_deref().map(Arc::from).or_else(|| scene.dns.and_then(named));
    let is_fake = scene.dns.is_some_and(|dns| dns.is_fake(dst));
    let target = Target { addr, host };
    let program = program(scene, question, dst);
    let captured = program.device.as_deref() == Some(scene.tun_name) && program.kind != "local";
    let mut why = Why {
        running: scene.running,
        target: target.to_string(),
        network: network.to_string(),
        program,
        captured,
        guard: None,
        rule: None,
        not_asked: None,
        outbound: None,
        group: None,
        dials: Vec::new(),
        loop_free: LoopFree::Proven,
        why: String::new(),
    };
    if !captured {
        why.why = format!("{}: nothing of ours is sent for it", elsewhere(scene, question, &why.program));
        return why;
    }
    let (guard, passes) = guarded(scene.guard.classify_port(question.addr));
    why.guard = Some(guard.to_owned());
    if !passes {
        why.why = "nothing of ours is sent for it".to_owned();
        return why;
    }
    if addr.port() == DNS && scene.dns_mode != DnsMode::Off {
        let (servers, is_asked_first) = &scene.servers;
        let asked = is_asked_first.then_some((addr, "the server that is asked"));
        let ours = servers.iter().map(|server| (*server, "a server of ours"));
        why.dials = asked.into_iter().chain(ours).map(|(server, whose)| dial(scene, server, whose)).collect();
        let (verdict, reason) = verdict(scene, &why.dials, "a server");
        why.loop_free = verdict;
        why.why = format!("a query is answered here before any rule, in mode {}: {reason}", scene.dns_mode);
        return why;
    }
    let unspecified = if dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = SocketAddr::new(question.from.unwrap_or(unspecified), 0);
    let is_forwarded = question.from.is_some_and(|from| !is_own(scene, from));
    let inbound = if is_forwarded { Inbound::Tun } else { inbound_of_own(scene.capture, network) };
    let subject = Subject { network, source, inbound, target: &target, is_fake, dscp: 0 };
    let owner = Owner { uid: Some(question.uid), ..Owner::default() };
    let (choice, asked_program) = scene.dispatch.choose_for(&subject, &owner);
    why.rule = Some(choice.rule().to_string());
    why.not_asked = asked_program.then(|| {
        "what rules or exclude-process say of programs: which one sends is not known here".to_owned()
    });
    why.outbound = Some(choice.entry.name.to_string());
    why.group = choice.group.map(|group| group.name.to_string());
    let (whose, addresses) = match &choice.entry.outbound {
        Outbound::Block => {
            why.why = "the outbound refuses it: nothing of ours is sent for it".to_owned();
            return why;
        }
        // Nothing is sent to a fake address, but to where its name is.
        Outbound::Direct if is_fake => {
            let host = target.host.as_deref().unwrap_or_default();
            let mut real = scene.dispatch.addresses().look(host);
            real.sort_by_key(|ip| ip.is_ipv4() != dst.is_ipv4());
            real.retain(|ip| choice.leads_to_for(&subject, *ip, &owner));
            ("the destination", real.into_iter().map(|ip| SocketAddr::new(ip, addr.port())).collect())
        }
        Outbound::Direct => ("the destination", vec![addr]),
        Outbound::Socks4(_) | Outbound::Http(_) if question.udp => {
            why.why = format!("{} carries no UDP: it is refused", choice.entry.kind);
            return why;
        }
        Outbound::Socks5(proxy) if question.udp && proxy.config().tls.is_some() => {
            why.why = "SOCKS5 over TLS carries no UDP: it is refused".to_owned();
            return why;
        }
        Outbound::Socks5(proxy)
        | Outbound::Socks4(proxy)
        | Outbound::Http(proxy)
        | Outbound::Trojan(proxy)
        | Outbound::Shadowsocks(proxy) => ("the proxy", proxy.addrs().to_vec()),
    };
    why.dials = addresses.into_iter().map(|address| dial(scene, address, whose)).collect();
    (why.loop_free, why.why) = verdict(scene, &why.dials, whose);
    why
}

/// The worst of what is to be said about these packets of ours to `whose` addresses.
fn verdict(scene: &Scene<'_>, dials: &[Dial], whose: &str) -> (LoopFree, String) {
    match dials.iter().max_by_key(|dial| dial.loop_free) {
        None => (LoopFree::NotProven, format!("the address of {whose} is not known")),
        Some(worst) if worst.loop_free != LoopFree::Proven => (worst.loop_free, worst.why.clone()),
        Some(_) if scene.egress.left_out().any() => (LoopFree::NotProven, sabotaged(scene.egress.left_out())),
        Some(_) => (LoopFree::Proven, reason(&scene.egress.strategy(), scene.tun_name)),
    }
}

/// What becomes of a program's packet that is not captured.
fn elsewhere(scene: &Scene<'_>, question: &WhyQuestion, way: &Way) -> String {
    let Some(table) = &scene.refusals else { return "it does not come to us".to_owned() };
    let leaving = way.device.as_deref().map(|device| Leaving {
        device,
        dst: question.addr.ip().to_canonical(),
        mark: 0,
        user: question.uid,
        dns: question.addr.port() == DNS,
    });
    match leaving {
        None => "it is refused, as --strict wants it: there is no way to capture it".to_owned(),
        Some(leaving) if table.refuses(&leaving) => {
            format!("it is refused, as --strict wants it, by nftables table {}", table.name)
        }
        Some(_) => {
            "it does not come to us, and --strict lets it out: it is local, on-link or excluded".to_owned()
        }
    }
}

/// Why sockets of this kind do not come back, in one sentence.
fn reason(strategy: &Strategy, tun: &str) -> String {
    match strategy {
        Strategy::Mark(mark) | Strategy::MarkTerminal(mark) | Strategy::MarkIfgroup(mark) => {
            format!("the rules that lead into {tun} match packets without mark {mark}; ours carry it")
        }
        Strategy::Bind(_) if strategy.is_unbound() => "ours wait for an uplink to be bound to".to_owned(),
        Strategy::Bind(uplinks) => {
            format!("ours are bound to {uplinks}, and for them the routes that lead into {tun} do not count")
        }
        Strategy::SourceRule(rule) => {
            let (first, last) = rule.sources.ports;
            format!(
                "the rules that lead into {tun} match all but the uplink's address with ports {first}-{last}; ours are \
                 bound to those"
            )
        }
        Strategy::HostRoute(rule) => format!(
            "ours go to servers alone that table {} has host routes for, which come before the routes into {tun}",
            rule.table
        ),
        Strategy::Netns(namespace) => {
            format!("ours are made in the namespace {}, in which there is no {tun}", namespace.name())
        }
    }
}

fn guarded(destination: Destination) -> (&'static str, bool) {
    match destination {
        Destination::Ordinary => ("passes", true),
        Destination::Refused => {
            ("refused with a reset or an ICMP error: a network of the TUN, or nobody's address", false)
        }
        Destination::Multicast => ("dropped: one to many, and nobody is on the TUN", false),
    }
}

/// Whether what comes from this address is this host's own.
fn is_own(scene: &Scene<'_>, from: IpAddr) -> bool {
    from.is_loopback() || scene.host.addresses.iter().any(|a| a.net.addr() == from)
}

/// The way of the program's packet, or of the client's that this host forwards.
fn program(scene: &Scene<'_>, question: &WhyQuestion, dst: IpAddr) -> Way {
    let protocol = if question.udp { UDP } else { TCP };
    let query = RouteQuery {
        uid: Some(question.uid),
        src: question.from,
        dport: Some((protocol, question.addr.port())),
        ..RouteQuery::to(dst)
    };
    match question.from {
        Some(from) if !is_own(scene, from) => {
            let back = decide(scene.host, &Packet::of(&RouteQuery::to(from), 0));
            let iif = back.first().and_then(|o| o.answer.oif);
            let name = iif.and_then(|i| scene.host.link_at(i)).map_or("nowhere", |l| l.name.as_str());
            let packet = Packet { iif, uid: 0, ..Packet::of(&query, 0) };
            let outcomes = decide(scene.host, &packet);
            let what = format!("forwarded from {from}, which comes in by {name}");
            match outcomes.first() {
                Some(outcome) => {
                    let answer = outcome.answer.clone();
                    shown(scene.host, what, "the model", &answer, Some(outcome))
                }
                None => Way { packet: what, ..Way::default() },
            }
        }
        from => {
            let from = from.map(|a| format!(", from {a}")).unwrap_or_default();
            way(scene, &query, format!("without mark, of user {}{from}", question.uid), false)
        }
    }
}

/// What is sent to one address, and whether it comes back.
fn dial(scene: &Scene<'_>, address: SocketAddr, whose: &str) -> Dial {
    let verdict = scene.egress.prove(scene.oracle, scene.tun, &[address.ip()]).into_iter().next();
    let (loop_free, why) = match verdict {
        None => (LoopFree::NotProven, "it was not asked".to_owned()),
        Some(verdict) => {
            let finding = match verdict.finding {
                Finding::Proven => LoopFree::Proven,
                Finding::NotProven => LoopFree::NotProven,
                Finding::Loops => LoopFree::Loops,
            };
            let witness = if scene.running { "" } else { "asked of the model of the plan instead: " };
            (finding, format!("{witness}{}", verdict.why))
        }
    };
    let refused = scene.egress.check_addr(address).err();
    let query = scene.own_query(address.ip());
    let packet = match &*scene.egress.strategy() {
        Strategy::Mark(mark) | Strategy::MarkTerminal(mark) | Strategy::MarkIfgroup(mark) => {
            format!("with mark {mark}")
        }
        Strategy::SourceRule(_) => match (query.src, query.sport) {
            (Some(src), Some(port)) => format!("from {src} port {port}"),
            _ => "to this host itself, so not bound".to_owned(),
        },
        Strategy::HostRoute(_) => "without anything set".to_owned(),
        Strategy::Netns(namespace) => format!("in the namespace {}", namespace.name()),
        Strategy::Bind(_) if scene.egress.strategy().is_unbound() => scene.egress.strategy().to_string(),
        Strategy::Bind(uplinks) if query.oif.is_some() => {
            format!("bound to {}", uplinks.get(Family::of(address.ip())).name)
        }
        Strategy::Bind(_) => "to this host itself, so not bound".to_owned(),
    };
    let way = refused.is_none().then(|| way(scene, &query, packet, true));
    let device = way.as_ref().and_then(|w| w.device.clone());
    let via = device.into_iter().collect();
    let carried = match &scene.elsewhere {
        Some(there) => carried::by_tunnels_elsewhere(there, &via),
        None => carried::by_tunnels(scene.model, scene.tun, Family::of(address.ip()), &via),
    };
    let (loop_free, why) = match carried {
        Some((verdict, why)) if loop_free == LoopFree::Proven => (verdict, why),
        _ => (loop_free, why),
    };
    Dial {
        address,
        whose: whose.to_owned(),
        guard: refused.as_ref().map_or_else(|| "passes".to_owned(), ToString::to_string),
        way,
        loop_free,
        why,
    }
}

/// The kernel's answer, and the model's account of which rule and route gave it.
/// `own` is a packet of our sockets, which may be of another namespace.
fn way(scene: &Scene<'_>, query: &RouteQuery, packet: String, own: bool) -> Way {
    let says = match (&scene.elsewhere, scene.running) {
        (Some(_), _) if own => "the kernel, in that namespace",
        (_, true) => "the kernel",
        (_, false) => "the model of the plan",
    };
    let answer = match (own, &*scene.egress.strategy()) {
        (true, Strategy::Netns(namespace)) => {
            let query = *query;
            match namespace.run(move || oneway_route::query(&query)) {
                Ok(answer) => answer,
                Err(error) => Err(oneway_route::RouteError::NotProven(error.to_string())),
            }
        }
        // Whoever is asked for routes of our sockets is not the one to ask about others'.
        (false, Strategy::Netns(_)) if scene.running => oneway_route::query(query),
        _ => scene.oracle.route(query),
    };
    match answer {
        Err(error) => {
            Way { packet, kind: format!("unknown: {error}"), says: says.to_owned(), ..Way::default() }
        }
        Ok(answer) => {
            let host = if own { scene.elsewhere.as_ref().unwrap_or(scene.host) } else { scene.host };
            let outcomes = decide(host, &Packet::of(query, Scene::uid()));
            let same = |o: &&Outcome| o.answer.oif == answer.oif && o.answer.table == answer.table;
            let alike = |o: &&Outcome| o.answer.oif == answer.oif;
            let account = outcomes.iter().find(same).or_else(|| outcomes.iter().find(alike));
            shown(host, packet, says, &answer, account)
        }
    }
}

fn shown(
    host: &Snapshot,
    packet: String,
    says: &str,
    answer: &RouteAnswer,
    account: Option<&Outcome>,
) -> Way {
    let rule = account.and_then(|o| o.rule).and_then(|n| host.rules.get(n));
    let route = account.and_then(|o| o.route).and_then(|n| host.routes.get(n));
    Way {
        packet,
        rule: rule.map(rule_words),
        route: route.map(|r| route_words(host, r)),
        device: answer.oif.map(|_| answer.oif_name.clone()),
        gateway: answer.gateway,
        source: answer.prefsrc,
        kind: format!("{:?}", answer.kind).to_lowercase(),
        says: says.to_owned(),
        assumed: account.map(|o| o.assumed.clone()).unwrap_or_default(),
    }
}
