use oneway_wire::tcp::Flags;
use oneway_wire::virtio::{DATA_VALID, HEADER_LEN, VirtioNetHdr};

use super::reference::{Packet, Random, group};
use crate::offload::{Coalescer, segment};

pub(super) fn push(coalescer: &mut Coalescer, packet: &[u8]) {
    let room = coalescer.room().expect("room");
    room[..HEADER_LEN].fill(0);
    room[HEADER_LEN..HEADER_LEN + packet.len()].copy_from_slice(packet);
    coalescer.commit(HEADER_LEN + packet.len());
}

/// Without the identification, where it means nothing.
fn without_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// Packets of some connections, most of them one after the other, with whatever may stand between them.
fn batch(random: &mut Random) -> Vec<Vec<u8>> {
    let sizes = [1, 2, 7, 100, 1448];
    let mut flows: Vec<_> = (0..1 + random.below(4))
        .map(|_| {
            let is_tcp = random.percent(70);
            let size = sizes[random.below(sizes.len())];
            Packet::random(random, is_tcp, size)
        })
        .collect();
    let (trouble, fixed_id) = (random.below(12), random.percent(20));
    let mut packets = Vec::new();
    for _ in 0..random.below(80) {
        let which = random.below(flows.len());
        let flow = &mut flows[which];
        let size = flow.data.len();
        let mut packet = flow.clone();
        let mut broken = None;
        let words = random.below(11);
        if random.percent(trouble) {
            match random.below(14) {
                0 => packet.ttl ^= 1,
                1 => packet.class ^= 4,
                2 => packet.dont_fragment ^= true,
                3 => packet.id = packet.id.wrapping_add(7),
                4 => packet.data = random.bytes(size + 1),
                5 => packet.data.truncate(random.below(size + 1)),
                6 => broken = Some(random.below(packet.header_len() + size)),
                7 => packet.data.clear(),
                kind => {
                    if let Some(tcp) = &mut packet.tcp {
                        match kind {
                            8 => tcp.seq = tcp.seq.wrapping_add(1),
                            9 => tcp.ack = tcp.ack.wrapping_add(1),
                            10 => tcp.window ^= 1,
                            11 => tcp.flags = Flags(random.next() as u8),
                            12 => tcp.flags = Flags::ACK | Flags::PSH,
                            _ => tcp.options = random.bytes(4 * words),
                        }
                    }
                }
            }
        }
        if let Some(tcp) = &mut flow.tcp {
            tcp.seq = tcp.seq.wrapping_add(packet.data.len() as u32);
        }
        if flow.src.is_ipv4() && !fixed_id {
            flow.id = flow.id.wrapping_add(1);
        }
        let mut bytes = packet.bytes();
        match broken {
            Some(at) if random.percent(80) => bytes[at] ^= 1 << random.below(8),
            Some(at) => bytes.truncate(at),
            None => {}
        }
        packets.push(bytes);
    }
    packets
}

#[test]
fn joins_what_the_reference_joins_and_changes_nothing_else() {
    let (mut taken, mut given) = (0, 0);
    for seed in 1..=3000 {
        let mut random = Random(seed * 0x9e37_79b9);
        let packets = batch(&mut random);
        let views: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let groups = group(&views);
        let mut coalescer = Coalescer::new(packets.len() + 1);
        packets.iter().for_each(|packet| push(&mut coalescer, packet));
        let frames: Vec<_> = coalescer.frames().map(|frame| frame.to_vec()).collect();
        assert_eq!(frames.len(), groups.len(), "seed {seed}");
        (taken, given) = (taken + packets.len(), given + frames.len());
        for (n, (frame, group)) in frames.iter().zip(&groups).enumerate() {
            let header = VirtioNetHdr::decode(frame.first_chunk().unwrap());
            let packet = &frame[HEADER_LEN..];
            if let [single] = group[..] {
                assert_eq!(packet, single, "seed {seed}, frame {n}");
                assert_eq!(
                    VirtioNetHdr { flags: header.flags & !DATA_VALID, ..header },
                    VirtioNetHdr::default()
                );
                continue;
            }
            let (mut buf, mut pieces) = (Vec::new(), Vec::new());
            segment(&header, &[packet], &mut buf, |piece| pieces.push(without_id(piece))).unwrap();
            let wanted: Vec<_> = group.iter().map(|packet| without_id(packet)).collect();
            assert!(pieces == wanted, "seed {seed}, frame {n}, {} pieces", group.len());
        }
    }
    assert!(given * 2 < taken, "{taken} packets gave {given}: hardly any were joined");
}

#[test]
fn a_superpacket_is_no_longer_than_ip_can_say_and_the_room_is_bounded() {
    let mut random = Random(5);
    for is_tcp in [true, false] {
        let mut packet = Packet::random(&mut random, is_tcp, 1400);
        let mut coalescer = Coalescer::new(2);
        let mut joined = 0;
        loop {
            push(&mut coalescer, &packet.bytes());
            joined += 1;
            packet.id = packet.id.wrapping_add(u16::from(packet.src.is_ipv4()));
            if let Some(tcp) = &mut packet.tcp {
                tcp.seq = tcp.seq.wrapping_add(1400);
            }
            if coalescer.room().is_none() {
                break;
            }
        }
        let most = (65_535 - packet.header_len()) / 1400;
        assert_eq!(joined, most + 1, "as many as fit, and the first of the next");
        let lengths: Vec<_> = coalescer.frames().map(|frame| frame.len() - HEADER_LEN).collect();
        assert_eq!(lengths, [packet.header_len() + most * 1400, packet.header_len() + 1400]);
        coalescer.clear();
        assert!(coalescer.is_empty() && coalescer.room().is_some() && coalescer.frames().next().is_none());
    }
}

#[test]
fn a_verified_checksum_is_said_and_a_wrong_one_is_left_alone() {
    let mut random = Random(3);
    let packet = Packet::random(&mut random, true, 10).bytes();
    let mut wrong = packet.clone();
    wrong[packet.len() - 1] ^= 1;
    let mut coalescer = Coalescer::new(2);
    push(&mut coalescer, &wrong);
    push(&mut coalescer, &packet);
    let flags: Vec<u8> = coalescer.frames().map(|frame| frame[0]).collect();
    assert_eq!(flags, [0, DATA_VALID]);
}

#[test]
fn rubbish_comes_out_as_it_came() {
    for seed in 1..=2000 {
        let mut random = Random(seed);
        let mut coalescer = Coalescer::new(16);
        let mut packets = Vec::new();
        while let Some(room) = coalescer.room() {
            let len = random.below(120);
            let mut frame = random.bytes(len);
            if let Some(first) = frame.get_mut(HEADER_LEN) {
                *first = [0x45, 0x60, 0x46, 0x00][random.below(4)];
            }
            room[..len].copy_from_slice(&frame);
            coalescer.commit(len);
            packets.push(frame);
        }
        let frames: Vec<_> = coalescer.frames().map(|frame| frame.to_vec()).collect();
        assert_eq!(frames, packets, "seed {seed}");
    }
}
