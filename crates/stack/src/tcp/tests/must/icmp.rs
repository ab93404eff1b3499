//! RFC 9293 3.9.2.2 and 3.7.2: what ICMP messages do.

use super::super::super::*;
use super::*;

/// MUST-54: an ICMP error is given to the connection whose segment it quotes. Of those, a path's MTU is acted upon, and
/// only where the quote is of something outstanding (RFC 5927 4).
#[test]
fn must_54_a_path_mtu_is_acted_upon() {
    let mut bench = Bench::open_with(config(), SynOptions { mss: Some(1460), ..plain() }, false);
    assert_eq!(bench.write(4000)[0].data.len(), 1460);
    for seq in [ISS, ISS + 4001, ISS + 100_000] {
        assert_eq!(bench.conn.path_mtu(600, seq), None);
        assert!(bench.flush().is_empty(), "what quotes nothing outstanding is not believed");
    }
    assert_eq!(bench.conn.path_mtu(600, ISS + 1), Some(600));
    let out = bench.flush();
    assert_eq!(out.iter().map(|segment| segment.data.len()).sum::<usize>(), 4000, "all goes out again");
    assert!(out.iter().all(|segment| segment.wire.len() <= 600));
    // It never grows again by a message, and never falls below what every link carries.
    assert_eq!(bench.conn.path_mtu(1500, ISS + 1), None);
    assert!(bench.flush().is_empty());
    assert_eq!(bench.conn.path_mtu(0, ISS + 1), Some(552));
    assert_eq!(bench.flush()[0].wire.len(), 552);
}

/// MUST-55 and MUST-56: source quench and soft errors end no connection: nothing but [`Connection::path_mtu`] takes in
/// an ICMP message, and whatever it is told, the connection lives.
#[test]
fn must_55_and_56_no_message_ends_a_connection() {
    let mut bench = Bench::open();
    bench.write(4000);
    for mtu in [0, 1, 551, 552, 1280, u16::MAX] {
        bench.conn.path_mtu(mtu, ISS + 1);
        bench.flush();
        assert_eq!((bench.conn.state(), bench.conn.broken()), (State::Established, None));
    }
    bench.acks(4000);
    assert!(bench.conn.all_acknowledged());
}
