//! RFC 9293 3.1: the header, and what of IP's is set.

use oneway_wire::ip::IpView;
use oneway_wire::tcp::{Flags, TcpView};

use super::super::super::*;
use super::*;

/// MUST-1: the window is an unsigned number.
#[test]
fn must_1_the_window_is_unsigned() {
    let mut bench = Bench::open();
    bench.say(bench.seg().window(0xffff));
    assert_eq!(bench.conn.wnd, 65_535);
    let scaled = SynOptions { window_scale: Some(14), ..plain() };
    let mut bench = Bench::open_with(config(), scaled, false);
    bench.say(bench.seg().window(0xffff));
    assert_eq!(bench.conn.wnd, 65_535 << 14);
    assert_eq!(bench.write(500)[0].data.len(), 500);
}

/// MUST-2: the sender makes the checksum.
#[test]
fn must_2_every_segment_has_its_checksum() {
    for v6 in [false, true] {
        let mut bench = Bench::accept(config(), plain(), false, v6);
        let mut sent = bench.flush();
        bench.say(bench.seg());
        sent.extend(bench.write(333));
        sent.extend(bench.acks(333));
        sent.extend(bench.data(5000));
        sent.extend(bench.close());
        bench.conn.abort();
        sent.extend(bench.flush());
        let kinds = [Flags::SYN, Flags::PSH, Flags::FIN, Flags::RST];
        assert!(kinds.iter().all(|&kind| sent.iter().any(|segment| segment.has(kind))));
        for segment in sent {
            let ip = IpView::parse(&segment.wire).unwrap();
            assert!(TcpView::parse(ip.payload()).unwrap().checksum_valid(ip.src(), ip.dst()));
        }
    }
}

/// MUST-3: the receiver checks it. The callers do, by `TcpView::checksum_valid`, before they make a [`Segment`]; no
/// bit may be another.
#[test]
fn must_3_no_changed_bit_passes_the_checksum() {
    let mut bench = Bench::open();
    let wire = bench.write(40)[0].wire.clone();
    let header = IpView::parse(&wire).unwrap().payload().as_ptr() as usize - wire.as_ptr() as usize;
    for bit in header * 8..wire.len() * 8 {
        let mut wire = wire.clone();
        wire[bit / 8] ^= 1 << (bit % 8);
        let ip = IpView::parse(&wire).unwrap();
        let passes = TcpView::parse(ip.payload()).is_ok_and(|tcp| tcp.checksum_valid(ip.src(), ip.dst()));
        assert!(!passes, "bit {bit}");
    }
}

/// MUST-48 and MUST-49: DSCP and time to live can be chosen, for one connection too: it has its own configuration.
#[test]
fn must_48_and_49_traffic_class_and_hop_limit_are_those_of_the_configuration() {
    for v6 in [false, true] {
        let chosen = Config { hop_limit: 7, traffic_class: 0b1010_1000, ..config() };
        let mut bench = Bench::accept(chosen, plain(), false, v6);
        let wire = bench.flush()[0].wire.clone();
        let (class, hops) = if v6 { ((wire[0] << 4) | (wire[1] >> 4), wire[7]) } else { (wire[1], wire[8]) };
        assert_eq!((class, hops), (0b1010_1000, 7));
    }
    let mut bench = Bench::open();
    assert_eq!(bench.write(1)[0].wire[8], 64);
}

/// MUST-60: without PUSH from the user, data are not kept back; MUST-61: PSH is set in the last segment of what is
/// queued.
#[test]
fn must_60_and_61_data_leave_at_once_and_the_last_segment_is_pushed() {
    let mut bench = Bench::open();
    let out = bench.write(1);
    assert!(out.len() == 1 && out[0].has(Flags::PSH));
    let out = bench.write(2500);
    assert_eq!(out.iter().map(|segment| segment.data.len()).collect::<Vec<_>>(), [1000, 1000, 500]);
    assert_eq!(out.iter().map(|segment| segment.has(Flags::PSH)).collect::<Vec<_>>(), [false, false, true]);
}
