//! RFC 9293 3.6: closing; RFC 6191: SYNs in TIME-WAIT.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::super::super::*;
use super::*;

/// TIME-WAIT by closing first.
fn time_wait(timestamps: bool) -> Bench {
    let mut bench = Bench::open_with(config(), plain(), timestamps);
    assert!(bench.close()[0].has(Flags::FIN));
    bench.acks(1);
    assert_eq!(bench.conn.state(), State::FinWait2);
    let out = bench.fin();
    assert!(out.len() == 1 && out[0].is_pure_ack());
    assert_eq!(bench.conn.state(), State::TimeWait);
    bench
}

/// MUST-13: who closes first lingers in TIME-WAIT for 2 MSL, and anew when the peer's FIN comes again.
#[test]
fn must_13_time_wait_lasts_two_lifetimes() {
    let lifetimes = config().time_wait;
    let mut bench = time_wait(false);
    bench.wait(lifetimes - MS(1));
    assert_eq!(bench.conn.state(), State::TimeWait);
    let again = bench.seg().seq(bench.seq - 1).fin();
    let out = bench.say(again);
    assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].ack == bench.seq);
    bench.wait(lifetimes - MS(1));
    assert_eq!(bench.conn.state(), State::TimeWait);
    bench.wait(MS(1));
    assert_eq!(bench.conn.state(), State::Closed);
}

/// MUST-13: so do both, when both close at once (figure 13).
#[test]
fn must_13_simultaneous_close() {
    let mut bench = Bench::open();
    bench.close();
    let ack = bench.ack;
    let out = bench.fin();
    assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].ack == bench.seq);
    assert_eq!(bench.conn.state(), State::Closing);
    bench.ack = ack;
    bench.acks(1);
    assert_eq!(bench.conn.state(), State::TimeWait);
}

/// Closed before the handshake is over: the FIN waits for it.
#[test]
fn must_13_close_in_syn_received() {
    let mut bench = Bench::accept(config(), plain(), false, false);
    bench.conn.send(vec![1; 10]);
    let out = bench.close();
    assert!(out.len() == 1 && out[0].has(Flags::SYN | Flags::ACK));
    assert_eq!(bench.conn.state(), State::FinWait1);
    assert!(bench.say(bench.syn(Flags::SYN))[0].has(Flags::SYN | Flags::ACK));
    let out = bench.say(bench.seg());
    assert!(out.len() == 1 && out[0].has(Flags::FIN) && out[0].data.len() == 10);
    bench.acks(11);
    assert_eq!(bench.conn.state(), State::FinWait2);
}

fn syn(bench: &Bench, seq: Seq) -> Seg {
    bench.syn(Flags::SYN).seq(seq)
}

fn opens(bench: &mut Bench, syn: &Seg) -> bool {
    let opens = matches!(bench.give(syn), Arrival::NewConnection(_));
    let state = if opens { State::Closed } else { State::TimeWait };
    assert_eq!((bench.conn.state(), bench.conn.broken()), (state, None));
    opens
}

/// RFC6191-1: with timestamps in both, a later one opens a new connection whatever the sequence number, and an earlier
/// one does not.
#[test]
fn rfc6191_1_a_later_timestamp_opens_anew() {
    for (later, expected) in [(1, true), (-1, false)] {
        for distance in [1000, 1000_u32.wrapping_neg()] {
            let mut bench = time_wait(true);
            let seg = syn(&bench, bench.seq + distance);
            let seg = seg.value(clock(bench.now).wrapping_add_signed(later));
            assert_eq!(opens(&mut bench, &seg), expected);
        }
    }
}

/// RFC6191-2: with the same timestamp, and with none, the sequence number decides; with one where there was none before,
/// it is a new connection.
#[test]
fn rfc6191_2_else_the_sequence_number_decides() {
    for same in [true, false] {
        for (back, expected) in [(0, true), (1, false), (1000, false)] {
            let mut bench = time_wait(true);
            let timestamps = same.then(|| Timestamps { value: clock(bench.now), echo: 0 });
            let seg = Seg { timestamps, ..syn(&bench, bench.seq - back) };
            assert_eq!(opens(&mut bench, &seg), expected);
        }
    }
    let mut bench = time_wait(false);
    let old = syn(&bench, bench.seq - 1000);
    assert!(!opens(&mut bench, &old));
    assert!(opens(&mut bench, &Seg { timestamps: Some(Timestamps { value: 5, echo: 0 }), ..old }));
}

/// RFC 9293 MAY-2: the new connection's sequence numbers lie beyond all of the last one, whatever the generator says.
#[test]
fn rfc6191_3_the_new_connection_begins_beyond_the_old() {
    let mut bench = time_wait(false);
    let (_, last) = bench.conn.outstanding();
    let seg = syn(&bench, bench.seq + 9);
    let Arrival::NewConnection(syn) = bench.give(&seg) else { panic!("a new connection") };
    // Asked again meanwhile, as a client does that waits for the outbound.
    let syn = syn.again(Syn::from_segment(&seg.segment()).unwrap());
    for (iss, expected) in [(last + 5, last + 5), (last - 5, last + 65_537)] {
        let mut conn: Connection<Vec<u8>> =
            Connection::accept(&std::sync::Arc::new(config()), &syn, false, iss, 0, bench.now);
        let mut first = None;
        conn.transmit(bench.now, |segment| first = Some(segment.seq));
        assert_eq!(first, Some(expected));
    }
}

/// In TIME-WAIT nothing is left to be sent, and nothing wakes it but its end.
#[test]
fn must_13_time_wait_is_quiet() {
    let mut bench = time_wait(false);
    assert_eq!((bench.conn.held(), bench.conn.next_timeout()), (0, Some(bench.now + Duration::from_secs(4))));
    assert!(bench.wait(Duration::from_secs(3600)).is_empty());
    assert_eq!((bench.conn.state(), bench.conn.next_timeout()), (State::Closed, None));
}

/// Closed before anything came back: nothing is kept, and nothing more is sent (RFC 9293 3.10.4).
#[test]
fn must_12_close_in_syn_sent() {
    let mut bench = Bench::connect(config());
    bench.conn.send(vec![1; 1000]);
    assert!(bench.close().is_empty());
    assert_eq!((bench.conn.state(), bench.conn.broken()), (State::Closed, None));
    assert_eq!((bench.conn.held(), bench.conn.next_timeout()), (0, None));
    assert!(bench.say(bench.syn(Flags::SYN | Flags::ACK)).is_empty());
}
