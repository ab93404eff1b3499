//! What a decision costs, and loading a million rules.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::fmt::Write;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use oneway_flow::Network;
use oneway_rule::{Behavior, Context, Format, OutboundId, Program, Query, RuleList, RuleSet, SetData, SetId};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Names as public lists have them: a word of some length below one of a few ends.
fn name(random: &mut Random) -> String {
    let word = |bits: u64| {
        let len = 4 + bits % 10;
        (0..len).map(|at| char::from(b'a' + (bits >> (at * 4 + 4)) as u8 % 26)).collect::<String>()
    };
    let end = ["com", "net", "org", "cn", "co.uk"][random.next() as usize % 5];
    let top = word(random.next());
    if random.next().is_multiple_of(3) {
        format!("{}.{top}.{end}", word(random.next()))
    } else {
        format!("{top}.{end}")
    }
}

fn list(names: usize) -> String {
    let mut random = Random(names as u64);
    let mut text = String::new();
    for _ in 0..names {
        let _ = writeln!(text, "+.{}", name(&mut random));
    }
    text
}

fn nets(nets: usize) -> String {
    let mut random = Random(nets as u64);
    let mut text = String::new();
    for _ in 0..nets {
        let bits = random.next();
        let _ = writeln!(text, "{}/{}", Ipv4Addr::from_bits(bits as u32), 16 + bits % 17);
    }
    text
}

/// A rule set of names and one of networks, with a few rules around them, as configurations have.
fn compile(sets: Vec<SetData>) -> RuleSet {
    let outbound = |_: &str| Some(OutboundId(1));
    let rule_set = |name: &str| name.parse().ok().map(SetId);
    let context = Context { rule_set: &rule_set, ..Context::new(&outbound) };
    let mut rules = RuleList::default();
    for line in [
        "DST-PORT,22,o",
        "DOMAIN-KEYWORD,tracker,o",
        "RULE-SET,0,o",
        "RULE-SET,1,o,no-resolve",
        "AND,((NETWORK,udp),(DST-PORT,443)),o",
        "MATCH,o",
    ] {
        rules.push(line, 1, &context).expect("a rule");
    }
    RuleSet::compile(Program { sets, ..Program::new(rules, OutboundId(0)) }).expect("compiles")
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for (names, networks) in [(1_000, 1_000), (100_000, 10_000), (1_000_000, 100_000)] {
        let parse =
            |text: &str, behavior| SetData::parse(text.as_bytes(), Format::Text, behavior).expect("a set");
        let sets = vec![parse(&list(names), Behavior::Domain), parse(&nets(networks), Behavior::IpCidr)];
        let rules = compile(sets);
        eprintln!("{names} names and {networks} networks: {} KiB", rules.memory() / 1024);
        let mut random = Random(7);
        let addresses: Vec<SocketAddr> =
            (0..1024).map(|_| SocketAddr::from((Ipv4Addr::from_bits(random.next() as u32), 443))).collect();
        // Half of them are in the list, half in none; each with a label before it.
        let mut listed = Random(names as u64);
        let hosts: Vec<String> = (0..1024)
            .map(|at| if at % 2 == 0 { format!("www.{}", name(&mut listed)) } else { name(&mut random) })
            .collect();
        let mut at = 0;
        group.bench_function(BenchmarkId::new("address", names), |b| {
            b.iter(|| {
                at = (at + 1) % addresses.len();
                rules.decide(&Query::new(Network::Tcp, None, black_box(addresses[at])))
            })
        });
        group.bench_function(BenchmarkId::new("name and address", names), |b| {
            b.iter(|| {
                at = (at + 1) % addresses.len();
                let query = Query::new(Network::Tcp, None, black_box(addresses[at]));
                rules.decide(&Query { host: Some(black_box(&hosts[at])), ..query })
            })
        });
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(10);
    for names in [1_000, 100_000, 1_000_000] {
        let (names_text, nets_text) = (list(names), nets(names / 10));
        group.bench_function(BenchmarkId::from_parameter(names), |b| {
            b.iter(|| {
                let parse = |text: &str, behavior| {
                    SetData::parse(text.as_bytes(), Format::Text, behavior).expect("a set")
                };
                compile(vec![parse(&names_text, Behavior::Domain), parse(&nets_text, Behavior::IpCidr)])
            })
        });
    }
    group.finish();
}

criterion_group!(benches, decide, load);
criterion_main!(benches);
