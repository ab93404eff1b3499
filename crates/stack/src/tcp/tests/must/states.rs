//! RFC 9293 3.3.2 and 3.5: opening, and what the application learns.

use oneway_wire::tcp::Flags;

use super::super::super::*;
use super::*;

/// MUST-10: both ends may open at once (figure 7).
#[test]
fn must_10_simultaneous_open() {
    for timestamps in [false, true] {
        let mut bench = Bench::connect(config());
        if timestamps {
            bench.echo = Some(0);
        }
        let out = bench.say(bench.syn(Flags::SYN));
        assert_eq!(bench.conn.state(), State::SynReceived);
        assert_eq!((out.len(), out[0].flags), (1, Flags::SYN | Flags::ACK));
        assert_eq!((out[0].seq, out[0].ack), (ISS, IRS + 1));
        // Its SYN-ACK has the sequence number of its SYN. It is taken for what it says, and answered by an ACK, not by a
        // further SYN: that would go on for ever.
        let out = bench.say(bench.syn(Flags::SYN | Flags::ACK));
        assert_eq!(bench.conn.state(), State::Established);
        assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].seq == ISS + 1);
        assert_eq!(bench.conn.wnd, 60_000);
        bench.data(100);
        assert_eq!(bench.got.len(), 100);
    }
}

/// Data behind the SYN of such an open begin one byte after it.
#[test]
fn must_10_data_with_the_second_syn_are_in_their_place() {
    let mut bench = Bench::connect(config());
    bench.say(bench.syn(Flags::SYN));
    let seg = bench.syn(Flags::SYN | Flags::ACK).len(50);
    bench.say(seg);
    assert_eq!(bench.conn.state(), State::Established);
    let mut wanted: Vec<u8> = (0..50).collect();
    if bench.got.is_empty() {
        // Not taken, but not acknowledged either.
        assert_eq!(bench.conn.receive_next(), IRS + 1);
        wanted.clear();
    }
    assert_eq!(bench.got, wanted);
    assert_eq!(bench.conn.receive_next(), IRS + 1 + wanted.len() as u32);
}

/// MUST-11: SYN-RECEIVED remembers whether it came of a passive or an active OPEN: an active one is refused by a reset.
#[test]
fn must_11_syn_received_remembers_who_opened() {
    let mut active = Bench::connect(config());
    active.say(active.syn(Flags::SYN));
    active.say(active.seg().flags(Flags::RST));
    assert_eq!((active.conn.state(), active.conn.broken()), (State::Closed, Some(Broken::Refused)));
    let mut passive = Bench::accept(config(), plain(), false, false);
    passive.flush();
    passive.say(passive.seg().flags(Flags::RST));
    assert_eq!((passive.conn.state(), passive.conn.broken()), (State::Closed, Some(Broken::Reset)));
}

/// MUST-12: the application learns whether the connection was closed or aborted.
#[test]
fn must_12_the_application_learns_how_it_ended() {
    let mut bench = Bench::open();
    bench.fin();
    assert!(bench.conn.peer_closed());
    bench.close();
    bench.acks(1);
    assert_eq!((bench.conn.state(), bench.conn.broken()), (State::Closed, None));

    let mut bench = Bench::open();
    bench.say(bench.seg().flags(Flags::RST));
    assert_eq!((bench.conn.state(), bench.conn.broken()), (State::Closed, Some(Broken::Reset)));
    assert!(!bench.conn.peer_closed());

    let mut bench = Bench::connect(config());
    bench.say(bench.seg().flags(Flags::RST | Flags::ACK));
    assert_eq!(bench.conn.broken(), Some(Broken::Refused));
}

/// MUST-41: a passive OPEN changes no other connection; MUST-42: a port is listened on whatever state its connections
/// are in. There is no record in LISTEN: a [`Syn`] makes a connection, and knows of no other.
#[test]
fn must_41_and_42_a_syn_makes_a_connection_beside_the_others() {
    let mut first = Bench::accept(config(), plain(), false, false);
    first.flush();
    let before = format!("{:?}", first.conn);
    let mut second = Bench::accept(config(), plain(), false, false);
    assert!(second.flush()[0].has(Flags::SYN | Flags::ACK));
    assert_eq!(format!("{:?}", first.conn), before);
    assert_eq!(first.conn.state(), State::SynReceived);
}

/// A SYN again is answered again, with the same number, in SYN-RECEIVED; an acknowledgment of something else by a reset
/// (RFC 9293 3.10.7.4).
#[test]
fn must_10_syn_received_answers() {
    let mut bench = Bench::accept(config(), plain(), false, false);
    bench.flush();
    let out = bench.say(bench.syn(Flags::SYN));
    assert_eq!((out.len(), out[0].flags, out[0].seq), (1, Flags::SYN | Flags::ACK, ISS));
    for ack in [ISS, ISS + 2] {
        let out = bench.say(bench.seg().ack(ack));
        assert_eq!((out.len(), out[0].flags, out[0].seq), (1, Flags::RST, ack));
    }
    // Another SYN is challenged: its sender may have begun anew, and then resets this one.
    let out = bench.say(bench.syn(Flags::SYN).seq(IRS - 70_000));
    assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].ack == IRS + 1);
    assert_eq!(bench.conn.state(), State::SynReceived);
}

/// SYN-SENT: only an acceptable ACK makes a reset believable (RFC 9293 3.10.7.3).
#[test]
fn must_10_syn_sent_answers() {
    let mut bench = Bench::connect(config());
    assert!(bench.say(bench.seg().flags(Flags::RST)).is_empty());
    for ack in [ISS, ISS + 2] {
        let out = bench.say(bench.seg().ack(ack));
        assert_eq!((out.len(), out[0].flags, out[0].seq), (1, Flags::RST, ack));
        assert!(bench.say(bench.seg().ack(ack).flags(Flags::RST | Flags::ACK)).is_empty());
    }
    assert_eq!(bench.conn.state(), State::SynSent);
}
