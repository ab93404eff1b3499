//! Whole transfers, in many seeds.

use std::time::Duration;

use super::super::*;
use super::link::{Faults, Random, World};
use super::seeds;

fn configs(random: &mut Random) -> [Config; 2] {
    [(); 2].map(|()| {
        let mtus = [576, 1280, 1500, 9000, u16::MAX];
        Config {
            mtu: mtus[random.below(5) as usize].max(1280),
            superpackets: random.percent(70),
            receive_limit: 4096 + random.below(400_000) as u32,
            send_limit: 65_536 + random.below(1_000_000) as u32,
            // Longer than the peer's FIN may take over such a link.
            time_wait: Duration::from_secs(600),
            give_up: Duration::from_secs(3 * 3600),
            ..Config::default()
        }
    })
}

/// Runs a world to its end and returns the time it took.
fn run(world: &mut World, seed: u64) -> Duration {
    let begin = world.now;
    world.drive(0);
    world.drive(1);
    let mut steps = 0_u64;
    while !(world.ends[0].is_done() && world.ends[1].is_done()) {
        assert!(world.step(), "seed {seed}: nothing happens any more");
        for n in 0..2 {
            // An application that is slow, and still gets all in the end.
            if world.ends[n].is_done() && world.ends[n].conn.received() > 0 {
                world.drive(n);
            }
        }
        steps += 1;
        assert!(steps < 2_000_000, "seed {seed}: {steps} steps and no end");
        assert!(
            world.now.since(begin) < Duration::from_secs(4 * 3600),
            "seed {seed}: four hours and no end: {:?}",
            world.ends.each_ref().map(|end| (
                end.conn.state(),
                end.sent,
                end.to_send,
                end.got,
                end.conn.timer
            ))
        );
    }
    for n in 0..2 {
        while world.ends[n].conn.received() > 0 {
            world.drive(n);
        }
        let end = &world.ends[n];
        let other = world.ends[1 - n].conn.broken();
        assert_eq!(end.conn.broken(), None, "seed {seed}: end {n}, the other {other:?}");
        assert_eq!(end.got, world.ends[1 - n].to_send, "seed {seed}: end {n} got all");
        assert_eq!(end.conn.held(), 0, "seed {seed}: end {n} holds nothing");
    }
    world.now.since(begin)
}

#[test]
fn every_byte_arrives_over_a_faulty_link() {
    for seed in 0..seeds(3000) {
        let mut random = Random(seed);
        let faults = Faults {
            lose: random.below(31) as u32,
            repeat: random.below(10) as u32,
            delay: random.below(30) as u32,
            corrupt: random.below(5) as u32,
            latency: random.below(50_000),
        };
        let to_send = [random.below(300_000), random.below(300_000)];
        let configs = configs(&mut random);
        let mut world = World::new(seed, seed % 2 == 0, configs, faults, to_send);
        run(&mut world, seed);
    }
}

#[test]
fn a_good_link_is_filled() {
    for latency in [50, 5_000] {
        let faults = Faults { latency, ..Faults::default() };
        let mut world = World::new(1, false, [Config::default(), Config::default()], faults, [20_000_000, 0]);
        world.ends[1].appetite = u64::from(u32::MAX);
        let took = run(&mut world, 1);
        // Some round trips for the handshake, slow start and the end; one window of 512 KiB each in between.
        let trips = took.as_micros() as u64 / (2 * latency);
        assert!(trips < 20_000_000 / (512 * 1024) + 24, "{trips} round trips of {latency} us each way");
    }
}
