use super::*;
use crate::ip::IpView;
use crate::testing::{Random, hex};

/// A SYN with the options that Linux sends; its checksum is left out.
const SYN: &str = "4500 003c 1c46 4000 4006 b1e6 ac10 0a63 ac10 0a0c
    d7a2 0050 1f2e 3d4c 0000 0000 a002 faf0 0000 0000
    0204 05b4 0402 080a 0102 0304 0000 0000 0103 0307";

#[test]
fn fields_of_a_syn() {
    let packet = hex(SYN);
    let ip = IpView::parse(&packet).unwrap();
    let tcp = TcpView::parse(ip.payload()).unwrap();
    assert_eq!((tcp.src_port(), tcp.dst_port()), (0xd7a2, 80));
    assert_eq!((tcp.seq(), tcp.ack(), tcp.window(), tcp.urgent()), (0x1f2e_3d4c, 0, 64_240, 0));
    assert_eq!((tcp.flags(), tcp.header_len(), tcp.payload().len()), (Flags::SYN, 40, 0));
    assert_eq!(tcp.sequence_len(), 1);
    let options: Vec<_> = tcp.options().collect();
    assert_eq!(
        options,
        [
            TcpOption::Mss(1460),
            TcpOption::SackPermitted,
            TcpOption::Timestamps { value: 0x0102_0304, echo: 0 },
            TcpOption::WindowScale(7),
        ]
    );
}

#[test]
fn flags_read_well() {
    assert_eq!(format!("{:?}", Flags::SYN | Flags::ACK), "SYN|ACK");
    assert_eq!(format!("{:?}", Flags(0)), "-");
    assert!((Flags::FIN | Flags::ACK).contains(Flags::ACK));
    assert!(!Flags::ACK.contains(Flags::ACK | Flags::FIN));
    assert!(Flags::ACK.intersects(Flags::ACK | Flags::FIN));
}

#[test]
fn malformed() {
    let packet = hex(SYN);
    let segment = &packet[20..];
    for len in 0..40 {
        assert!(matches!(TcpView::parse(&segment[..len]), Err(Malformed::Truncated { .. })), "{len}");
    }
    let mut segment = segment.to_vec();
    for words in 0..5u8 {
        segment[12] = words << 4;
        let expected = Malformed::Length { what: "TCP header", value: usize::from(words) * 4 };
        assert_eq!(TcpView::parse(&segment).unwrap_err(), expected);
    }
    segment[12] = 0xf0;
    assert!(matches!(TcpView::parse(&segment), Err(Malformed::Truncated { need: 60, have: 40, .. })));
}

#[test]
fn sequence_length_counts_syn_and_fin() {
    let mut segment = hex(SYN)[20..].to_vec();
    segment.extend_from_slice(b"data");
    for (flags, len) in [(Flags::SYN, 5), (Flags::FIN | Flags::ACK, 5), (Flags::ACK, 4)] {
        segment[13] = flags.0;
        assert_eq!(TcpView::parse(&segment).unwrap().sequence_len(), len);
    }
}

#[test]
fn options_of_every_kind_and_fault() {
    let parse = |text: &str| {
        let bytes = hex(text);
        let mut options = TcpOptions::new(&bytes);
        let kinds: Vec<String> = options.by_ref().map(|option| format!("{option:?}")).collect();
        (kinds.join(" "), options.is_malformed())
    };
    let ok = |text: &str| (text.to_owned(), false);
    let bad = |text: &str| (text.to_owned(), true);
    assert_eq!(parse(""), ok(""));
    assert_eq!(parse("0101 0101"), ok(""));
    assert_eq!(parse("0303 0e00 0204"), ok("WindowScale(14)"));
    assert_eq!(parse("1e04 abcd"), ok("Unknown { kind: 30, data: [171, 205] }"));
    assert_eq!(parse("fe02 0204 05b4"), ok("Unknown { kind: 254, data: [] } Mss(1460)"));
    // Known kinds with a length that is not theirs.
    assert_eq!(parse("0203 05"), ok("Unknown { kind: 2, data: [5] }"));
    assert_eq!(parse("050a 0000 0001 0000 0002"), ok("Sack(SackBlocks([[0, 0, 0, 1, 0, 0, 0, 2]]))"));
    assert_eq!(parse("0502"), ok("Unknown { kind: 5, data: [] }"));
    // Lengths that are nobody's.
    assert_eq!(parse("0402 02"), bad("SackPermitted"));
    assert_eq!(parse("0402 0200"), bad("SackPermitted"));
    assert_eq!(parse("0201 0402"), bad(""));
    assert_eq!(parse("0204 05"), bad(""));
}

#[test]
fn sack_blocks() {
    let bytes = hex("0512 0000 0001 0000 0002 ffff fff0 0000 0010");
    let Some(TcpOption::Sack(blocks)) = TcpOptions::new(&bytes).next() else { panic!("no SACK") };
    assert_eq!(blocks.iter().collect::<Vec<_>>(), [(1, 2), (0xffff_fff0, 16)]);
}

#[test]
fn random_options_end() {
    let mut random = Random(0x5eed_0301);
    for _ in 0..50_000 {
        let len = random.below(41);
        let bytes: Vec<u8> = (0..len).map(|_| random.below(12) as u8).collect();
        let mut options = TcpOptions::new(&bytes);
        let count = options.by_ref().count();
        assert!(count <= len / 2 && options.next().is_none());
    }
}
