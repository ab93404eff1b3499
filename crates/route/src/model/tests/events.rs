//! The plan under events: whatever happens to the host, no socket of ours is routed into the TUN.
//!
//! Every sequence of two events on every kind of host, and long random ones. The host changes as the kernel changes
//! it: a link that goes down takes its routes along, an address the routes that prefer it.

mod strict;

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::foreign::foreign_ways;
use super::super::{Packet, classes, decide, decide_socket, planned};
use crate::host::{PROTOCOL, Route, Rule, Snapshot};
use crate::id::{Family, IfIndex, Mark, Priority, Table};
use crate::plan::tests::fake;
use crate::plan::{Plan, Protect, Request, plan};
use crate::query::{RouteKind, RouteQuery};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The first or second uplink goes down, or comes up as it was at first.
    Down(u32),
    Up(u32),
    /// Its addresses are removed; it gets others.
    AddressLost(u32),
    AddressNew(u32),
    /// Its default routes are removed; it gets one that is better than all others; a useless one without a gateway.
    DefaultLost(u32),
    DefaultBetter(u32),
    DefaultUseless(u32),
    /// Somebody deletes one of our rules, all of them, or every rule as `ip rule flush` does.
    OneRule(usize),
    OurRules,
    AllRules,
    /// Somebody empties our table.
    OurRoutes,
    /// IPv4 is gone altogether.
    Ipv6Only,
    /// Other VPNs start and stop. After us they take priorities before ours, as the kernel gives them.
    WgQuick,
    Tailscale,
    OpenVpn,
    OthersStop,
    /// We stop; we start anew, on the host as it is.
    Stop,
    Restart,
}

const EVENTS: [Event; 25] = [
    Event::Down(2),
    Event::Down(3),
    Event::Up(2),
    Event::Up(3),
    Event::AddressLost(2),
    Event::AddressNew(2),
    Event::DefaultLost(2),
    Event::DefaultLost(3),
    Event::DefaultBetter(3),
    Event::DefaultUseless(3),
    Event::OneRule(0),
    Event::OneRule(1),
    Event::OneRule(2),
    Event::OneRule(3),
    Event::OneRule(5),
    Event::OurRules,
    Event::AllRules,
    Event::OurRoutes,
    Event::Ipv6Only,
    Event::WgQuick,
    Event::Tailscale,
    Event::OpenVpn,
    Event::OthersStop,
    Event::Stop,
    Event::Restart,
];

/// Where OpenVPN's server is.
const SERVER: &str = "198.51.100.250";

/// A host, what we made of it, and how our sockets are protected.
#[derive(Clone)]
struct World {
    host: Snapshot,
    first: Snapshot,
    request: Request,
    plan: Option<Plan>,
    /// Whether nobody has touched what is ours, so that the capture is what was promised.
    intact: bool,
}

impl World {
    fn new(host: Snapshot, request: Request) -> Self {
        let mut host = host;
        // The TUN gets a number behind this one, which nobody else has later.
        host.links.push(crate::host::Link { up: false, ..fake::link(40, "spare0", None) });
        let mut world = Self { first: host.clone(), host, request, plan: None, intact: true };
        world.settle();
        world.restart();
        world
    }

    fn restart(&mut self) {
        self.stop();
        // A host for which there is no plan is not captured.
        let Ok(plan) = plan(&self.request, &self.host) else { return };
        self.host = planned(&self.host, &plan);
        self.plan = Some(plan);
        self.intact = true;
    }

    fn stop(&mut self) {
        if let Some(plan) = self.plan.take() {
            let tun = self.host.link(&plan.tun_name).map(|l| l.index);
            self.host.links.retain(|l| Some(l.index) != tun);
            self.host.addresses.retain(|a| Some(a.index) != tun);
            self.host.routes.retain(|r| r.protocol != PROTOCOL && (tun.is_none() || r.oif != tun));
            self.host.rules.retain(|r| r.protocol != PROTOCOL);
        }
    }

    fn tun(&self) -> Option<IfIndex> {
        self.plan.as_ref().and_then(|p| self.host.link(&p.tun_name)).map(|l| l.index)
    }

    fn happen(&mut self, event: Event) {
        self.change(event);
        self.settle();
    }

    /// What the kernel does by itself: a local route for every address.
    fn settle(&mut self) {
        let tun = self.tun();
        self.host.routes.retain(|r| r.table != Table::LOCAL || tun.is_some() && r.oif == tun);
        let own = self.host.addresses.iter().filter(|a| Some(a.index) != tun);
        let local = own.map(|a| {
            let whole = if a.net.addr().is_loopback() { a.net.prefix_len() } else { a.net.max_prefix_len() };
            let net = IpNet::new(a.net.addr(), whole).unwrap().trunc();
            let (table, kind) = (Table::LOCAL, RouteKind::Local);
            Route { table, kind, scope: 254, ..Route::unicast(net, a.index) }
        });
        self.host.routes.extend(local.collect::<Vec<_>>());
    }

    fn change(&mut self, event: Event) {
        // Its number may have become somebody else's.
        if let Event::Down(n)
        | Event::Up(n)
        | Event::AddressLost(n)
        | Event::AddressNew(n)
        | Event::DefaultLost(n)
        | Event::DefaultBetter(n)
        | Event::DefaultUseless(n) = event
            && self.host.link_at(IfIndex(n)).is_none_or(|l| !l.name.starts_with("eth"))
        {
            return;
        }
        let at = |n| move |r: &Route| r.oif == Some(IfIndex(n));
        match event {
            Event::Down(n) => {
                self.link(n, false);
                self.host.routes.retain(|r| !at(n)(r));
                self.host.addresses.retain(|a| a.index != IfIndex(n) || a.net.addr().is_ipv4());
            }
            Event::Up(n) => {
                self.link(n, true);
                for route in self.first.routes.clone().into_iter().filter(at(n)) {
                    if !self.host.routes.contains(&route) {
                        self.host.routes.push(route);
                    }
                }
                for address in self.first.addresses.iter().filter(|a| a.index == IfIndex(n)) {
                    if !self.host.addresses.contains(address) {
                        self.host.addresses.push(address.clone());
                    }
                }
            }
            Event::AddressLost(n) => {
                let lost: Vec<IpAddr> = self.addresses(n);
                self.host.addresses.retain(|a| a.index != IfIndex(n));
                self.host.routes.retain(|r| r.prefsrc.is_none_or(|src| !lost.contains(&src)));
            }
            Event::AddressNew(n) => {
                self.host.addresses.push(fake::address(n, "192.0.2.77/24", 0));
                self.host.addresses.push(fake::address(n, "2001:db8:a::77/64", 0));
            }
            Event::DefaultLost(n) => {
                self.host.routes.retain(|r| r.dst.prefix_len() > 0 || !at(n)(r) || r.table != Table::MAIN);
            }
            Event::DefaultBetter(n) => {
                self.host.routes.push(fake::route("0.0.0.0/0", n, Some("198.51.100.1"), 1));
                self.host.routes.push(fake::route("::/0", n, Some("fe80::9"), 1));
            }
            Event::DefaultUseless(n) => {
                self.host.routes.push(fake::route("0.0.0.0/0", n, None, 0));
                self.host.routes.push(fake::route("::/0", n, None, 0));
            }
            Event::OneRule(n) => {
                let ours = self.host.rules.iter().enumerate().filter(|(_, r)| r.protocol == PROTOCOL);
                if let Some(index) = ours.map(|(index, _)| index).nth(n) {
                    self.host.rules.remove(index);
                    self.intact = false;
                }
            }
            Event::OurRules => {
                self.host.rules.retain(|r| r.protocol != PROTOCOL);
                self.intact = false;
            }
            Event::AllRules => {
                self.host.rules.retain(|r| r.priority == Priority(0));
                self.intact = false;
            }
            Event::OurRoutes => {
                self.host.routes.retain(|r| r.protocol != PROTOCOL);
                self.intact = false;
            }
            Event::Ipv6Only => {
                self.host.addresses.retain(|a| a.net.addr().is_ipv6() || a.index == IfIndex(1));
                let tun = self.tun();
                let ours = |r: &Route| r.protocol == PROTOCOL || tun.is_some() && r.oif == tun;
                self.host.routes.retain(|r| r.family() == Family::V6 || ours(r));
            }
            Event::WgQuick if self.host.link("wg0").is_none() => self.other(fake::wg_quick),
            Event::Tailscale if self.host.link("tailscale0").is_none() => {
                self.other(|h| fake::tailscale(h, true));
            }
            Event::OpenVpn if self.host.link("tun9").is_none() => self.openvpn(),
            Event::WgQuick | Event::Tailscale | Event::OpenVpn => {}
            Event::OthersStop => {
                let theirs = |i: Option<IfIndex>| matches!(i, Some(IfIndex(5 | 6 | 9)));
                self.host.links.retain(|l| !theirs(Some(l.index)));
                self.host.addresses.retain(|a| !theirs(Some(a.index)));
                self.host.routes.retain(|r| !theirs(r.oif));
                let fixed = [0, 32_766, 32_767];
                self.host.rules.retain(|r| r.protocol == PROTOCOL || fixed.contains(&r.priority.0));
            }
            Event::Stop => self.stop(),
            Event::Restart => self.restart(),
        }
    }

    /// Another VPN starts. wg-quick names no priorities: the kernel puts its rules before all others but `local`
    /// (`fib_default_rule_pref`), and so before ours. Tailscale's are before ours anyway.
    fn other(&mut self, start: impl Fn(&mut Snapshot)) {
        let least = self.host.rules.iter().map(|r| r.priority.0).filter(|p| *p > 0).min().unwrap_or(32_766);
        let before = self.host.rules.clone();
        start(&mut self.host);
        for rule in self.host.rules.iter_mut().filter(|r| !before.contains(r)) {
            if rule.priority.0 > 32_000 {
                rule.priority = Priority(least.saturating_sub(32_766 - rule.priority.0));
            }
        }
        self.host.rules.sort_by_key(|r| (r.family, r.priority));
        self.intact &= self.plan.is_none();
    }

    /// OpenVPN asks for the way to its server and makes a route of the answer, then one of each half.
    fn openvpn(&mut self) {
        let server: IpNet = format!("{SERVER}/32").parse().unwrap();
        let asked = Packet::of(&RouteQuery::to(server.addr()), 0);
        let answer = decide(&self.host, &asked).remove(0).answer;
        let mut device = fake::link(9, "tun9", Some("tun"));
        device.point_to_point = true;
        self.host.links.push(device);
        if let Some(oif) = answer.oif {
            let by = Route { gateway: answer.gateway, protocol: 3, ..Route::unicast(server, oif) };
            self.host.routes.push(by);
        }
        for half in ["0.0.0.0/1", "128.0.0.0/1"] {
            self.host.routes.push(Route { protocol: 3, ..fake::route(half, 9, Some("10.8.0.1"), 0) });
        }
        self.intact &= self.plan.is_none();
    }

    fn link(&mut self, n: u32, up: bool) {
        for link in self.host.links.iter_mut().filter(|l| l.index == IfIndex(n)) {
            (link.up, link.carrier) = (up, up);
        }
    }

    fn addresses(&self, n: u32) -> Vec<IpAddr> {
        self.host.addresses.iter().filter(|a| a.index == IfIndex(n)).map(|a| a.net.addr()).collect()
    }

    /// The packet of one of our own sockets, made as `egress` makes them; `None` when it makes none.
    fn own(&self, plan: &Plan, tun: IfIndex, dst: IpAddr) -> Option<Packet> {
        let inside = |net: &IpNet| net.contains(&dst);
        let refused =
            plan.tun_addresses.iter().any(inside) || foreign_ways(&self.host, tun).iter().any(inside);
        // Without a device there is no socket to a link-local address, and none is made.
        let link_local = matches!(dst, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let broadcast = dst == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
        if refused || link_local || broadcast || dst.is_multicast() || dst.is_unspecified() {
            return None;
        }
        let query = RouteQuery::to(dst);
        match plan.protect {
            Protect::Mark | Protect::MarkTerminal | Protect::MarkIfgroup => {
                Some(Packet::of_socket(&query.marked(plan.mark?), 0))
            }
            Protect::SourceRule if dst.is_loopback() => Some(Packet::of_socket(&query, 0)),
            Protect::SourceRule => {
                let sources = plan.sources?;
                let src = sources.get(Family::of(dst))?;
                // A socket cannot be bound to an address that the host has not.
                let here = self.host.addresses.iter().any(|a| a.net.addr() == src);
                here.then(|| Packet::of_socket(&query.from(src, sources.ports.0), 0))
            }
            Protect::HostRoute => plan.servers.contains(&dst).then(|| Packet::of_socket(&query, 0)),
            // Before a socket is made the kernel is asked whether it takes the host route.
            Protect::HostRouteHalves if plan.servers.contains(&dst) => {
                let packet = Packet::of_socket(&query, 0);
                let answer = decide(&self.host, &packet).remove(0).answer;
                (answer.table == Some(plan.table) && answer.oif != Some(tun)).then_some(packet)
            }
            Protect::HostRouteHalves | Protect::Netns => None,
            Protect::Bind => {
                let here = decide(&self.host, &Packet::of(&query, 0)).remove(0).answer;
                if dst.is_loopback() || here.kind == RouteKind::Local {
                    return Some(Packet::of_socket(&query, 0));
                }
                let uplink = plan.uplinks.v4.as_ref().or(plan.uplinks.v6.as_ref())?.index;
                let packet = Packet::of_socket(&query.bound(uplink), 0);
                let answer = decide(&self.host, &packet).remove(0).answer;
                let routed = answer.kind == RouteKind::Unicast && answer.oif == Some(uplink);
                (routed && answer.table.is_some()).then_some(packet)
            }
        }
    }

    /// How many packets were looked at, or the one that comes back.
    fn check(&self) -> Result<usize, String> {
        let (Some(plan), Some(tun)) = (&self.plan, self.tun()) else { return Ok(0) };
        let mut looked = 0;
        for family in Family::ALL {
            for dst in classes(&self.host, family, &plan.tun_addresses) {
                let Some(packet) = self.own(plan, tun, dst) else { continue };
                for outcome in decide_socket(&self.host, &packet) {
                    looked += 1;
                    if outcome.answer.oif == Some(tun) && outcome.answer.kind != RouteKind::Local {
                        let rule = outcome.rule.map(|n| &self.host.rules[n]);
                        return Err(format!("{packet:?} goes into the TUN by {rule:?}"));
                    }
                }
            }
        }
        for dst in plan.samples.iter().filter(|_| self.intact) {
            let program = Packet { uid: 1000, ..Packet::of(&RouteQuery::to(*dst), 0) };
            let way = decide(&self.host, &program).remove(0).answer;
            if way.oif != Some(tun) {
                return Err(format!("{dst} is not captured but goes by {:?}", way.oif_name));
            }
        }
        Ok(looked)
    }
}

fn requests() -> Vec<Request> {
    let base = Request { exclude: vec!["10.0.0.0/8".parse().unwrap()], ..Request::default() };
    vec![
        base.clone(),
        Request { protect: Protect::Bind, ..base.clone() },
        Request { protect: Protect::MarkIfgroup, ..base.clone() },
        Request { protect: Protect::SourceRule, root: true, ..base.clone() },
        Request { protect: Protect::SourceRule, forwarded: true, exclude_uids: vec![1234], ..base.clone() },
        Request {
            protect: Protect::HostRoute,
            servers: ["203.0.113.1", "198.51.100.9", "2001:db8:ffff::1"].map(|s| s.parse().unwrap()).into(),
            ..base.clone()
        },
        Request {
            protect: Protect::HostRouteHalves,
            servers: ["203.0.113.1", "198.51.100.9", "2001:db8:ffff::1"].map(|s| s.parse().unwrap()).into(),
            exclude_uids: vec![1234],
            ..base.clone()
        },
        Request { protect: Protect::MarkTerminal, ..base.clone() },
        Request { forwarded: true, exclude_uids: vec![1234], mark: Some(Mark(0x2000_0000)), ..base.clone() },
        Request { protect: Protect::Bind, interface: Some("eth1".into()), ..base.clone() },
        Request {
            include: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:ffff::/48".parse().unwrap()],
            ..base
        },
    ]
}

fn hosts() -> Vec<(&'static str, Snapshot)> {
    let two = || {
        let mut host = fake::host();
        fake::second_uplink(&mut host);
        host
    };
    let with = |start: &dyn Fn(&mut Snapshot)| {
        let mut host = two();
        start(&mut host);
        host
    };
    vec![
        ("one uplink", fake::host()),
        ("two uplinks", two()),
        ("wg-quick", with(&fake::wg_quick)),
        ("Tailscale", with(&|h| fake::tailscale(h, false))),
        ("Tailscale's exit node", with(&|h| fake::tailscale(h, true))),
        (
            "a rule by source",
            with(&|h| {
                let rule = Rule::lookup(Family::V4, Priority(50), Table(100));
                h.rules.insert(1, Rule { src: Some("192.0.2.2/32".parse().unwrap()), ..rule });
                let route = fake::route("0.0.0.0/0", 2, Some("192.0.2.1"), 0);
                h.routes.push(Route { table: Table(100), ..route });
            }),
        ),
    ]
}

/// What happens, one after the other, and the packets looked at after the last of it.
fn after(name: &str, host: &Snapshot, request: &Request, events: &[Event]) -> usize {
    let mut world = World::new(host.clone(), request.clone());
    events.iter().for_each(|e| world.happen(*e));
    world.check().unwrap_or_else(|e| panic!("{name}, {:?}, {events:?}: {e}", request.protect))
}

#[test]
fn no_single_event_makes_a_loop() {
    let mut looked = 0;
    for (name, host) in hosts() {
        for request in requests() {
            looked += after(name, &host, &request, &[]);
            looked += EVENTS.iter().map(|e| after(name, &host, &request, &[*e])).sum::<usize>();
        }
    }
    assert!(looked > 20_000, "{looked}");
}

#[test]
fn no_two_events_make_a_loop() {
    let mut looked = 0;
    for (name, host) in hosts().into_iter().skip(1).step_by(2) {
        for request in requests().iter().take(7) {
            for first in EVENTS {
                looked += EVENTS.iter().map(|e| after(name, &host, request, &[first, *e])).sum::<usize>();
            }
        }
    }
    assert!(looked > 100_000, "{looked}");
}

#[test]
fn no_random_sequence_of_events_makes_a_loop() {
    let hosts = hosts();
    let requests = requests();
    for seed in 0..150_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |n: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 33) as usize % n
        };
        let (name, host) = &hosts[next(hosts.len())];
        let request = &requests[next(requests.len())];
        let mut world = World::new(host.clone(), request.clone());
        let mut happened = Vec::new();
        for _ in 0..30 {
            let event = EVENTS[next(EVENTS.len())];
            happened.push(event);
            world.happen(event);
            if let Err(e) = world.check() {
                panic!("seed {seed}, {name}, {:?}, {happened:?}: {e}", request.protect);
            }
        }
    }
}

/// What is excluded by user or by control group is led into the TUN by no rule of ours, whatever happens.
#[test]
fn nothing_that_is_excluded_meets_the_capture() {
    let group = crate::Cgroup { path: "a".to_owned(), id: 4711, level: 1, ours: false };
    for (name, host) in hosts() {
        for protect in [Protect::Mark, Protect::Bind] {
            let request = Request {
                protect,
                exclude_uids: vec![1234],
                exclude_cgroups: vec![group.clone()],
                ..Request::default()
            };
            for event in EVENTS {
                let mut world = World::new(host.clone(), request.clone());
                world.happen(event);
                let (Some(plan), Some(tun)) = (&world.plan, world.tun()) else { continue };
                let mark = super::super::marked_by(plan, 0, &[1, 4711]);
                let own = |dst: &IpAddr| plan.tun_addresses.iter().any(|net| net.contains(dst));
                for family in Family::ALL {
                    let all = classes(&world.host, family, &plan.tun_addresses);
                    // Every device is on the link-local network, the TUN first or last.
                    let link = |dst: &IpAddr| matches!(dst, IpAddr::V6(v6) if v6.is_unicast_link_local());
                    for dst in all.into_iter().filter(|dst| !own(dst) && !link(dst) && !dst.is_multicast()) {
                        let plain = Packet::of(&RouteQuery::to(dst), 1000);
                        let foreign = foreign_ways(&world.host, tun).iter().any(|net| net.contains(&dst));
                        // Deleting the rule of a user ends his exclusion until it is put back; the mark's is in nftables.
                        let user = Packet { uid: 1234, ..plain };
                        let excluded = [Some(Packet { mark, ..plain }), world.intact.then_some(user)];
                        for packet in excluded.into_iter().flatten().filter(|_| !foreign) {
                            let way = decide(&world.host, &packet).remove(0).answer;
                            assert_ne!(way.oif, Some(tun), "{name}, {protect:?}, {event:?}: {packet:?}");
                        }
                    }
                }
            }
        }
    }
}

/// The one hole of the mark that a plan cannot close: a route of somebody else that names our device.
#[test]
fn openvpn_after_us_asks_for_the_way_and_gets_ours() {
    let mut host = fake::host();
    host.routes.retain(|r| r.family() == Family::V4);
    let mut world = World::new(host, Request::default());
    world.happen(Event::OpenVpn);
    let (tun, plan) = (world.tun().unwrap(), world.plan.clone().unwrap());
    assert_eq!(foreign_ways(&world.host, tun), [format!("{SERVER}/32").parse::<IpNet>().unwrap()]);
    let server = RouteQuery::to(SERVER.parse().unwrap());
    let marked = Packet::of_socket(&server.marked(plan.mark.unwrap()), 0);
    assert_eq!(decide(&world.host, &marked)[0].answer.oif, Some(tun), "a marked packet comes back");
    let bound = Packet::of_socket(&server.bound(plan.uplinks.v4.unwrap().index), 0);
    assert_eq!(decide(&world.host, &bound)[0].answer.oif_name, "eth0", "a bound one does not");
    assert_eq!(world.own(world.plan.as_ref().unwrap(), tun, server.dst), None, "so that it is not sent");
}

/// The other hole: a tunnel whose mark nobody knew when our rules were made. Its own packets are captured, and what
/// carries them on is carried by the tunnel again.
#[test]
fn wg_quick_is_exempt_when_it_is_there_before_us() {
    let outer = Packet { mark: 0xca6c, ..Packet::of(&RouteQuery::to("203.0.113.51".parse().unwrap()), 0) };
    for before in [true, false] {
        let mut host = fake::host();
        if before {
            fake::wg_quick(&mut host);
        }
        let mut world = World::new(host, Request::default());
        world.happen(Event::WgQuick);
        let way = decide(&world.host, &outer).remove(0).answer;
        assert_eq!(way.oif == world.tun(), !before, "{way:?}");
        assert_eq!(way.oif_name == "eth0", before, "{way:?}");
        world.happen(Event::Restart);
        assert_eq!(decide(&world.host, &outer).remove(0).answer.oif_name, "eth0", "after a new start");
    }
}
