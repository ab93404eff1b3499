//! The compiled rules against the obvious way: one rule after the other, as it is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use oneway_flow::{Network, Process};

use super::World;
use crate::Behavior;
use crate::query::{Answer, Fact, Query, Step};

/// SplitMix64: enough randomness for tests, the same on every run of a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

const LABELS: &[&str] = &["a", "b", "com", "net", "goo", "ab"];

fn name(random: &mut Random) -> String {
    let labels: Vec<_> = (0..1 + random.below(4)).map(|_| random.pick(LABELS)).collect();
    labels.join(".")
}

fn ip(random: &mut Random) -> IpAddr {
    if random.below(3) == 0 {
        Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(random.below(16))).into()
    } else {
        Ipv4Addr::from_bits(0xc000_0200 | random.below(16) as u32).into()
    }
}

fn net(random: &mut Random) -> String {
    let ip = ip(random);
    let max = if ip.is_ipv4() { 32 } else { 128 };
    format!("{ip}/{}", if random.below(8) == 0 { 0 } else { max - random.below(5) })
}

/// A kind with its payload and options, without an outbound.
fn condition(random: &mut Random, depth: u64, sets: bool) -> (String, &'static str) {
    let options = ["", "", ",no-resolve", ",src"][random.below(4) as usize];
    match random.below(if depth > 2 { 15 } else { 18 }) {
        0 | 1 => (format!("DOMAIN,{}", name(random)), ""),
        2 | 3 => (format!("DOMAIN-SUFFIX,{}", name(random)), ""),
        4 => (format!("DOMAIN-SUFFIX,.{}", name(random)), ""),
        5 => (format!("DOMAIN-KEYWORD,{}", random.pick(&["go", "a.b", "om", "x"])), ""),
        6 => (format!("DOMAIN-WILDCARD,{}", random.pick(&["*.com", "a?.*", "*oo*", "?"])), ""),
        7 => (format!("DOMAIN-REGEX,{}", random.pick(&["^a", r"\.com$", r"^(goo|ab)\.", "b.*net"])), ""),
        8 | 9 => (format!("IP-CIDR,{}", net(random)), options),
        10 => (format!("SRC-IP-CIDR,{}", net(random)), ""),
        11 => (format!("DST-PORT,{}", random.pick(&["1", "2/3", "3-5"])), ""),
        12 => (format!("PROCESS-NAME,{}", random.pick(&["curl", "ssh"])), ""),
        13 => (format!("UID,{}", random.pick(&["0", "1-2"])), ""),
        14 if sets => {
            let set = random.pick(&["names", "nets", "mixed"]);
            (format!("RULE-SET,{set}"), if options == ",src" { "" } else { options })
        }
        14 => ("GEOIP,LAN".to_owned(), options),
        kind => {
            let count = if kind == 17 { 1 } else { 1 + random.below(3) };
            let inner: Vec<_> = (0..count)
                .map(|_| {
                    let (inner, options) = condition(random, depth + 1, sets);
                    format!("({inner}{options})")
                })
                .collect();
            (format!("{},({})", ["AND", "OR", "NOT"][kind as usize - 15], inner.join(",")), "")
        }
    }
}

/// What the obvious way knows of a flow. It finds out what it is asked for, as Clash does, and remembers.
struct Flow<'a> {
    world: &'a World,
    query: Query<'a>,
    address: Option<IpAddr>,
    /// The rule that had the name resolved.
    asked: Option<usize>,
    process: Option<&'a Process>,
    uid: Option<u32>,
}

impl Flow<'_> {
    fn addressed(&mut self, rule: usize, options: &str, source: bool, test: &dyn Fn(IpAddr) -> bool) -> bool {
        if source || options.contains("src") {
            return self.query.source.is_some_and(|source| test(source.ip()));
        }
        if let Answer::Known(ip) = self.query.ip {
            return test(ip);
        }
        let resolve = !options.contains("no-resolve");
        if resolve && self.asked.is_none() && self.query.host.is_some() {
            self.asked = Some(rule);
        }
        let known = self.asked.is_some_and(|asked| resolve || asked <= rule);
        known && self.address.is_some_and(test)
    }

    fn holds(&mut self, rule: usize, text: &str, resolve: &str) -> bool {
        let (kind, rest) = text.split_once(',').unwrap();
        let host = self.query.host;
        if matches!(kind, "AND" | "OR" | "NOT") {
            let mut parts = parts(&rest[1..rest.len() - 1]).into_iter();
            return match kind {
                "AND" => parts.all(|part| self.holds(rule, &part, resolve)),
                "OR" => parts.any(|part| self.holds(rule, &part, resolve)),
                _ => !self.holds(rule, &parts.next().unwrap(), resolve),
            };
        }
        if kind == "DOMAIN-REGEX" {
            return host.is_some_and(|host| match rest {
                "^a" => host.starts_with('a'),
                r"\.com$" => host.ends_with(".com"),
                r"^(goo|ab)\." => host.starts_with("goo.") || host.starts_with("ab."),
                _ => host.split_once('b').is_some_and(|(_, after)| after.contains("net")),
            });
        }
        let (payload, options) = rest.split_once(',').unwrap_or((rest, ""));
        let options = &format!("{options}{resolve}");
        let within =
            |name: &str| host.is_some_and(|host| host == name || host.ends_with(&format!(".{name}")));
        match kind {
            "DOMAIN" => host == Some(payload),
            "DOMAIN-SUFFIX" => match payload.strip_prefix('.') {
                Some(below) => within(below) && host != Some(below),
                None => within(payload),
            },
            "DOMAIN-KEYWORD" => host.is_some_and(|host| host.contains(payload)),
            "DOMAIN-WILDCARD" => host.is_some_and(|host| match payload {
                "*.com" => host.ends_with(".com"),
                "a?.*" => host.starts_with('a') && host.get(2..3) == Some("."),
                "*oo*" => host.contains("oo"),
                _ => host.len() == 1,
            }),
            "IP-CIDR" | "SRC-IP-CIDR" => {
                let net: IpNet = payload.parse().unwrap();
                self.addressed(rule, options, kind == "SRC-IP-CIDR", &|ip| net.contains(&ip))
            }
            "GEOIP" => self.addressed(rule, options, false, &|_| false),
            "DST-PORT" => payload.split('/').any(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                (first.parse().unwrap()..=last.parse().unwrap()).contains(&self.query.port)
            }),
            "PROCESS-NAME" => self.process.is_some_and(|process| *process.name == *payload),
            "UID" => self.uid.is_some_and(|uid| match payload {
                "0" => uid == 0,
                _ => (1..=2).contains(&uid),
            }),
            "RULE-SET" => {
                let (_, behavior, text) = self.world.sets.iter().find(|(name, ..)| *name == payload).unwrap();
                text.lines().any(|entry| match behavior {
                    Behavior::Domain => match entry.split_at(2) {
                        ("+.", name) => within(name),
                        ("*.", name) => host
                            .is_some_and(|host| host.split_once('.').is_some_and(|(_, rest)| rest == name)),
                        _ => host == Some(entry),
                    },
                    Behavior::IpCidr => self.holds(rule, &format!("IP-CIDR,{entry}"), options),
                    Behavior::Classical => self.holds(rule, entry, options),
                })
            }
            other => panic!("{other}"),
        }
    }

    fn decide(&mut self, rules: &[String]) -> Option<usize> {
        (0..rules.len()).find(|at| {
            let (rule, _) = rules[*at].rsplit_once(",to,").unwrap();
            let kept =
                rules[*at].rsplit_once(",to,").unwrap().1.split_once(',').map_or("", |(_, options)| options);
            let text = if kept.is_empty() { rule.to_owned() } else { format!("{rule},{kept}") };
            self.holds(*at, &text, "")
        })
    }
}

/// The parts of `(…),(…)`, without their brackets.
fn parts(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut part) = (Vec::new(), 0, String::new());
    for c in text.chars() {
        if c == ')' {
            depth -= 1;
            if depth == 0 {
                parts.push(std::mem::take(&mut part));
            }
        }
        if depth > 0 {
            part.push(c);
        }
        if c == '(' {
            depth += 1;
        }
    }
    parts
}

#[test]
fn agrees_with_the_obvious_way() {
    let mut asked = 0;
    for seed in 0..400 {
        let mut random = Random(seed);
        let lines = |random: &mut Random, each: &dyn Fn(&mut Random) -> String| {
            (0..1 + random.below(4)).map(|_| each(random)).collect::<Vec<_>>().join("\n")
        };
        let prefix = |random: &mut Random| format!("{}{}", random.pick(&["+.", "*.", "ab."]), name(random));
        let mixed = |random: &mut Random| {
            let (text, options) = condition(random, 2, false);
            format!("{text}{options}")
        };
        let world = World {
            sets: vec![
                ("names", Behavior::Domain, lines(&mut random, &prefix)),
                ("nets", Behavior::IpCidr, lines(&mut random, &net)),
                ("mixed", Behavior::Classical, lines(&mut random, &mixed)),
            ],
            subs: vec![],
        };
        // `to` marks where the outbound goes.
        let marked: Vec<String> = (0..1 + random.below(25))
            .map(|at| {
                let (text, options) = condition(&mut random, 0, true);
                format!("{text},to,o{at}{options}")
            })
            .collect();
        let written: Vec<String> = marked.iter().map(|rule| rule.replace(",to,", ",")).collect();
        let set = world.compile(&written).unwrap();
        for _ in 0..80 {
            let host = (random.below(4) > 0).then(|| name(&mut random));
            let program = Process { name: random.pick(&["curl", "ssh", "x"]).into(), path: "".into() };
            let process = (random.below(4) > 0).then_some(&program);
            let uid = (random.below(4) > 0).then(|| random.below(4) as u32);
            let address = (random.below(5) > 0).then(|| ip(&mut random));
            let network = if random.below(2) == 0 { Network::Tcp } else { Network::Udp };
            let source = (random.below(8) > 0).then(|| SocketAddr::new(ip(&mut random), 1));
            let port = random.below(7) as u16;
            let query = match (&host, address) {
                (Some(host), _) if random.below(2) == 0 => Query::to_host(network, source, host, port),
                (_, Some(ip)) => {
                    Query { host: host.as_deref(), ..Query::new(network, source, SocketAddr::new(ip, port)) }
                }
                (Some(host), None) => Query::to_host(network, source, host, port),
                (None, None) => continue,
            };
            let expected = Flow { world: &world, query, address, asked: None, process, uid }.decide(&marked);
            let mut query = query;
            let found = loop {
                match set.decide(&query) {
                    Step::Decided(decision) => break decision.rule,
                    Step::Needs { fact: Fact::Address, rule } => query = query.with_address(address, rule),
                    Step::Needs { fact: Fact::Process, .. } => {
                        query.process = process.map_or(Answer::Unknown, Answer::Known);
                    }
                    Step::Needs { fact: Fact::Uid, .. } => {
                        query.uid = uid.map_or(Answer::Unknown, Answer::Known)
                    }
                }
                asked += 1;
            };
            assert_eq!(found, expected, "seed {seed}, {query:?}, rules {written:#?}, sets {:#?}", world.sets);
        }
    }
    assert!(asked > 1000, "only {asked} facts were asked for");
}
