//! Hosts with much of everything.
#![allow(clippy::disallowed_methods, reason = "what other programs make and see")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use oneway_route::{Request, Snapshot, no_hook, plan};

use crate::host::{HOST4, HOST6, Net, capture, planned};
use crate::namespace::other_user;

crate::trials!(
    a_table_for_many_ports_is_made_at_once,
    everybody_who_is_connected_stays_connected,
    every_route_of_a_router_is_read,
);

/// Each port that is served is a rule of its own, and the whole table one message to the kernel.
fn a_table_for_many_ports_is_made_at_once() {
    // In a user namespace a socket takes no more at once than `net.core.wmem_max`.
    let ports = if other_user().is_some() { 3_000 } else { 300 };
    let net = Net::new();
    net.host.run(|| {
        let before = Snapshot::take().unwrap();
        let host = Snapshot { serving: (1_000..1_000 + ports).collect(), ..before.clone() };
        let plan = plan(&Request { track: true, ..Request::default() }, &host).unwrap();
        let (tun, applied) = capture(&plan, net.journal());
        let printed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        let rules = String::from_utf8(printed.stdout).unwrap();
        assert_eq!(rules.matches("tcp sport").count(), usize::from(ports), "{rules}");
        applied.undo(&mut no_hook).unwrap();
        drop(tun);
        assert_eq!(before.diff(&Snapshot::take().unwrap()), Vec::<String>::new());
    });
}

/// More than go into one message.
fn everybody_who_is_connected_stays_connected() {
    const CONNECTIONS: usize = 700;
    for (host, wildcard) in [(HOST4, "0.0.0.0"), (HOST6, "::"), (HOST4, "::")] {
        let net = Net::new();
        let server = net.host.run(|| TcpListener::bind((wildcard, 4433)).unwrap());
        let mut pairs: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let client = net.world.run(|| TcpStream::connect((host, 4433)).unwrap());
                (server.accept().unwrap().0, client)
            })
            .collect();
        let (_tun, applied) = net.host.run(|| capture(&planned(&Request::default()), net.journal()));
        for (session, client) in &mut pairs {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            session.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        net.host.run(|| applied.undo(&mut no_hook).unwrap());
    }
}

fn every_route_of_a_router_is_read() {
    const ROUTES: u32 = 100_000;
    let net = Net::new();
    net.host.run(|| {
        let file = net.journal().with_extension("batch");
        let line = |n: u32| {
            let dst = std::net::Ipv4Addr::from_bits((11 << 24) + n * 256);
            format!("route add {dst}/24 dev eth0 proto bgp metric 20\n")
        };
        fs::write(&file, (0..ROUTES).map(line).collect::<String>()).unwrap();
        let added = Command::new("ip").arg("-batch").arg(&file).output().unwrap();
        assert!(added.status.success(), "{added:?}");
        let host = Snapshot::take().unwrap();
        let theirs = host.routes.iter().filter(|route| route.protocol == 186).count();
        assert_eq!(theirs, ROUTES as usize);
        // The kernel keeps no promise about a list that changes while it is read, but that it ends.
        plan(&Request::default(), &host).unwrap();
    });
}
