//! Rules as users write them: parsed, compiled and asked. Nothing panics, and a flow is decided in a few steps.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use oneway_flow::{Network, Process};
use oneway_rule::{Answer, Context, Fact, OutboundId, Program, Query, RuleList, RuleSet, SetData, SetId, Step, SubId};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let outbound = |name: &str| (!name.is_empty()).then_some(OutboundId(1));
    let context = Context {
        rule_set: &|name| (name == "s").then_some(SetId(0)),
        sub_rule: &|name| (name == "r").then_some(SubId(0)),
        check_databases: false,
        ..Context::new(&outbound)
    };
    let mut rules = RuleList::default();
    for error in rules.push_text(text, &context) {
        assert!(error.line > 0 && error.column > 0 && !error.message.contains('\n'));
    }
    let mut yaml = RuleList::default();
    yaml.push_yaml(text, &context);
    let program = Program { subs: vec![yaml], sets: vec![SetData::default()], ..Program::new(rules, OutboundId(0)) };
    let Ok(set) = RuleSet::compile(program) else { return };
    let target: SocketAddr = "192.0.2.1:443".parse().expect("an address");
    let process = Process { name: "curl".into(), path: "/usr/bin/curl".into() };
    let host = text.lines().last().unwrap_or_default();
    for mut query in [Query::new(Network::Tcp, Some(target), target), Query::to_host(Network::Udp, None, host, 53)] {
        for step in 0.. {
            assert!(step < 4, "a fact is asked for twice");
            match set.decide(&query) {
                Step::Decided(decision) => {
                    assert!(decision.rule.is_none_or(|rule| set.text(rule).is_some()));
                    break;
                }
                Step::Needs { fact: Fact::Address, rule } => query = query.with_address(Some(target.ip()), rule),
                Step::Needs { fact: Fact::Uid, .. } => query.uid = Answer::Known(1000),
                Step::Needs { fact: Fact::Process, .. } => query.process = Answer::Known(&process),
            }
        }
    }
});
