//! RFC 9293 3.5.2 and 3.5.3, RFC 5961: resets, and segments of people who guess.

use oneway_wire::tcp::Flags;

use super::super::super::*;
use super::*;

/// MUST-66: RST and URG are heeded while the receive window is shut.
#[test]
fn must_66_reset_and_urgent_at_a_shut_window() {
    for len in [0, 3] {
        let mut bench = shut();
        bench.say(bench.seg().flags(Flags::RST).len(len));
        assert_eq!(bench.conn.broken(), Some(Broken::Reset), "with {len} bytes");
        let mut bench = shut();
        bench.say(bench.seg().flags(Flags::RST).len(len).seq(bench.seq + 1));
        assert_eq!(bench.conn.broken(), None, "another sequence number");
    }
    // An urgent segment at a shut window is answered, and its ACK counts.
    let mut bench = shut();
    bench.write(500);
    bench.ack += 500;
    bench.say(bench.seg().flags(Flags::ACK | Flags::URG));
    assert!(bench.conn.all_acknowledged());
}

/// A connection whose application reads nothing until its window is shut.
fn shut() -> Bench {
    let mut bench = Bench::open_with(Config { receive_limit: 4096, ..config() }, plain(), false);
    bench.appetite = 0;
    let out = bench.data(4096);
    assert_eq!(out.last().unwrap().window, 0);
    bench
}

/// RFC5961-1 (3.2): outside of the window a reset is dropped; where it is exactly expected it resets; elsewhere in the
/// window it is challenged.
#[test]
fn rfc5961_1_only_the_exact_reset_is_believed() {
    let mut bench = Bench::open();
    for seq in [bench.seq - 1, bench.seq + 60_000, bench.seq + (1 << 31)] {
        assert!(bench.say(bench.seg().flags(Flags::RST).seq(seq)).is_empty());
    }
    let out = bench.say(bench.seg().flags(Flags::RST).seq(bench.seq + 1));
    assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].ack == bench.seq);
    assert_eq!(bench.conn.state(), State::Established);
    // What a peer answers who has really reset: the number that the challenge acknowledges.
    bench.say(bench.seg().flags(Flags::RST).seq(out[0].ack));
    assert_eq!(bench.conn.broken(), Some(Broken::Reset));
}

/// RFC5961-2 (4.2): a SYN in a synchronized state is challenged, whatever its sequence number.
#[test]
fn rfc5961_2_a_syn_is_challenged() {
    for seq in [IRS, IRS + 1, IRS + 5000, IRS - 100_000, IRS + (1 << 31)] {
        let mut bench = Bench::open();
        let out = bench.say(bench.syn(Flags::SYN).seq(seq));
        assert!(out.len() == 1 && out[0].is_pure_ack());
        assert_eq!((out[0].seq, out[0].ack), (ISS + 1, IRS + 1));
        assert_eq!(bench.conn.state(), State::Established);
    }
}

/// RFC5961-3 (5.2): an ACK of what was never sent, or of what was acknowledged longer ago than the largest window, is
/// discarded with its data, and answered.
#[test]
fn rfc5961_3_an_impossible_ack_is_discarded() {
    for ack in [ISS + 502, ISS + 501 - 60_001, ISS + (1 << 31)] {
        let mut bench = Bench::open();
        bench.write(500);
        bench.acks(500);
        let out = bench.say(bench.seg().ack(ack).len(10));
        assert!(bench.got.is_empty());
        assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].ack == bench.seq);
    }
    let mut bench = Bench::open();
    bench.write(500);
    bench.acks(500);
    bench.say(bench.seg().ack(ISS + 501 - 60_000).len(10));
    assert_eq!(bench.got.len(), 10, "an old ACK within the window is no reason to drop data");
}

/// RFC5961-4 (7): challenges are bounded, so that nobody can make this end answer for ever.
#[test]
fn rfc5961_4_challenges_are_bounded() {
    let mut bench = Bench::open();
    let mut answers = 0;
    for n in 0..1000 {
        bench.now = bench.now + MS(1);
        let kinds = [
            bench.seg().flags(Flags::RST).seq(bench.seq + 1),
            bench.syn(Flags::SYN),
            bench.seg().ack(ISS + 5000),
            bench.seg().seq(bench.seq - 1),
            bench.seg().seq(bench.seq + 100_000),
        ];
        answers += bench.say(kinds[n % kinds.len()].clone()).len();
    }
    assert!((1..=3).contains(&answers), "{answers} answers in a second");
}

/// RFC 9293 3.5.2: a reset that is sent is one that the peer believes: its number is what the peer expects, also when a
/// probe lies beyond its shut window.
#[test]
fn must_12_an_abort_is_sent_where_the_peer_looks() {
    let mut bench = Bench::open();
    bench.write(100);
    bench.conn.abort();
    let out = bench.flush();
    assert_eq!((out.len(), out[0].flags, out[0].seq), (1, Flags::RST | Flags::ACK, ISS + 101));
    let mut bench = Bench::open();
    bench.window = 0;
    bench.say(bench.seg());
    bench.write(100);
    assert_eq!(bench.next_timer()[0].data.len(), 1, "a probe");
    // Until the peer takes the probe, its window ends before it.
    let out = bench.data(5000);
    assert!(out.iter().all(|segment| segment.seq == ISS + 1));
    bench.conn.abort();
    assert_eq!(bench.flush()[0].seq, ISS + 1);
}
