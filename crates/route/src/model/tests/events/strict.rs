//! With `--strict` nothing that should be captured escapes, whatever happens to the host, and to us.

use super::{EVENTS, Event, World, hosts};
use crate::change::Change;
use crate::id::{Family, IfIndex};
use crate::model::{Packet, classes, decide_socket};
use crate::nft::{Leaving, RefuseTable};
use crate::plan::{Plan, Protect, Request, choose};
use crate::query::{RouteKind, RouteQuery};

fn requests() -> Vec<Request> {
    let base = Request { strict: true, exclude: vec!["10.0.0.0/8".parse().unwrap()], ..Request::default() };
    vec![
        base.clone(),
        Request { ipv6: false, ..base.clone() },
        Request { protect: Protect::MarkIfgroup, forwarded: true, ..base.clone() },
        Request { protect: Protect::Netns, ..base.clone() },
        Request {
            include: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:ffff::/48".parse().unwrap()],
            ipv6: false,
            ..base
        },
    ]
}

fn table(plan: &Plan) -> &RefuseTable {
    plan.refusals().expect("a table that refuses")
}

impl World {
    /// The process is killed: the device goes, and with it what the kernel removes by itself.
    fn killed(&mut self) {
        let Some(tun) = self.tun() else { return };
        self.host.links.retain(|l| l.index != tun);
        self.host.addresses.retain(|a| a.index != tun);
        self.host.routes.retain(|r| r.oif != Some(tun));
    }

    /// How many packets of programs were looked at, or the first that escapes. Just after something has happened, what
    /// was not captured before may still go as it did: until the plan is looked at again.
    fn escapes(&self, just_happened: bool) -> Result<usize, String> {
        let Some(plan) = &self.plan else { return Ok(0) };
        let table = table(plan);
        let mut looked = 0;
        for family in Family::ALL {
            for dst in classes(&self.host, family, &plan.tun_addresses) {
                let within = |nets: &[ipnet::IpNet]| nets.iter().any(|net| net.contains(&dst));
                if !within(&table.captured)
                    || within(&table.excluded)
                    || within(&crate::plan::never_captured())
                {
                    continue;
                }
                let plain = Packet { uid: 1000, ..Packet::of(&RouteQuery::to(dst), 0) };
                let bound = self.host.links.iter().filter(|l| !l.loopback);
                let bound = bound.map(|l| Packet { oif: Some(l.index), ..plain });
                let own = self.host.addresses.iter().filter(|a| Family::of_net(a.net) == family);
                let from = own.map(|a| Packet { src: Some(a.net.addr()), ..plain });
                for packet in [plain].into_iter().chain(bound).chain(from) {
                    for dport in [(6, 443), (17, 53)] {
                        looked += 1;
                        self.stays(plan, table, &Packet { dport: Some(dport), ..packet }, just_happened)?;
                    }
                }
            }
        }
        Ok(looked)
    }

    fn stays(
        &self,
        plan: &Plan,
        table: &RefuseTable,
        packet: &Packet,
        just_happened: bool,
    ) -> Result<(), String> {
        let (dst, dns) = (packet.dst, packet.dport.is_some_and(|(_, port)| port == 53));
        for outcome in decide_socket(&self.host, packet) {
            let answer = &outcome.answer;
            let Some(oif) = answer.oif.filter(|_| answer.kind != RouteKind::Local) else { continue };
            let device = &answer.oif_name;
            if Some(oif) == self.tun() || oif == IfIndex(1) {
                continue;
            }
            let leaving = Leaving { device, dst, mark: packet.mark, user: packet.uid, dns };
            if table.refuses(&leaving) {
                continue;
            }
            let family = Family::of(dst);
            let direct = self.host.routes.iter().any(|r| {
                r.table != plan.table
                    && r.dst.contains(&dst)
                    && u32::from(r.dst.prefix_len()) > choose::default_length(&self.host, family, r.table)
            });
            let before = just_happened && table.direct.iter().any(|net| net.contains(&dst));
            if dns || !direct && !before {
                return Err(format!("{packet:?} leaves by {device}: {outcome:?}"));
            }
        }
        Ok(())
    }
}

/// Tries a host, a request and what happens one after the other; then the end of our process, and a new start.
fn after(events: &[Event]) -> usize {
    let mut looked = 0;
    for (name, host) in hosts().into_iter().skip(1).step_by(2) {
        for (n, request) in requests().into_iter().enumerate() {
            let mut world = World::new(host.clone(), request);
            let mut what = String::from("the start");
            let mut check = |world: &World, what: &str, just: bool| match world.escapes(just) {
                Ok(count) => looked += count,
                Err(e) => panic!("{name}, request {n}, {events:?}, after {what}: {e}"),
            };
            check(&world, &what, false);
            for event in events {
                world.happen(*event);
                what = format!("{event:?}");
                check(&world, &what, true);
            }
            let mut dead = world.clone();
            dead.killed();
            check(&dead, "the end of our process", true);
            world.restart();
            check(&world, "a new start", false);
        }
    }
    looked
}

#[test]
fn nothing_escapes_after_one_event() {
    let looked: usize = EVENTS.iter().map(|event| after(&[*event])).sum();
    assert!(looked > 100_000, "{looked}");
}

#[test]
fn nothing_escapes_after_many() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        EVENTS[(seed >> 33) as usize % EVENTS.len()]
    };
    for _ in 0..8 {
        let events: Vec<_> = (0..8).map(|_| next()).collect();
        assert!(after(&events) > 1000);
    }
}

/// The property is no empty one: without the table, or without the routes that refuse, something escapes.
#[test]
fn each_part_is_needed() {
    let (_, host) = hosts().remove(0);
    let mut world = World::new(host.clone(), requests().remove(0));
    let plan = world.plan.as_mut().unwrap();
    for step in &mut plan.steps {
        if let Change::Refuse(table) = &mut step.change {
            // As if it refused nothing.
            table.users.push(1000);
        }
    }
    assert!(world.escapes(false).unwrap_err().contains("oif: Some"), "a bound socket");
    world.host.routes.retain(|r| r.kind != RouteKind::Unreachable);
    world.killed();
    assert!(world.escapes(false).is_err(), "killed");
}
