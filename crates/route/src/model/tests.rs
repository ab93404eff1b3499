//! What is known from the kernel's code, and the plan under every kind of event.

mod events;

use std::net::IpAddr;
use std::time::Instant;

use super::*;
use crate::host::{Rule, RuleAction};
use crate::id::{Mark, Priority};
use crate::plan::tests::fake;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn to(text: &str) -> Packet {
    Packet::of(&RouteQuery::to(address(text)), 0)
}

fn one(host: &Snapshot, packet: &Packet) -> Outcome {
    let mut outcomes = decide(host, packet);
    assert_eq!(outcomes.len(), 1, "{outcomes:#?}");
    outcomes.remove(0)
}

fn device(host: &Snapshot, packet: &Packet) -> String {
    one(host, packet).answer.oif_name
}

#[test]
fn the_longest_prefix_then_the_lowest_metric() {
    let mut host = fake::host();
    fake::second_uplink(&mut host);
    assert_eq!(device(&host, &to("203.0.113.1")), "eth0");
    assert_eq!(device(&host, &to("198.51.100.9")), "eth1");
    let bound = Packet { oif: Some(IfIndex(3)), ..to("203.0.113.1") };
    let outcome = one(&host, &bound);
    assert_eq!((outcome.answer.oif_name.as_str(), outcome.answer.table), ("eth1", Some(Table::MAIN)));
    assert_eq!(host.routes[outcome.route.unwrap()].metric, 200);
    assert_eq!(outcome.answer.prefsrc, Some(address("198.51.100.2")));
}

#[test]
fn a_bound_socket_is_not_stopped_by_refusals() {
    let mut host = fake::host();
    host.routes.retain(|r| r.dst.prefix_len() > 0);
    host.rules
        .push(Rule { action: RuleAction::Unreachable, ..Rule::lookup(Family::V4, Priority(9), Table::MAIN) });
    host.rules
        .push(Rule { action: RuleAction::Unreachable, ..Rule::lookup(Family::V6, Priority(9), Table::MAIN) });
    let refused = one(&host, &to("203.0.113.1"));
    assert_eq!((refused.answer.kind, refused.answer.oif), (RouteKind::Unreachable, None));
    // K2: IPv4 takes it for on-link, and says no table.
    let guess = one(&host, &Packet { oif: Some(IfIndex(2)), ..to("203.0.113.1") });
    assert_eq!((guess.answer.oif_name.as_str(), guess.answer.table), ("eth0", None));
    let v6 = one(&host, &Packet { oif: Some(IfIndex(2)), ..to("2001:db8:ffff::1") });
    assert_eq!(v6.answer.kind, RouteKind::Unreachable);
}

#[test]
fn a_throw_asks_the_next_rule_but_not_of_a_bound_socket_in_ipv6() {
    let mut host = fake::host();
    for (dst, kind) in [("0.0.0.0/0", RouteKind::Throw), ("::/0", RouteKind::Unreachable)] {
        let route = fake::route(dst, 1, None, 0);
        host.routes.push(Route { table: Table(7), kind, ..route });
    }
    for family in Family::ALL {
        host.rules.insert(0, Rule::lookup(family, Priority(1), Table(7)));
    }
    assert_eq!(device(&host, &to("203.0.113.1")), "eth0");
    assert_eq!(one(&host, &to("2001:db8:ffff::1")).answer.kind, RouteKind::Unreachable);
    let bound = Packet { oif: Some(IfIndex(2)), ..to("2001:db8:ffff::1") };
    assert_eq!(device(&host, &bound), "eth0", "a route that refuses leads to lo");
}

#[test]
fn suppression_and_groups() {
    let mut host = fake::host();
    fake::second_uplink(&mut host);
    host.links[1].group = 5;
    let by = |rule: Rule| {
        let mut host = host.clone();
        host.rules.insert(0, rule);
        let outcome = one(&host, &to("203.0.113.1"));
        (outcome.answer.oif_name.clone(), host.rules[outcome.rule.unwrap()].priority.0)
    };
    let first = Rule::lookup(Family::V4, Priority(1), Table::MAIN);
    assert_eq!(by(first.clone()), ("eth0".into(), 1));
    assert_eq!(by(Rule { suppress_prefixlength: Some(0), ..first.clone() }), ("eth0".into(), 32_766));
    assert_eq!(by(Rule { suppress_ifgroup: Some(5), ..first.clone() }), ("eth0".into(), 32_766));
    assert_eq!(by(Rule { suppress_ifgroup: Some(6), ..first }), ("eth0".into(), 1));
}

#[test]
fn goto_goes_forward_only() {
    let mut host = fake::host();
    let goto = |priority, target| Rule {
        action: RuleAction::Goto(Priority(target)),
        ..Rule::lookup(Family::V4, Priority(priority), Table::MAIN)
    };
    host.rules.extend([
        goto(10, 30),
        Rule { action: RuleAction::Blackhole, ..Rule::lookup(Family::V4, Priority(20), Table::MAIN) },
        Rule { action: RuleAction::Nop, ..Rule::lookup(Family::V4, Priority(30), Table::MAIN) },
        goto(40, 10),
        goto(41, 999),
    ]);
    assert_eq!(device(&host, &to("203.0.113.1")), "eth0");
}

#[test]
fn what_is_not_understood_gives_every_outcome() {
    let mut host = fake::host();
    host.rules.insert(
        0,
        Rule {
            action: RuleAction::Prohibit,
            other: vec!["DestinationPortRange(53)".into()],
            ..Rule::lookup(Family::V4, Priority(5), Table::MAIN)
        },
    );
    let outcomes = decide(&host, &to("203.0.113.1"));
    let kinds: Vec<_> = outcomes.iter().map(|o| o.answer.kind).collect();
    assert_eq!(kinds, [RouteKind::Unicast, RouteKind::Prohibit]);
    assert!(outcomes.iter().all(|o| o.assumed.len() == 1), "{outcomes:?}");
}

#[test]
fn classes_tell_apart_all_that_routes_tell_apart() {
    let mut host = fake::host();
    fake::second_uplink(&mut host);
    fake::wg_quick(&mut host);
    let classes = classes(&host, Family::V4, &["192.0.2.128/25".parse().unwrap()]);
    assert!(classes.is_sorted() && classes.contains(&address("192.0.2.128")), "{classes:?}");
    let mut random = 7_u64;
    for _ in 0..5_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let any = IpAddr::V4(((random >> 32) as u32).into());
        let class = classes.partition_point(|c| *c <= any) - 1;
        for mark in [0, 0xca6c] {
            let packet = |dst| Packet { dst, mark, ..to("0.0.0.1") };
            let seen =
                |dst| decide(&host, &packet(dst)).into_iter().map(|o| (o.rule, o.route)).collect::<Vec<_>>();
            assert_eq!(seen(any), seen(classes[class]), "{any} is not like {}", classes[class]);
        }
    }
}

#[test]
fn rules_by_source_meet_a_socket_the_second_time() {
    let mut host = fake::host();
    host.links.push(fake::link(8, "trap0", Some("tun")));
    host.routes.push(Route { table: Table(9), ..fake::route("0.0.0.0/0", 8, None, 0) });
    let rule = Rule::lookup(Family::V4, Priority(5), Table(9));
    host.rules.insert(0, Rule { src: Some("192.0.2.2/32".parse().unwrap()), ..rule });
    assert_eq!(device(&host, &to("203.0.113.1")), "eth0");
    let names: Vec<_> =
        decide_socket(&host, &to("203.0.113.1")).into_iter().map(|o| o.answer.oif_name).collect();
    assert_eq!(names, ["eth0", "trap0"]);
}

#[test]
fn a_source_that_is_not_chosen_is_zero_to_ipv4_and_none_to_ipv6() {
    let mut host = fake::host();
    for (family, src) in [(Family::V4, "0.0.0.0/5"), (Family::V6, "::/5")] {
        let rule = Rule { action: RuleAction::Prohibit, ..Rule::lookup(family, Priority(5), Table::MAIN) };
        host.rules.insert(0, Rule { src: Some(src.parse().unwrap()), ..rule });
    }
    assert_eq!(one(&host, &to("203.0.113.1")).answer.kind, RouteKind::Prohibit);
    assert_eq!(one(&host, &to("2001:db8:ffff::1")).answer.kind, RouteKind::Unicast);
}

#[test]
fn marks_are_compared_under_their_mask() {
    let mut host = fake::host();
    let rule = Rule { action: RuleAction::Blackhole, ..Rule::lookup(Family::V4, Priority(5), Table::MAIN) };
    host.rules.insert(0, Rule { fwmark: Some((Mark(0), 0x100)), ..rule });
    let marked = |mark| one(&host, &Packet { mark, ..to("203.0.113.1") }).answer.kind;
    assert_eq!(marked(0x7), RouteKind::Blackhole);
    assert_eq!(marked(0x107), RouteKind::Unicast);
}

/// A router's classes of destinations are as many as its routes, and `doctor` asks about each.
#[test]
fn not_all_routes_are_gone_through_for_each_of_many_questions() {
    const EVERY: u32 = 50;
    let mut host = fake::host();
    let net = |n: u32| fake::route(&format!("11.{}.{}.0/24", n / 250, n % 250), 2, None, 0);
    host.routes.extend((0..9_000).map(net));
    let all = classes(&host, Family::V4, &[]);
    let packet = |dst: &IpAddr| Packet::of(&RouteQuery::to(*dst), 0);
    let begin = Instant::now();
    let few: Vec<_> = all.iter().step_by(EVERY as usize).map(|dst| decide(&host, &packet(dst))).collect();
    let one_by_one = begin.elapsed();
    let begin = Instant::now();
    let model = Model::of(&host);
    let decided: Vec<_> = all.iter().map(|dst| model.decide(&packet(dst))).collect();
    let took = begin.elapsed();
    assert!(few.iter().eq(decided.iter().step_by(EVERY as usize)));
    assert!(took < one_by_one * EVERY / 5, "{took:?}, and {one_by_one:?} for one in {EVERY}");
}
