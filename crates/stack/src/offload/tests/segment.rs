use oneway_wire::Malformed;
use oneway_wire::tcp::Flags;
use oneway_wire::virtio::{Gso, HEADER_LEN, VirtioNetHdr};

use super::reference::{Packet, Random};
use crate::offload::{Coalescer, MAX_FRAME, segment};

fn cut(frame: &[u8], parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Malformed> {
    let header = VirtioNetHdr::decode(frame.first_chunk().unwrap());
    let (mut buf, mut pieces) = (Vec::new(), Vec::new());
    segment(&header, parts, &mut buf, |piece| pieces.push(piece.to_vec()))?;
    Ok(pieces)
}

/// The packet of a frame in random pieces, of which the first has the headers.
fn scattered<'a>(random: &mut Random, packet: &'a [u8], headers: usize) -> Vec<&'a [u8]> {
    let (first, mut rest) = packet.split_at(headers + random.below(packet.len() - headers + 1));
    let mut parts = vec![first];
    while !rest.is_empty() {
        let (part, after) = rest.split_at(random.below(rest.len() + 1));
        parts.push(part);
        rest = after;
    }
    parts
}

#[test]
fn pieces_are_those_of_the_reference_and_join_again() {
    for seed in 1..=400 {
        let mut random = Random(seed * 0x9e37_79b9);
        let longest = if seed % 10 == 0 { 65_000 } else { 5000 };
        let (is_tcp, len) = (random.percent(60), 2 + random.below(longest));
        let mut packet = Packet::random(&mut random, is_tcp, len);
        packet.data.truncate(65_535 - packet.header_len());
        let len = packet.data.len();
        let size = (1 + random.below(len)).max(len / 500) as u16;
        let plain = random.percent(50);
        if let Some(tcp) = &mut packet.tcp {
            let more = [Flags::PSH, Flags::FIN, Flags::CWR, Flags::ECE];
            let more = more.into_iter().filter(|_| random.percent(30)).fold(Flags::ACK, |all, one| all | one);
            tcp.flags = if plain { Flags(more.0 & 0x18) } else { more };
        }
        let frame = packet.superframe(size);
        let parts = scattered(&mut random, &frame[HEADER_LEN..], packet.header_len());
        let pieces = cut(&frame, &parts).unwrap();
        let wanted: Vec<_> = packet.cut(size).iter().map(Packet::bytes).collect();
        assert!(pieces == wanted, "seed {seed}: {} pieces of {size} bytes of {packet:?}", pieces.len());

        if packet.tcp.as_ref().is_some_and(|tcp| tcp.flags.0 & !0x18 != 0) || pieces.len() == 1 {
            continue;
        }
        let mut coalescer = Coalescer::new(4);
        for piece in &pieces {
            super::coalesce::push(&mut coalescer, piece);
        }
        let frames: Vec<_> = coalescer.frames().map(|frame| frame.to_vec()).collect();
        assert!(frames == [frame], "seed {seed}: {packet:?}");
    }
}

#[test]
fn an_ordinary_packet_gets_its_checksum() {
    let mut random = Random(7);
    for is_tcp in [true, false] {
        let packet = Packet::random(&mut random, is_tcp, 333);
        let mut frame = packet.superframe(333);
        frame[1] = Gso::None.to_raw();
        assert_eq!(cut(&frame, &[&frame[HEADER_LEN..]]), Ok(vec![packet.bytes()]));
    }
}

#[test]
fn what_is_never_cut_is_refused() {
    let mut random = Random(9);
    let tcp = Packet {
        src: "192.0.2.1:1".parse().unwrap(),
        dst: "192.0.2.2:2".parse().unwrap(),
        ..Packet::random(&mut random, true, 3000)
    };
    let good = tcp.superframe(1000);
    assert_eq!(cut(&good, &[&good[HEADER_LEN..]]).unwrap().len(), 3);
    let refused = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        let result = cut(&frame, &[&frame[HEADER_LEN..]]);
        assert!(result.is_err(), "byte {at} = {value}: {result:?}");
    };
    for flags in [Flags::SYN, Flags::RST, Flags::URG] {
        refused(HEADER_LEN + 20 + 13, flags.0 | Flags::ACK.0);
    }
    // More fragments; another protocol; a length that is not the packet's; another family's or no known type.
    refused(HEADER_LEN + 6, 0x20);
    refused(HEADER_LEN + 9, 17);
    refused(HEADER_LEN + 3, good[HEADER_LEN + 3] ^ 1);
    for gso_type in [2, 3, 4, 5, 6] {
        refused(1, gso_type);
    }
    let mut none = good.clone();
    none[4..6].fill(0);
    assert!(cut(&none, &[&none[HEADER_LEN..]]).is_err());
}

#[test]
fn rubbish_is_an_error_or_packets_and_never_a_panic() {
    for seed in 1..=20_000_u64 {
        let mut random = Random(seed);
        let is_tcp = random.percent(50);
        let len = random.below(200);
        let mut frame = Packet::random(&mut random, is_tcp, len).superframe(1 + random.below(100) as u16);
        for _ in 0..random.below(6) {
            let at = random.below(frame.len().min(90));
            frame[at] = random.next() as u8;
        }
        frame.truncate(HEADER_LEN + random.below(frame.len() - HEADER_LEN + 1));
        let header = VirtioNetHdr::decode(frame.first_chunk().unwrap());
        let (mut buf, mut count) = (Vec::new(), 0);
        let result = segment(&header, &[&frame[HEADER_LEN..]], &mut buf, |_| count += 1);
        assert_eq!(result.is_ok(), count > 0, "seed {seed}");
        assert!(buf.capacity() < MAX_FRAME);
    }
}
