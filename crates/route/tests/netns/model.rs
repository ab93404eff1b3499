//! The model of the routing decision compared with the kernel's own answers, on random hosts.
//!
//! A seed makes a host: devices, addresses, routes of every kind, rules of every kind. What the kernel refuses is
//! left out; the model is given what the kernel says it has. `MODEL_SEED=N` runs one seed alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange,
};
use oneway_route::{
    Family, IfIndex, Journal, Mark, Model, Outcome, Packet, Protect, Request, RouteAnswer, RouteKind,
    RouteQuery, Snapshot, Table, apply, classes, decide, no_hook, plan, planned, query,
};

use crate::host::{Tun, set, until};
use crate::namespace::{Namespace, other_user};
use crate::wire::Wire;

crate::trials!(
    the_model_agrees_with_the_kernel,
    the_model_agrees_about_what_is_forwarded,
    a_plan_in_the_model_is_the_plan_in_the_kernel,
);

const SEEDS: u64 = 50;
/// Seeds that have found something: rules by a source that is not chosen yet.
const FOUND: [u64; 2] = [1051, 1072];
const QUESTIONS: usize = 160;
const DEVICES: [&str; 3] = ["eth0", "eth1", "eth2"];
const TABLES: [u32; 5] = [254, 254, 100, 101, 253];
const PORTS: [u16; 3] = [1_024, 1_500, 24_576];
const MARKS: [u32; 4] = [0, 0x1, 0x10, 0x1011];
const NETS4: [&str; 6] =
    ["192.0.2.0/24", "192.0.2.128/25", "198.51.100.0/24", "203.0.113.0/26", "10.0.0.0/8", "0.0.0.0/0"];
const NETS6: [&str; 6] =
    ["2001:db8:a::/64", "2001:db8:a::/80", "2001:db8:b::/64", "2001:db8:ffff::/48", "2001:db8::/32", "::/0"];

/// xorshift64*
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn net(&mut self, family: Family) -> IpNet {
        let text = match family {
            Family::V4 => self.pick(&NETS4),
            Family::V6 => self.pick(&NETS6),
        };
        let net: IpNet = text.parse().unwrap();
        if self.one_in(3) {
            let longer = (net.prefix_len() + self.below(9) as u8).min(net.max_prefix_len());
            return IpNet::new(self.address(net), longer).unwrap().trunc();
        }
        net
    }

    fn address(&mut self, net: IpNet) -> IpAddr {
        let bits = self.below(1 << 30) as u128;
        match net {
            IpNet::V4(net) => {
                let host = (bits as u32) & !u32::from(net.netmask());
                Ipv4Addr::from_bits(u32::from(net.network()) | host).into()
            }
            IpNet::V6(net) => {
                let host = bits & !u128::from(net.netmask());
                Ipv6Addr::from_bits(u128::from(net.network()) | host).into()
            }
        }
    }
}

fn number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// Devices with addresses. Each has its other end in the same namespace, which is up and does nothing.
fn devices(random: &mut Random) {
    set("net/ipv4/ip_forward", "1");
    // Without forwarding IPv6 asks whether routers answer, which is not in the model.
    set("net/ipv6/conf/all/forwarding", "1");
    for dev in ["all", "default"] {
        set(&format!("net/ipv4/conf/{dev}/rp_filter"), "0");
    }
    set("net/ipv6/conf/default/accept_dad", "0");
    // No link-local addresses: the kernel makes them on its own time.
    set("net/ipv6/conf/default/addr_gen_mode", "1");
    let wire = Wire::open();
    for (n, dev) in DEVICES.iter().enumerate() {
        wire.veth(dev, &format!("far{n}"));
        wire.up(&format!("far{n}"));
        wire.up(dev);
        wire.group(dev, random.below(3) as u32);
        for (v4, v6) in [("192.0.2.0/24", "2001:db8:a::/64"), ("198.51.100.0/24", "2001:db8:b::/64")] {
            for net in [v4, v6] {
                if random.one_in(2) {
                    let net: IpNet = net.parse().unwrap();
                    let host = IpNet::new(random.address(net), net.prefix_len()).unwrap();
                    let _ = wire.try_address(dev, host);
                }
            }
        }
    }
}

fn routes(random: &mut Random, wire: &Wire) {
    for _ in 0..18 {
        let family = random.pick(&Family::ALL);
        let dst = random.net(family);
        let kind = match random.below(10) {
            0 => RouteType::Throw,
            1 => RouteType::Unreachable,
            2 => RouteType::BlackHole,
            3 => RouteType::Prohibit,
            _ => RouteType::Unicast,
        };
        let mut message = RouteMessage::default();
        message.header.address_family = number(family);
        message.header.destination_prefix_length = dst.prefix_len();
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = kind;
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(random.pick(&TABLES)));
        if dst.prefix_len() > 0 {
            attributes.push(RouteAttribute::Destination(dst.addr().into()));
        }
        attributes.push(RouteAttribute::Priority(random.pick(&[0, 10, 20, 1024])));
        if kind == RouteType::Unicast {
            attributes.push(RouteAttribute::Oif(wire.index(random.pick(&DEVICES))));
            if random.one_in(2) {
                let near = match family {
                    Family::V4 => random.pick(&["192.0.2.0/24", "198.51.100.0/24"]),
                    Family::V6 => random.pick(&["2001:db8:a::/64", "2001:db8:b::/64"]),
                };
                let gateway = random.address(near.parse().unwrap());
                attributes.push(RouteAttribute::Gateway(gateway.into()));
            } else if family == Family::V4 {
                message.header.scope = RouteScope::Link;
            }
        }
        let _ = wire.try_route(message);
    }
}

fn rules(random: &mut Random, wire: &Wire) {
    for _ in 0..9 {
        let family = random.pick(&Family::ALL);
        let mut message = RuleMessage::default();
        message.header.family = number(family);
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(random.pick(&[5, 10, 15, 20, 25, 30, 33_000])));
        message.header.action = match random.below(14) {
            0 => RuleAction::Unreachable,
            1 => RuleAction::Blackhole,
            2 => RuleAction::Prohibit,
            3 => RuleAction::Nop,
            4 | 5 => {
                attributes.push(RuleAttribute::Goto(random.pick(&[20, 25, 31, 32_766, 40_000])));
                RuleAction::Goto
            }
            _ => {
                attributes.push(RuleAttribute::Table(random.pick(&[254, 100, 101, 102])));
                if random.one_in(3) {
                    attributes.push(RuleAttribute::SuppressPrefixLen(random.pick(&[0, 1, 24, 64])));
                }
                if random.one_in(5) {
                    attributes.push(RuleAttribute::SuppressIfGroup(random.below(3) as u32));
                }
                RuleAction::ToTable
            }
        };
        if random.one_in(6) {
            message.header.flags = RuleFlags::Invert;
        }
        if random.one_in(2) {
            attributes.push(RuleAttribute::FwMark(random.pick(&MARKS)));
            attributes.push(RuleAttribute::FwMask(random.pick(&[0x1, 0x11, u32::MAX])));
        }
        if random.one_in(4) {
            attributes.push(RuleAttribute::Iifname(random.pick(&["lo", "eth0", "gone9"]).into()));
        }
        if random.one_in(5) {
            attributes.push(RuleAttribute::Oifname(random.pick(&["eth0", "eth1", "gone9"]).into()));
        }
        if random.one_in(4) {
            let net = random.net(family);
            message.header.src_len = net.prefix_len();
            attributes.push(RuleAttribute::Source(net.addr()));
        }
        if random.one_in(4) {
            let net = random.net(family);
            message.header.dst_len = net.prefix_len();
            attributes.push(RuleAttribute::Destination(net.addr()));
        }
        if random.one_in(5) {
            let start = random.pick(&PORTS);
            let ports = RulePortRange { start, end: start + 1_000 };
            attributes.push(RuleAttribute::SourcePortRange(ports));
        }
        if random.one_in(5) {
            let end = other_user().unwrap_or(0);
            attributes.push(RuleAttribute::UidRange(RuleUidRange { start: random.pick(&[0, end]), end }));
        }
        let _ = wire.try_rule(message);
    }
}

/// A random host in a namespace of its own.
fn random_host(random: &mut Random) {
    devices(random);
    let wire = Wire::open();
    routes(random, &wire);
    rules(random, &wire);
    until("IPv6 has settled", settled);
}

/// The kernel makes the local route of an IPv6 address on its own time.
fn settled() -> bool {
    let now = Snapshot::take().unwrap();
    let local = |a: IpAddr| {
        let mut routes = now.routes.iter();
        routes.any(|r| r.table == Table::LOCAL && r.kind == RouteKind::Local && r.dst.addr() == a)
    };
    now.addresses.iter().filter(|a| a.net.addr().is_ipv6()).all(|a| local(a.net.addr()))
}

/// The questions of a family: every class of destinations, thinned out, and some between.
fn destinations(random: &mut Random, host: &Snapshot, family: Family) -> Vec<IpAddr> {
    let classes = classes(host, family, &[]);
    (0..QUESTIONS / 2)
        .map(|_| if random.one_in(3) { random.net(family).addr() } else { random.pick(&classes) })
        .collect()
}

/// What is compared. IPv6 answers a refusal of a rule as if there were no route.
fn seen(family: Family, answer: &RouteAnswer, by_rule: bool) -> impl PartialEq + std::fmt::Debug + use<> {
    let refusal = matches!(
        answer.kind,
        RouteKind::Blackhole | RouteKind::Prohibit | RouteKind::Unreachable | RouteKind::Throw
    );
    let kind = match family {
        Family::V6 if by_rule && refusal => RouteKind::Unreachable,
        _ => answer.kind,
    };
    let table = answer.table.filter(|_| !refusal);
    let prefsrc = answer.prefsrc.filter(|_| family == Family::V4);
    (answer.oif, answer.oif_name.clone(), answer.gateway, table, prefsrc, kind)
}

fn agree(host: &Snapshot, asked: &RouteQuery, seed: u64) -> usize {
    let uid = rustix::process::geteuid().as_raw();
    let family = Family::of(asked.dst);
    let kernel = match query(asked) {
        Ok(answer) => answer,
        Err(e) => panic!("seed {seed}: {asked:?}: {e}"),
    };
    let model = decide(host, &Packet::of(asked, uid));
    assert_eq!(Model::of(host).decide(&Packet::of(asked, uid)), model, "seed {seed}: {asked:?}");
    let same =
        |o: &Outcome| seen(family, &o.answer, o.route.is_none()) == seen(family, &kernel, o.route.is_none());
    assert!(
        model.iter().any(same),
        "seed {seed}: {asked:?}\nkernel {kernel:?}\nmodel {model:#?}\nrules {:#?}\nroutes {:#?}\naddresses {:#?}",
        host.rules.iter().filter(|r| r.family == family).collect::<Vec<_>>(),
        host.routes.iter().filter(|r| r.family() == family && r.dst.contains(&asked.dst)).collect::<Vec<_>>(),
        host.addresses,
    );
    1
}

fn seeds() -> Vec<u64> {
    match std::env::var("MODEL_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).chain(FOUND).collect(),
    }
}

fn ask_all(random: &mut Random, host: &Snapshot, seed: u64) -> usize {
    let mut asked = 0;
    for family in Family::ALL {
        let own: Vec<IpAddr> =
            host.addresses.iter().map(|a| a.net.addr()).filter(|a| Family::of(*a) == family).collect();
        for dst in destinations(random, host, family) {
            let mut question = RouteQuery::to(dst);
            question.mark = Some(Mark(random.pick(&MARKS)));
            if random.one_in(3) {
                question.oif = Some(host.link(random.pick(&DEVICES)).unwrap().index);
            }
            if random.one_in(3) {
                question.src = Some(random.pick(&own));
            }
            if random.one_in(3) {
                question.uid = other_user();
            }
            if random.one_in(2) {
                question.sport = Some(random.pick(&[1_023, 1_024, 2_024, 2_025, 24_576, 25_577]));
            }
            asked += agree(host, &question, seed);
        }
    }
    asked
}

fn the_model_agrees_with_the_kernel() {
    let mut asked = 0;
    for seed in seeds() {
        Namespace::new().run(|| {
            let mut random = Random::new(seed);
            random_host(&mut random);
            let host = Snapshot::take().unwrap();
            asked += ask_all(&mut random, &host, seed);
        });
    }
    assert!(asked >= QUESTIONS, "{asked}");
}

fn the_model_agrees_about_what_is_forwarded() {
    let mut routed = 0;
    for seed in seeds() {
        Namespace::new().run(|| {
            let mut random = Random::new(seed ^ 0xf0f0);
            random_host(&mut random);
            let host = Snapshot::take().unwrap();
            let wire = Wire::open();
            for family in Family::ALL {
                let src: IpAddr = match family {
                    Family::V4 => "203.0.113.77".parse().unwrap(),
                    Family::V6 => "2001:db8:77::77".parse().unwrap(),
                };
                for dst in destinations(&mut random, &host, family) {
                    let here = host.addresses.iter().any(|a| a.net.addr() == dst || a.net.broadcast() == dst);
                    if dst.is_multicast() || dst.is_unspecified() || dst.is_loopback() || here {
                        continue;
                    }
                    let iif = host.link(random.pick(&DEVICES)).unwrap().index;
                    let mark = random.pick(&MARKS);
                    // What a source address is refused for is not in the model.
                    let Some(oif) = wire.forwarded(dst, src, iif.0, mark) else { continue };
                    let packet = Packet {
                        src: Some(src),
                        iif: Some(iif),
                        mark,
                        ..Packet::of(&RouteQuery::to(dst), 0)
                    };
                    let model = decide(&host, &packet);
                    let same = |o: &Outcome| o.answer.oif == Some(IfIndex(oif));
                    assert!(
                        model.iter().any(same),
                        "seed {seed}: {packet:?}: kernel {oif}, model {model:#?}\n{host:#?}"
                    );
                    routed += 1;
                }
            }
        });
    }
    assert!(routed > 0 || seeds().len() == 1, "nothing was forwarded");
}

/// The snapshot of a host with a plan made real, and the model of it, answer alike; and both as the kernel does.
fn a_plan_in_the_model_is_the_plan_in_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    for seed in seeds() {
        Namespace::new().run(|| {
            let mut random = Random::new(seed ^ 0xabc);
            random_host(&mut random);
            let before = Snapshot::take().unwrap();
            let protect = random.pick(&[
                Protect::Mark,
                Protect::Bind,
                Protect::MarkIfgroup,
                Protect::SourceRule,
                Protect::HostRoute,
                Protect::HostRouteHalves,
            ]);
            let servers = vec!["203.0.113.77".parse().unwrap(), "2001:db8:77::77".parse().unwrap()];
            let request =
                Request { protect, servers, root: true, forwarded: random.one_in(2), ..Request::default() };
            // Random rules may leave no place for ours.
            let Ok(plan) = plan(&request, &before) else { return };
            let _tun = Tun::open(&plan.tun_name);
            let journal = Journal::create(&dir.path().join(format!("journal-{seed}"))).unwrap();
            // What `verify` would refuse is compared all the same: the capture's rules are made by hand.
            let applied = apply(plan.clone(), journal, &mut no_hook).unwrap();
            let with_rules = Wire::open();
            for step in plan.steps.iter().filter(|s| s.phase == oneway_route::Phase::Capture) {
                if let oneway_route::Change::Rule(rule) = &step.change {
                    with_rules.rule_of(rule);
                }
            }
            until("IPv6 has settled", settled);
            let real = Snapshot::take().unwrap();
            let model = planned(&before, &plan);
            ask_all(&mut random, &real, seed);
            let tun = |host: &Snapshot| host.link(&plan.tun_name).unwrap().index;
            for family in Family::ALL {
                let mut all = destinations(&mut random, &real, family);
                // Link-local addresses are not made here, and the network's own address is anybody's only on a
                // router; nothing is sent to either.
                all.retain(|dst| {
                    let network = plan.tun_addresses.iter().any(|net| net.network() == *dst);
                    let link_local = matches!(dst, IpAddr::V6(v6) if v6.is_unicast_link_local());
                    !network && !link_local && !dst.is_multicast()
                });
                for dst in all {
                    for mark in [0, plan.mark.map_or(0, |m| m.0)] {
                        let way = |host: &Snapshot| {
                            let packet = Packet { mark, ..Packet::of(&RouteQuery::to(dst), 0) };
                            let first = decide(host, &packet).remove(0).answer;
                            (first.oif == Some(tun(host)), first.kind, first.gateway, first.table)
                        };
                        let skip = |t: Option<Table>| t.is_none();
                        let (a, b) = (way(&real), way(&model));
                        if !skip(a.3) || !skip(b.3) {
                            assert_eq!(a, b, "seed {seed}: {dst}, mark {mark:#x}\n{}", plan.text());
                        }
                    }
                }
            }
            applied.undo(&mut no_hook).unwrap();
        });
    }
}
