//! RFC 9293 3.1 and 3.2: options; 3.7.1: the maximum segment size.

use oneway_wire::ip::IpView;
use oneway_wire::tcp::{Flags, TcpView};

use super::super::super::*;
use super::*;

/// A segment with these bytes as its options.
fn header(flags: Flags, options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut tcp = vec![0; 20];
    tcp[4..8].copy_from_slice(&IRS.0.to_be_bytes());
    tcp[12] = ((20 + options.len()) as u8 / 4) << 4;
    tcp[13] = flags.0;
    tcp[14] = 0xff;
    tcp.extend_from_slice(options);
    tcp
}

fn read(flags: Flags, options: &[u8]) -> Segment<'static> {
    let bytes = header(flags, options).leak();
    Segment::from_view(&TcpView::parse(bytes).unwrap())
}

/// MUST-4: end of list, no-operation and maximum segment size are known.
#[test]
fn must_4_the_mandatory_options_are_read() {
    let segment = read(Flags::SYN, &[1, 1, 1, 1, 2, 4, 0x05, 0xb4, 0, 0, 0, 0]);
    assert_eq!(segment.syn.mss, Some(1460));
    // Nothing after the end of the list counts.
    assert_eq!(read(Flags::SYN, &[0, 0, 0, 0, 2, 4, 0x05, 0xb4]).syn.mss, None);
}

/// MUST-5: an option may come in any segment.
#[test]
fn must_5_options_come_in_any_segment() {
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
    for flags in [Flags::SYN, Flags::ACK, Flags::FIN | Flags::ACK, Flags::RST, Flags::ACK | Flags::PSH] {
        assert_eq!(read(flags, &timestamps).timestamps, Some(Timestamps { value: 7, echo: 9 }));
    }
    // Those of a SYN mean nothing elsewhere, and do no harm.
    let mut bench = Bench::open();
    let seg = Seg { syn: with_sack(), ..bench.seg().len(10) };
    bench.say(seg);
    assert_eq!(bench.got.len(), 10);
}

/// MUST-6: unknown options are passed over without error.
#[test]
fn must_6_unknown_options_are_passed_over() {
    let segment = read(Flags::SYN, &[253, 6, 1, 2, 3, 4, 254, 2, 2, 4, 0x05, 0xb4]);
    assert_eq!(segment.syn.mss, Some(1460));
}

/// MUST-7: an illegal length, such as zero, is got over.
#[test]
fn must_7_illegal_lengths_are_got_over() {
    for len in [0, 1, 3, 5, 41, 255] {
        let segment = read(Flags::SYN, &[2, len, 0x05, 0xb4]);
        assert_eq!(segment.syn.mss, None, "length {len}");
        assert!(Syn::from_segment(&segment).is_some(), "the connection is not refused for it");
    }
}

/// MUST-14: the option is sent and received.
#[test]
fn must_14_the_maximum_segment_size_goes_both_ways() {
    let mut bench = Bench::accept(config(), plain(), false, false);
    assert_eq!(bench.flush()[0].syn.mss, Some(1460));
    bench.say(bench.seg());
    assert_eq!(bench.write(3000)[0].data.len(), 1000);
    let mut bench = Bench::connect(config());
    bench.say(bench.syn(Flags::SYN | Flags::ACK));
    assert_eq!(bench.write(3000)[0].data.len(), 1000);
}

/// MUST-15: without the option 536 bytes are assumed for IPv4, 1220 for IPv6.
#[test]
fn must_15_the_size_without_the_option() {
    for (v6, size) in [(false, 536), (true, 1220)] {
        let mut bench = Bench::accept(config(), SynOptions::default(), false, v6);
        bench.flush();
        bench.say(bench.seg());
        assert_eq!(bench.write(3000)[0].data.len(), size);
    }
}

/// MUST-16: what is sent is the smaller of what the peer takes and what our own link carries, without all options.
#[test]
fn must_16_the_effective_segment_size() {
    let large = SynOptions { mss: Some(9000), ..plain() };
    let mut bench = Bench::open_with(config(), large, false);
    assert_eq!(bench.write(9000)[0].data.len(), 1460);
    let mut bench = Bench::open_with(config(), large, true);
    assert_eq!(bench.write(9000)[0].data.len(), 1448);
    // SACK blocks join the options of a single segment; no packet outgrows the link by them.
    let sack = SynOptions { sack_permitted: true, ..large };
    let mut bench = Bench::open_with(config(), sack, true);
    let ahead = bench.seg().seq(bench.seq + 100).len(10);
    bench.give(&ahead);
    let out = bench.write(9000);
    assert!(!out[0].sack.is_empty() && out.iter().all(|segment| segment.wire.len() <= 1500));
    assert_eq!(out[0].wire.len(), 1500);
}

/// MUST-64: options need not begin on a word boundary.
#[test]
fn must_64_options_at_any_offset() {
    for pad in 0..4 {
        let mut options = vec![1; pad];
        options.extend([2, 4, 0x05, 0xb4]);
        options.resize(8, 0);
        assert_eq!(read(Flags::SYN, &options).syn.mss, Some(1460));
    }
}

/// MUST-65: the maximum segment size is in no segment without SYN.
#[test]
fn must_65_no_maximum_segment_size_outside_of_a_syn() {
    let mut bench = Bench::open_with(config(), with_sack(), true);
    let mut sent = bench.write(10);
    sent.extend(bench.data(10_000));
    sent.extend(bench.close());
    assert!(sent.len() > 2 && sent.iter().all(|segment| segment.syn == SynOptions::default()));
    // And one that comes there is not heeded.
    assert_eq!(read(Flags::ACK, &[2, 4, 0, 100]).syn.mss, None);
}

/// MUST-67: what is announced is at most what can be received, without the fixed headers.
#[test]
fn must_67_the_announced_size_is_that_of_the_link() {
    for (mtu, v6, mss) in [(1500, false, 1460), (1500, true, 1440), (65_535, false, 65_495)] {
        let mut bench = Bench::accept(Config { mtu, ..config() }, plain(), false, v6);
        assert_eq!(bench.flush()[0].syn.mss, Some(mss));
    }
    // One that asks for less has room for timestamps, and never asks for more than the link carries.
    for (asked, timestamps, mss, data) in [
        (1000, false, 1000, 1000),
        (1000, true, 1012, 1000),
        (1460, true, 1460, 1448),
        (u16::MAX, false, 1460, 1460),
        (0, true, 60, 48),
    ] {
        let mut bench = Bench::accept(config(), plain(), timestamps, false);
        bench.conn.receive_at_most(asked);
        assert_eq!(bench.conn.longest_received(), data);
        assert_eq!(bench.flush()[0].syn.mss, Some(mss));
        bench.say(bench.seg());
        // What is sent goes by what the peer announced.
        assert_eq!(bench.write(3000)[0].data.len(), if timestamps { 988 } else { 1000 });
    }
}

/// MUST-68: options other than end and no-operation have a length; MUST-69: what follows the end of the list is zero,
/// and here the list is padded by no-operations to its whole length.
#[test]
fn must_68_and_69_sent_options_have_lengths_and_padding() {
    let mut bench = Bench::accept(config(), with_sack(), true, false);
    let mut sent = bench.flush();
    bench.say(bench.seg());
    sent.extend(bench.say(bench.seg().seq(bench.seq + 100).len(10)));
    assert!(sent.len() == 2 && !sent[1].sack.is_empty());
    for segment in sent {
        let ip = IpView::parse(&segment.wire).unwrap();
        let tcp = TcpView::parse(ip.payload()).unwrap();
        let mut rest = &ip.payload()[20..tcp.header_len()];
        while let Some((&kind, tail)) = rest.split_first() {
            match kind {
                0 => {
                    assert!(tail.iter().all(|&byte| byte == 0));
                    break;
                }
                1 => rest = tail,
                _ => {
                    let len = usize::from(tail[0]);
                    assert!((2..=rest.len()).contains(&len));
                    rest = &rest[len..];
                }
            }
        }
    }
}
