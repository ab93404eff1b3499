//! RFC 9293 3.8.6 and RFC 7323 2: windows, their scale, and probing them.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::super::super::*;
use super::*;

fn scaled(shift: u8) -> SynOptions {
    SynOptions { window_scale: Some(shift), ..plain() }
}

/// MUST-34 and RFC7323-6 (2.4): a window that shrinks, below what is on its way, is got over.
#[test]
fn must_34_and_rfc7323_6_a_shrinking_window() {
    let mut bench = Bench::open();
    assert_eq!(bench.write(8000).len(), 8);
    bench.ack += 1000;
    // 7000 are on their way, 2000 have room.
    assert!(bench.say(bench.seg().window(2000)).is_empty());
    assert!(bench.write(4000).is_empty(), "the usable window is negative");
    // They are sent again in time, and nothing new.
    let sent = bench.wait(Duration::from_secs(2));
    assert!(!sent.is_empty() && sent.iter().all(|(_, segment)| segment.end().le(ISS + 8001)));
    bench.ack = ISS + 8001;
    let out = bench.say(bench.seg());
    assert_eq!(out.iter().map(|segment| segment.data.len()).sum::<usize>(), 4000);
}

/// MUST-35 and MUST-36: a shut window is probed, first after a retransmission time-out, then ever more seldom.
#[test]
fn must_35_and_36_a_shut_window_is_probed() {
    for shrunk in [false, true] {
        let mut bench = Bench::open();
        if shrunk {
            bench.write(3000);
            bench.acks(0);
        }
        bench.say(bench.seg().window(0));
        bench.write(3000);
        let begin = bench.now;
        let probes = bench.wait(Duration::from_secs(60));
        let times: Vec<_> = probes.iter().map(|(at, _)| at.since(begin).as_millis()).collect();
        assert!((200..=1000).contains(&times[0]), "{times:?}");
        for pair in times.windows(3) {
            assert!(pair[2] - pair[1] >= (pair[1] - pair[0]) * 2 - 2, "{times:?}");
        }
        assert!(probes.iter().all(|(_, probe)| probe.seq == ISS + 1 && !probe.data.is_empty()));
        assert!(probes.iter().all(|(_, probe)| probe.data.len() <= 1000), "no dozens of segments");
    }
}

/// MUST-37: a peer that answers the probes may keep its window shut for as long as it likes.
#[test]
fn must_37_a_window_may_stay_shut() {
    let mut bench = Bench::open();
    bench.window = 0;
    bench.say(bench.seg());
    bench.write(3000);
    let begin = bench.now;
    while bench.now.since(begin) < Duration::from_secs(24 * 3600) {
        assert!(!bench.next_timer().is_empty());
        bench.say(bench.seg());
        assert_eq!(bench.conn.state(), State::Established);
    }
    bench.window = 60_000;
    let out = bench.say(bench.seg());
    assert_eq!(out.iter().map(|segment| segment.data.len()).sum::<usize>(), 3000);
}

/// MUST-38: the sender's avoidance of silly windows: small openings of the window are not filled one by one.
#[test]
fn must_38_the_sender_makes_no_silly_segments() {
    let mut bench = Bench::open();
    bench.write(1000);
    bench.conn.send(vec![0; 50_000]);
    bench.ack += 1000;
    bench.say(bench.seg().window(0));
    for window in (50..1000).step_by(50) {
        assert!(bench.say(bench.seg().window(window)).is_empty(), "{window} bytes are no segment");
    }
    assert_eq!(bench.say(bench.seg().window(1000))[0].data.len(), 1000);
    // A peer with so little room that it never offers a segment gets half of it.
    let mut bench = Bench::accept(config(), plain(), false, false);
    bench.flush();
    bench.window = 300;
    bench.say(bench.seg());
    assert!(!bench.write(5000).is_empty());
    // And where nothing is on its way, time decides.
    let mut bench = Bench::open();
    bench.window = 10;
    bench.say(bench.seg());
    assert!(bench.write(5000).is_empty());
    assert_eq!(bench.next_timer()[0].data.len(), 10);
}

/// MUST-39: the receiver's: the window opens by a segment, or by half of the buffer.
#[test]
fn must_39_the_receiver_offers_no_silly_windows() {
    let mut bench = Bench::open_with(Config { receive_limit: 8000, ..config() }, plain(), false);
    bench.appetite = 0;
    let out = bench.data(8000);
    assert_eq!(out.last().unwrap().window, 0);
    let mut read = 0;
    let mut take = |bench: &mut Bench| {
        let mut left = 100;
        bench.conn.receive(|bytes| {
            let taken = bytes.len().min(left);
            left -= taken;
            taken
        });
        read += 100;
        bench.flush()
    };
    for n in 1..15 {
        assert!(take(&mut bench).is_empty(), "{} bytes are no segment of 1460", n * 100);
    }
    let out = take(&mut bench);
    assert_eq!((out.len(), out[0].window), (1, 1500));
    // Acknowledgments meanwhile offer no slivers either.
    assert!(bench.data(1500).is_empty());
    assert_eq!(bench.next_timer()[0].window, 0);
    assert!(take(&mut bench).is_empty());
    assert_eq!(bench.say(bench.seg().seq(bench.seq - 10).len(10))[0].window, 0);
}

/// RFC7323-1 (2.2): the option counts in a SYN only, and is ignored elsewhere.
#[test]
fn rfc7323_1_the_scale_comes_with_the_syn() {
    let mut bench = Bench::open_with(config(), scaled(2), false);
    let seg = Seg { syn: scaled(7), ..bench.seg().window(1000) };
    bench.say(seg);
    assert_eq!(bench.conn.wnd, 4000);
}

/// RFC7323-2 (2.2): the window of a SYN is not scaled, sent or received.
#[test]
fn rfc7323_2_the_window_of_a_syn_is_not_scaled() {
    let large = Config { receive_limit: 1 << 20, ..config() };
    let mut bench = Bench::accept(large.clone(), scaled(7), false, false);
    assert_eq!(bench.flush()[0].window, u16::MAX);
    assert_eq!(bench.conn.wnd, 60_000);
    let mut bench = Bench::connect(large);
    let seg = Seg { syn: scaled(7), ..bench.syn(Flags::SYN | Flags::ACK) };
    bench.say(seg.clone());
    assert_eq!(bench.conn.wnd, 60_000);
    let mut bench = Bench::connect(config());
    bench.say(Seg { flags: Flags::SYN, ..seg.clone() });
    bench.say(seg);
    assert_eq!(bench.conn.wnd, 60_000, "nor that of the second SYN of a simultaneous open");
}

/// RFC7323-3 (2.2): without the option from both, nothing is scaled.
#[test]
fn rfc7323_3_both_must_offer_the_scale() {
    let large = Config { receive_limit: 1 << 20, ..config() };
    let mut bench = Bench::accept(large, plain(), false, false);
    assert_eq!(bench.flush()[0].syn.window_scale, None);
    bench.say(bench.seg().window(1000));
    assert_eq!(bench.conn.wnd, 1000);
    assert_eq!(bench.data(5000)[0].window, u16::MAX);
}

/// RFC7323-4 (2.2, 2.3): all other windows are shifted, ours by our scale and the peer's by its.
#[test]
fn rfc7323_4_all_other_windows_are_shifted() {
    let large = Config { receive_limit: 1 << 20, ..config() };
    let mut bench = Bench::accept(large, scaled(3), false, false);
    assert_eq!(bench.flush()[0].syn.window_scale, Some(5));
    bench.say(bench.seg().window(1000));
    assert_eq!(bench.conn.wnd, 8000);
    assert_eq!(u32::from(bench.data(5000)[0].window) << 5, 1 << 20);
}

/// RFC7323-5 (2.3): a scale above 14 is taken as 14.
#[test]
fn rfc7323_5_no_scale_above_14() {
    use oneway_wire::tcp::TcpView;
    let mut tcp = vec![0; 20];
    (tcp[12], tcp[13]) = (6 << 4, Flags::SYN.0);
    tcp.extend([3, 3, 15, 0]);
    let segment = Segment::from_view(&TcpView::parse(&tcp).unwrap());
    assert_eq!(segment.syn.window_scale, Some(14));
}

/// RFC7323-7 (2.4): what lies in a window that any acknowledgment offered is taken, though rounding has made the last
/// one's end earlier.
#[test]
fn rfc7323_7_every_window_offered_is_honoured() {
    let large = Config { receive_limit: 1 << 20, ..config() };
    let mut bench = Bench::open_with(large, scaled(3), false);
    bench.appetite = 0;
    let mut furthest = bench.seq;
    for n in 0..200 {
        let out = bench.data(1461 + n);
        for segment in out {
            let end = segment.ack + (u32::from(segment.window) << 5);
            furthest = furthest.max(end);
            // It shrinks by no more than the scale cannot say.
            assert!(end.ge(furthest - 31));
        }
    }
    let len = (furthest - bench.seq) as usize;
    bench.data(len);
    assert_eq!(bench.conn.receive_next(), furthest);
}

/// RFC7323-8 (2.4): what is sent for the first time lies within the window last offered.
#[test]
fn rfc7323_8_new_data_stay_within_the_window() {
    let mut bench = Bench::open();
    bench.window = 2500;
    bench.say(bench.seg());
    bench.conn.send(vec![0; 50_000]);
    for _ in 0..40 {
        let edge = bench.ack + u32::from(bench.window);
        for segment in bench.flush() {
            assert!(segment.end().le(edge));
        }
        bench.ack = bench.conn.nxt;
        bench.window = if bench.window == 2500 { 1800 } else { 2500 };
        bench.give(&bench.seg());
    }
}

/// RFC 9293 3.4: nothing beyond the window is taken.
#[test]
fn rfc7323_7_nothing_beyond_the_window_is_taken() {
    let mut bench = Bench::open_with(Config { receive_limit: 4096, ..config() }, plain(), false);
    bench.appetite = 0;
    bench.say(bench.seg().len(9000));
    assert_eq!((bench.conn.receive_next(), bench.conn.held()), (IRS + 1 + 4096, 4096));
    bench.say(bench.seg().len(9000).seq(IRS + 1 + 4096));
    assert_eq!(bench.conn.held(), 4096);
}

/// MUST-39: a peer that saw a shut window is told when more may be held than before.
#[test]
fn must_39_a_raised_limit_is_told() {
    let mut bench = Bench::open_with(Config { receive_limit: 8000, ..config() }, plain(), false);
    bench.conn.set_receive_limit(2000);
    bench.appetite = 0;
    assert!(bench.flush().is_empty(), "the window already granted stays");
    let out = bench.data(8000);
    assert_eq!(out[0].window, 0);
    bench.conn.receive(|bytes| bytes.len().min(7000));
    bench.conn.receive(|_| 0);
    bench.flush();
    bench.conn.set_receive_limit(8000);
    let out = bench.flush();
    assert!(out.len() == 1 && out[0].is_pure_ack() && out[0].window >= 1460, "{out:?}");
}

/// RFC 9293 3.8.6, "special allowance": a peer that has used the window up is heard, though what it sent was lost.
#[test]
fn must_66_a_peer_at_the_end_of_the_window_is_heard() {
    let mut bench = Bench::open_with(Config { receive_limit: 4096, ..config() }, plain(), false);
    bench.write(500);
    bench.ack += 500;
    bench.say(bench.seg().seq(bench.seq + 4097));
    assert!(!bench.conn.all_acknowledged(), "beyond");
    bench.say(bench.seg().seq(bench.seq + 4096));
    assert!(bench.conn.all_acknowledged());
    // We do the same, and a FIN beyond the window does not change it.
    let mut bench = Bench::open_with(config(), scaled(4), false);
    bench.window = 100;
    bench.say(bench.seg());
    assert_eq!(bench.write(1600).iter().map(|segment| segment.data.len()).sum::<usize>(), 1600);
    assert!(bench.close()[0].has(Flags::FIN));
    let out = bench.data(5000);
    assert_eq!(out[0].seq, ISS + 1601);
}

/// MUST-35: two ends that probe each other's windows at once hear each other: each took the other's byte, and neither
/// knows yet that its own was taken.
#[test]
fn must_35_two_ends_that_probe_each_other() {
    let mut bench = Bench::open();
    bench.window = 0;
    bench.say(bench.seg());
    bench.write(500);
    assert_eq!(bench.next_timer()[0].data.len(), 1);
    // The peer's probe, which is taken.
    bench.data(1);
    assert_eq!(bench.got.len(), 1);
    // It acknowledges ours from where it still believes our window to end.
    bench.window = 60_000;
    bench.ack += 1;
    let out = bench.say(bench.seg().seq(bench.seq - 1));
    assert_eq!(out.iter().map(|segment| segment.data.len()).sum::<usize>(), 499);
}
