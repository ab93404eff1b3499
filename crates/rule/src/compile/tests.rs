mod random;

use std::net::SocketAddr;

use oneway_flow::{Network, Process};

use super::*;
use crate::parse::{Context, SubId};
use crate::query::Answer;
use crate::set::{Behavior, Format};

pub(super) fn outbound(name: &str) -> Option<OutboundId> {
    name.strip_prefix('o')?.parse().ok().map(OutboundId)
}

pub(super) struct World {
    pub(super) sets: Vec<(&'static str, Behavior, String)>,
    pub(super) subs: Vec<(&'static str, Vec<String>)>,
}

impl World {
    pub(super) fn compile(&self, rules: &[String]) -> Result<RuleSet, CompileError> {
        let rule_set = |name: &str| {
            let at = self.sets.iter().position(|(known, ..)| *known == name)?;
            Some(SetId(at as u32))
        };
        let sub_rule = |name: &str| {
            let at = self.subs.iter().position(|(known, _)| *known == name)?;
            Some(SubId(at as u32))
        };
        let context = Context { rule_set: &rule_set, sub_rule: &sub_rule, ..Context::new(&outbound) };
        let list = |lines: &[String]| {
            let mut list = RuleList::default();
            for line in lines {
                list.push(line, 1, &context).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
            list
        };
        let sets = self.sets.iter().map(|(_, behavior, text)| {
            SetData::parse(text.as_bytes(), Format::Text, *behavior).unwrap_or_else(|e| panic!("{text}: {e}"))
        });
        RuleSet::compile(Program {
            sets: sets.collect(),
            subs: self.subs.iter().map(|(_, lines)| list(lines)).collect(),
            ..Program::new(list(rules), OutboundId(99))
        })
    }
}

fn rules(lines: &[&str]) -> RuleSet {
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    World { sets: vec![], subs: vec![] }.compile(&lines).unwrap()
}

fn to(address: &str) -> Query<'static> {
    let source = "192.0.2.9:50000".parse().unwrap();
    Query::new(Network::Tcp, Some(source), address.parse::<SocketAddr>().unwrap())
}

fn host(name: &str) -> Query<'_> {
    Query::to_host(Network::Tcp, None, name, 443)
}

#[track_caller]
fn decided(set: &RuleSet, query: &Query<'_>) -> Option<usize> {
    match set.decide(query) {
        Step::Decided(decision) => decision.rule,
        needs => panic!("{needs:?}"),
    }
}

#[test]
fn which_sub_rule_it_was_is_told() {
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let subs = vec![
        ("one", lines(&["DST-PORT,80,o1", "SUB-RULE,(NETWORK,tcp),two"])),
        ("two", lines(&["DST-PORT,22,o2", "DST-PORT,443,o3"])),
    ];
    let set = World { sets: vec![], subs }
        .compile(&lines(&["DST-PORT,1,o4", "SUB-RULE,(NETWORK,tcp),one", "DST-PORT,25,o5"]))
        .unwrap();
    for (port, rule, inner) in [
        (1, 0, None),
        (80, 1, Some((SubId(0), 0, "DST-PORT,80,o1"))),
        (443, 1, Some((SubId(1), 1, "DST-PORT,443,o3"))),
        (25, 2, None),
    ] {
        let Step::Decided(decision) = set.decide(&to(&format!("192.0.2.1:{port}"))) else { panic!("{port}") };
        assert_eq!(decision.rule, Some(rule), "{port}");
        assert_eq!(decision.inner, inner.map(|(sub, at, _)| (sub, at)), "{port}");
        let text = decision.inner.and_then(|(sub, at)| set.text_in(sub, at));
        assert_eq!(text, inner.map(|(.., text)| text), "{port}");
    }
}

#[test]
fn names_in_any_case_and_with_the_root() {
    let set = rules(&["DOMAIN,a.example,o1", "DOMAIN-SUFFIX,example,o2", "DOMAIN-SUFFIX,.test,o3"]);
    for (name, rule) in [
        ("a.example", Some(0)),
        ("A.Example.", Some(0)),
        ("b.a.example", Some(1)),
        ("example", Some(1)),
        ("badexample", None),
        ("test", None),
        ("a.test", Some(2)),
        ("", None),
        (".", None),
        ("..", None),
        (".example", Some(1)),
    ] {
        assert_eq!(decided(&set, &host(name)), rule, "{name:?}");
    }
    assert_eq!(decided(&set, &host(&"a.example".repeat(40))), None);
    assert_eq!(decided(&set, &to("192.0.2.1:1")), None);
}

#[test]
fn the_first_of_all_kinds_wins() {
    let set = rules(&[
        "DST-PORT,22,o1",
        "DOMAIN-KEYWORD,goo,o2",
        "DOMAIN-SUFFIX,google.test,o3",
        "IP-CIDR,198.51.100.0/24,o4",
        "DOMAIN-REGEX,^x+\\.test$,o5",
        "MATCH,o6",
    ]);
    let query = Query { host: Some("www.google.test"), ..to("198.51.100.1:443") };
    assert_eq!(decided(&set, &query), Some(1));
    assert_eq!(decided(&set, &Query { port: 22, ..query }), Some(0));
    assert_eq!(decided(&set, &Query { host: Some("xx.test"), ..query }), Some(3));
    assert_eq!(decided(&set, &Query { host: Some("xx.test"), ..to("203.0.113.1:1") }), Some(4));
    assert_eq!(decided(&set, &to("203.0.113.1:1")), Some(5));
    assert_eq!(set.text(4), Some("DOMAIN-REGEX,^x+\\.test$,o5"));
}

#[test]
fn a_name_is_resolved_where_clash_resolves_it() {
    let set = rules(&[
        "IP-CIDR,198.51.100.0/24,o1,no-resolve",
        "DOMAIN,a.test,o2",
        "IP-CIDR,203.0.113.0/24,o3",
        "IP-CIDR,198.51.100.0/25,o4,no-resolve",
        "MATCH,o5",
    ]);
    assert_eq!(decided(&set, &host("a.test")), Some(1));
    assert_eq!(set.decide(&host("b.test")), Step::Needs { fact: Fact::Address, rule: 2 });
    let answered = |ip: Option<&str>| host("b.test").with_address(ip.map(|ip| ip.parse().unwrap()), 2);
    assert_eq!(decided(&set, &answered(Some("203.0.113.5"))), Some(2));
    // Rule 0 would match, but it was passed before the address was known.
    assert_eq!(decided(&set, &answered(Some("198.51.100.1"))), Some(3));
    assert_eq!(decided(&set, &answered(None)), Some(4));
    // An address that was there from the beginning counts for all.
    assert_eq!(decided(&set, &to("198.51.100.1:1")), Some(0));
    assert!(set.needs().address && set.needs().host && !set.needs().process);
    assert!(!rules(&["IP-CIDR,1.0.0.0/8,o1,no-resolve"]).needs().address);
}

#[test]
fn programs_and_users_are_asked_for_once_reached() {
    let set = rules(&[
        "DST-PORT,22,o1",
        "PROCESS-NAME,curl,o2",
        "UID,1000-1999,o3",
        "PROCESS-PATH,/usr/bin/ssh,o4",
    ]);
    let query = to("192.0.2.1:443");
    assert_eq!(decided(&set, &Query { port: 22, ..query }), Some(0));
    assert_eq!(set.decide(&query), Step::Needs { fact: Fact::Process, rule: 1 });
    let curl = Process { name: "CURL".into(), path: "/opt/CURL".into() };
    let ssh = Process { name: "ssh".into(), path: "/usr/bin/ssh".into() };
    assert_eq!(decided(&set, &Query { process: Answer::Known(&curl), ..query }), Some(1));
    let ssh = Query { process: Answer::Known(&ssh), ..query };
    assert_eq!(set.decide(&ssh), Step::Needs { fact: Fact::Uid, rule: 2 });
    assert_eq!(decided(&set, &Query { uid: Answer::Known(1500), ..ssh }), Some(2));
    assert_eq!(decided(&set, &Query { uid: Answer::Known(0), ..ssh }), Some(3));
    assert_eq!(decided(&set, &Query { uid: Answer::Unknown, process: Answer::Unknown, ..query }), None);
    assert!(set.needs().process && set.needs().uid);
}

#[test]
fn joined_conditions_ask_from_left_to_right() {
    let set = rules(&[
        "AND,((NETWORK,udp),(IP-CIDR,203.0.113.0/24)),o1",
        "NOT,((DOMAIN-SUFFIX,test)),o2",
        "OR,((DOMAIN,a.test),(PROCESS-NAME,x)),o3",
    ]);
    // TCP does not reach the network.
    assert_eq!(decided(&set, &host("other.example")), Some(1));
    assert_eq!(decided(&set, &host("a.test")), Some(2));
    assert_eq!(set.decide(&host("b.test")), Step::Needs { fact: Fact::Process, rule: 2 });
    let udp = Query { network: Network::Udp, ..host("b.test") };
    assert_eq!(set.decide(&udp), Step::Needs { fact: Fact::Address, rule: 0 });
}

#[test]
fn sub_rules_that_say_nothing_lead_on() {
    let world = World {
        sets: vec![],
        subs: vec![
            ("inner", vec!["DST-PORT,80,o1".to_owned(), "SUB-RULE,(NETWORK,udp),last".to_owned()]),
            ("last", vec!["MATCH,o2".to_owned()]),
        ],
    };
    let set = world.compile(&["SUB-RULE,(DST-PORT,1-100),inner".to_owned(), "MATCH,o3".to_owned()]).unwrap();
    let out = |query: &Query<'_>| match set.decide(query) {
        Step::Decided(decision) => (decision.outbound.0, decision.rule),
        needs => panic!("{needs:?}"),
    };
    assert_eq!(out(&to("192.0.2.1:80")), (1, Some(0)));
    assert_eq!(out(&to("192.0.2.1:81")), (3, Some(1)));
    assert_eq!(out(&Query { network: Network::Udp, ..to("192.0.2.1:81") }), (2, Some(0)));
    assert_eq!(out(&to("192.0.2.1:443")), (3, Some(1)));
}

#[test]
fn circles_of_sub_rules_are_refused() {
    let circle = World { sets: vec![], subs: vec![("a", vec!["SUB-RULE,(NETWORK,tcp),a".to_owned()])] };
    let error = circle.compile(&["SUB-RULE,(NETWORK,tcp),a".to_owned()]).unwrap_err();
    assert!(error.message.contains("leads back to itself"), "{error}");
}

#[test]
fn sub_rules_that_multiply_are_refused() {
    let names: Vec<&'static str> = (0..30).map(|n| &*format!("s{n}").leak()).collect();
    let each_twice = |depth: usize| {
        let subs = names[..depth].windows(2).map(|pair| {
            let next = format!("SUB-RULE,(NETWORK,tcp),{}", pair[1]);
            (pair[0], vec![next.clone(), next])
        });
        let last = (names[depth - 1], vec!["DOMAIN,nobody.example,o1".to_owned()]);
        World { sets: vec![], subs: subs.chain([last]).collect() }
            .compile(&["SUB-RULE,(NETWORK,tcp),s0".to_owned()])
    };
    assert!(each_twice(10).is_ok());
    let error = each_twice(30).unwrap_err();
    assert!(error.message.contains("again and again"), "{error}");
    // From the first list as well.
    let long = World { sets: vec![], subs: vec![("long", vec!["DST-PORT,1,o1".to_owned(); 5_000])] };
    let from_first = |times| long.compile(&vec!["SUB-RULE,(NETWORK,tcp),long".to_owned(); times]);
    assert!(from_first(500).is_ok());
    assert!(from_first(1_000).is_err());
}

#[test]
fn rule_sets_count_as_the_rule_that_refers_to_them() {
    let world = World {
        sets: vec![
            ("names", Behavior::Domain, "+.a.test\n*.b.test\n.c.test\nd.test\nx.*.y".to_owned()),
            ("nets", Behavior::IpCidr, "203.0.113.0/24\n2001:db8::/32".to_owned()),
            (
                "mixed",
                Behavior::Classical,
                "DOMAIN-SUFFIX,e.test\nIP-CIDR,198.51.100.0/24,no-resolve\nDST-PORT,22\nAND,((DOMAIN,f.test),(NETWORK,udp))"
                    .to_owned(),
            ),
        ],
        subs: vec![],
    };
    let lines = [
        "RULE-SET,names,o1",
        "RULE-SET,mixed,o2",
        "RULE-SET,nets,o3,no-resolve",
        "AND,((NETWORK,udp),(RULE-SET,nets)),o4",
        "RULE-SET,nets,o5,src",
    ];
    let set = world.compile(&lines.map(str::to_owned)).unwrap();
    for (name, rule) in [
        ("a.test", Some(0)),
        ("x.a.test", Some(0)),
        ("x.b.test", Some(0)),
        ("x.x.b.test", None),
        ("b.test", None),
        ("c.test", None),
        ("x.c.test", Some(0)),
        ("d.test", Some(0)),
        ("x.1.y", Some(0)),
        ("e.test", Some(1)),
    ] {
        assert_eq!(decided(&set, &host(name)), rule, "{name}");
    }
    assert_eq!(decided(&set, &to("198.51.100.7:1")), Some(1));
    assert_eq!(decided(&set, &to("192.0.2.1:22")), Some(1));
    assert_eq!(decided(&set, &to("203.0.113.7:1")), Some(2));
    let from = Query { source: Some("203.0.113.9:1".parse().unwrap()), ..to("192.0.2.1:1") };
    assert_eq!(decided(&set, &from), Some(4));
    // `no-resolve` at rule 2; rule 3 needs the address, but only for UDP.
    let udp = Query { network: Network::Udp, ..host("g.test") };
    assert_eq!(set.decide(&udp), Step::Needs { fact: Fact::Address, rule: 3 });
}

#[test]
fn databases_that_a_set_needs_are_named() {
    let world = World { sets: vec![("s", Behavior::Classical, "GEOIP,DE".to_owned())], subs: vec![] };
    let error = world.compile(&["RULE-SET,s,o1".to_owned()]).unwrap_err();
    assert_eq!(error.set, Some(SetId(0)));
    assert!(error.message.starts_with("GEOIP needs a database"), "{error}");
}
