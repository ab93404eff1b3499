//! What the recorder says about the wire.

use std::net::IpAddr;
use std::time::Duration;

use oneway_lab::Topology;
use oneway_lab::capture::{Direction, Packet, Recorder, flag, protocol};
use oneway_lab::client::{Outcome, Ping};
use oneway_lab::harness::TestResult;
use oneway_lab::pattern;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;

const SECOND: Duration = Duration::from_secs(1);

pub fn sees_both_directions_and_nothing_else() -> TestResult {
    let lab = Topology::standard()?;
    let up1 = Recorder::start(&lab.host, Some("up1"))?;
    let all = Recorder::start(&lab.host, None)?;
    let lan = Recorder::start(&lab.r1, Some("lan"))?;
    for to in address::ORIGIN.ports(port::ECHO) {
        lab.host.client().udp(to, b"four", SECOND)?;
    }
    for recorder in [&up1, &all, &lan] {
        let udp = recorder.matching(Packet::is_udp)?;
        assert_eq!(udp.len(), 4, "{udp:#?}");
        assert!(udp.iter().all(|p| p.payload == b"four" && p.payload_length == 4));
        assert_eq!(recorder.count(Packet::is_traffic)?, 4);
    }
    let out = up1.matching(|p| p.is_udp() && p.direction == Direction::Out)?;
    assert_eq!(out.iter().map(|p| p.src).collect::<Vec<_>>(), address::HOST_UP1.both());
    assert_eq!(out.iter().map(|p| p.length).collect::<Vec<_>>(), [32, 52]);
    assert_eq!(lan.count(|p| p.is_udp() && p.direction == Direction::In)?, 2);
    // Loopback is another matter.
    let lo = Recorder::start(&lab.host, Some("lo"))?;
    assert_eq!(lab.host.client().udp("127.0.0.1:9".parse()?, b"x", SECOND)?.outcome, Outcome::Refused);
    assert_eq!(lo.count(Packet::is_udp)?, 2, "once out and once in");
    assert_eq!(all.count(|p| p.involves(IpAddr::from([127, 0, 0, 1])))?, 0);
    all.forget()?;
    // The kernel speaks of itself whenever it likes: neighbours, routers, groups.
    assert_eq!(all.count(Packet::is_traffic)?, 0);
    let missing = Recorder::start(&lab.host, Some("nothing"));
    assert!(missing.is_err());
    Ok(())
}

pub fn counts_like_the_kernel() -> TestResult {
    let lab = Topology::simple()?;
    let wire = Recorder::start(&lab.host, Some("up1"))?;
    let before = lab.host.link_counters("up1")?;
    wire.forget()?;
    let host = lab.host.client();
    let load = host.tcp_load(address::ORIGIN.v4_port(port::ECHO), 300, 20, 100)?;
    assert_eq!(load.completed, 300);
    let load = host.udp_load(address::ORIGIN.v6_port(port::ECHO), 500, 20, 4, SECOND)?;
    assert_eq!(load.completed, 500);
    wire.settle(Duration::from_millis(100), SECOND * 5, |_| true)?;
    let after = lab.host.link_counters("up1")?;
    let way = |direction| wire.count(move |p| p.direction == direction);
    // ARP and neighbour discovery are few, and the recorder knows IP only.
    let close = |counted: u64, seen: usize| counted >= seen as u64 && counted - seen as u64 <= 8;
    assert!(close(after.tx_packets - before.tx_packets, way(Direction::Out)?), "{before:?} {after:?}");
    assert!(close(after.rx_packets - before.rx_packets, way(Direction::In)?), "{before:?} {after:?}");
    assert_eq!(wire.count(Packet::is_syn)?, 300);
    assert_eq!(wire.count(|p| p.is_tcp(flag::SYN) && p.flags & flag::ACK != 0)?, 300);
    assert_eq!(wire.count(Packet::is_udp)?, 1000);
    Ok(())
}

pub fn sees_icmp_and_fragments() -> TestResult {
    let lab = Topology::standard()?;
    let wire = Recorder::start(&lab.host, Some("up1"))?;
    let host = lab.host.client();
    for to in address::HOST_UNREACHABLE.both() {
        assert!(matches!(host.ping(to, SECOND)?, Ping::Error { .. }));
        let error = wire
            .wait_for(SECOND, "the router's error came", |p| p.is_icmp() && p.direction == Direction::In)?;
        assert_eq!(error.icmp, Some(if to.is_ipv4() { (3, 1) } else { (1, 3) }));
        assert_eq!(
            error.dst,
            if to.is_ipv4() { IpAddr::from(address::HOST_UP1.v4) } else { address::HOST_UP1.v6.into() }
        );
        wire.forget()?;
    }
    for to in address::ORIGIN.ports(port::ECHO) {
        let data = pattern::bytes(4000);
        assert_eq!(host.udp(to, &data, SECOND)?.data, data);
        let sent = wire.matching(|p| p.fragment && p.direction == Direction::Out)?;
        assert_eq!(sent.len(), 3, "{sent:#?}");
        assert!(sent.iter().all(|p| p.protocol == protocol::UDP));
        assert_eq!(sent[0].ports.1, port::ECHO);
        assert_eq!(sent[0].payload, data[..oneway_lab::capture::KEPT]);
        wire.forget()?;
    }
    let nothing = wire.wait_for(Duration::from_millis(20), "nothing", Packet::is_traffic);
    assert!(nothing.expect_err("nothing came").to_string().contains("in vain until nothing"));
    Ok(())
}
