use std::time::Duration;

use oneway_wire::tcp::{Flags, TcpView};

use super::super::Direction;
use super::*;

fn config() -> NatConfig {
    NatConfig {
        first_peer_v4: Ipv4Addr::new(192, 0, 2, 2),
        first_peer_v6: "2001:db8::2".parse().unwrap(),
        peers: 2,
        max_connections: 10_000,
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const LOCAL: &str = "192.0.2.1:4000";

#[test]
fn a_connection_is_found_by_both_names_and_keeps_the_clients_port() {
    let nat = Nat::new(config());
    let conn = nat.open(addr("198.51.100.7:50000"), addr("203.0.113.9:443"), addr(LOCAL), 7).unwrap();
    assert_eq!(conn.peer, addr("192.0.2.2:50000"));
    assert_eq!(nat.by_client(conn.client, conn.target).unwrap().data, 7);
    assert_eq!(nat.by_local(conn.peer, conn.local).unwrap().data, 7);
    assert!(nat.by_client(conn.target, conn.client).is_none());
    assert_eq!(nat.open(conn.client, conn.target, addr(LOCAL), 8).unwrap_err(), OpenError::Exists);
}

#[test]
fn the_same_port_to_another_target_gets_another_peer_then_another_port() {
    let nat = Nat::new(config());
    let client = addr("198.51.100.7:50000");
    let mut peers = Vec::new();
    for n in 1..=5 {
        peers.push(
            nat.open(client, SocketAddr::new([203, 0, 113, n].into(), 443), addr(LOCAL), ()).unwrap().peer,
        );
    }
    assert_eq!(&peers[..2], &[addr("192.0.2.2:50000"), addr("192.0.2.3:50000")]);
    peers.sort();
    peers.dedup();
    assert_eq!(peers.len(), 5, "no name twice");
    assert!(peers.iter().all(|p| p.port() >= FIRST_PORT));
}

#[test]
fn ipv6_clients_get_ipv6_peers() {
    let nat = Nat::new(config());
    let local = addr("[2001:db8::1]:4000");
    let conn = nat.open(addr("[2001:db8:1::7]:600"), addr("[2001:db8:2::9]:443"), local, ()).unwrap();
    assert!(conn.peer.is_ipv6());
    assert!(conn.peer.port() >= FIRST_PORT, "a port below {FIRST_PORT} is not taken over");
}

#[test]
fn a_live_name_is_never_given_away_and_exhaustion_refuses() {
    let nat = Nat::new(NatConfig { peers: 1, max_connections: 100_000, ..config() });
    let mut names = std::collections::HashSet::new();
    let mut refused = None;
    for n in 0..70_000u32 {
        let target = SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 443);
        match nat.open(addr("198.51.100.7:50000"), target, addr(LOCAL), ()) {
            Ok(conn) => assert!(names.insert(conn.peer), "{} given twice", conn.peer),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert_eq!(refused, Some(OpenError::NoPort));
    assert!(names.len() > 30_000, "refused after {} only", names.len());
    assert_eq!(nat.len(), names.len(), "the refused one left nothing");
}

#[test]
fn the_limit_refuses_new_ones_and_old_ones_live() {
    let nat = Nat::new(NatConfig { max_connections: 2, ..config() });
    let target = addr("203.0.113.9:443");
    let first = nat.open(addr("198.51.100.7:50001"), target, addr(LOCAL), ()).unwrap();
    nat.open(addr("198.51.100.7:50002"), target, addr(LOCAL), ()).unwrap();
    assert_eq!(
        nat.open(addr("198.51.100.7:50003"), target, addr(LOCAL), ()).unwrap_err(),
        OpenError::TooMany
    );
    nat.forget(&first);
    assert!(nat.open(addr("198.51.100.7:50003"), target, addr(LOCAL), ()).is_ok());
}

#[test]
fn a_closed_name_lingers_and_a_new_syn_gets_another() {
    let nat = Nat::new(config());
    let (client, target) = (addr("198.51.100.7:50000"), addr("203.0.113.9:443"));
    let now = Instant::now();
    let old = nat.open(client, target, addr(LOCAL), 1).unwrap();
    assert!(old.set_open());
    nat.close(now, &old);
    let new = nat.open(client, target, addr(LOCAL), 2).unwrap();
    assert_ne!(new.peer, old.peer, "the kernel may hold the old name in TIME-WAIT");
    assert_eq!(nat.by_local(old.peer, old.local).unwrap().data, 1);
    assert_eq!(nat.by_client(client, target).unwrap().data, 2);
    nat.expire(now + Duration::from_secs(59));
    assert_eq!(nat.len(), 2);
    nat.expire(now + Duration::from_secs(59 + 61));
    assert_eq!(nat.len(), 1);
    assert!(nat.by_local(old.peer, old.local).is_none());
    assert_eq!(nat.by_client(client, target).unwrap().data, 2, "the new one keeps the client's name");
}

/// A segment of sequence number 0 passes.
fn passes<T>(conn: &Conn<T>, direction: Direction, flags: Flags, ack: u8) {
    let mut segment = [0; 20];
    (segment[11], segment[12], segment[13]) = (ack, 5 << 4, flags.0);
    conn.observe(direction, &TcpView::parse(&segment).unwrap(), 0);
}

/// An open connection that both ends have used.
fn used(nat: &Nat<()>) -> Arc<Conn<()>> {
    let conn = nat.open(addr("198.51.100.7:50000"), addr("203.0.113.9:443"), addr(LOCAL), ()).unwrap();
    assert!(conn.set_open());
    passes(&conn, Direction::FromClient, Flags::ACK, 0);
    passes(&conn, Direction::FromLocal, Flags::ACK, 0);
    conn
}

/// Seconds until the table forgets a connection that is closed now, where `speak` is told of each second.
fn forgotten_after(nat: &Nat<()>, conn: &Arc<Conn<()>>, mut speak: impl FnMut(u64)) -> u64 {
    let begin = Instant::now();
    nat.close(begin, conn);
    for second in 0.. {
        nat.expire(begin + Duration::from_secs(second));
        if nat.by_client(conn.client, conn.target).is_none() {
            assert!(nat.by_local(conn.peer, conn.local).is_none());
            assert_eq!((nat.len(), nat.closing()), (0, 0));
            return second;
        }
        speak(second);
    }
    unreachable!()
}

#[test]
fn a_name_is_kept_for_as_long_as_the_kernel_delivers() {
    let nat = Nat::new(config());
    let conn = used(&nat);
    passes(&conn, Direction::FromClient, Flags::ACK | Flags::FIN, 0);
    // Segments are up to `TCP_RTO_MAX` apart; the last is in second 3600.
    let after = forgotten_after(&nat, &conn, |second| {
        if second % 120 == 0 && second <= 3600 {
            passes(&conn, Direction::FromLocal, Flags::ACK, 0);
        }
    });
    assert!((3600 + 120..=3600 + 180).contains(&after), "after {after} s");
}

#[test]
fn a_name_is_kept_for_a_kernel_that_says_something_once_a_minute() {
    let nat = Nat::new(config());
    let conn = used(&nat);
    passes(&conn, Direction::FromLocal, Flags::ACK | Flags::FIN, 0);
    passes(&conn, Direction::FromClient, Flags::ACK, 1);
    // The client's FIN again and again, which TIME-WAIT acknowledges.
    let after = forgotten_after(&nat, &conn, |second| {
        if second % 60 == 0 && second <= 600 {
            passes(&conn, Direction::FromLocal, Flags::ACK, 0);
        }
    });
    assert!((660..=720).contains(&after), "after {after} s");
}

#[test]
fn a_name_of_which_only_the_client_speaks_is_free_in_time() {
    let nat = Nat::new(config());
    for acknowledged in [false, true] {
        let conn = used(&nat);
        passes(&conn, Direction::FromLocal, Flags::ACK | Flags::FIN, 0);
        passes(&conn, Direction::FromClient, Flags::ACK, acknowledged.into());
        let speak = |_| passes(&conn, Direction::FromClient, Flags::ACK, acknowledged.into());
        let after = forgotten_after(&nat, &conn, speak);
        assert_eq!(after, if acknowledged { 62 } else { 122 });
    }
}

#[test]
fn a_reset_ends_the_wait_for_the_kernel() {
    let nat = Nat::new(config());
    let conn = used(&nat);
    let after = forgotten_after(&nat, &conn, |second| match second {
        ..300 => passes(&conn, Direction::FromLocal, Flags::ACK, 0),
        _ => passes(&conn, Direction::FromLocal, Flags::RST, 0),
    });
    assert_eq!(after, 302);
}

#[test]
fn an_idle_open_connection_never_expires() {
    let nat = Nat::new(config());
    let conn = nat.open(addr("198.51.100.7:50000"), addr("203.0.113.9:22"), addr(LOCAL), ()).unwrap();
    assert!(conn.set_open());
    nat.expire(Instant::now() + Duration::from_secs(30 * 86_400));
    assert_eq!(nat.len(), 1);
}

#[test]
fn giving_up_a_dial_wins_over_its_success_only_once() {
    let nat = Nat::new(config());
    let conn = nat.open(addr("198.51.100.7:50000"), addr("203.0.113.9:22"), addr(LOCAL), ()).unwrap();
    assert!(conn.abandon());
    assert!(!conn.set_open());
    assert!(!conn.abandon());
    assert_eq!(conn.state(), State::Closed);
}
