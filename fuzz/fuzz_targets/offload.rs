//! Superpackets cut and packets joined: nothing is lost, made up or changed on the way, whatever the bytes.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use oneway_stack::offload::{Coalescer, segment};
use oneway_wire::emit::{TcpHeader, tcp_segment, udp_datagram};
use oneway_wire::ip::{IpView, Transport};
use oneway_wire::tcp::Flags;
use oneway_wire::virtio::{Gso, HEADER_LEN, VirtioNetHdr};

fn pieces(frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (header, packet) = frame.split_first_chunk::<HEADER_LEN>()?;
    let (mut buf, mut pieces) = (Vec::new(), Vec::new());
    let result =
        segment(&VirtioNetHdr::decode(header), &[packet], &mut buf, |piece| pieces.push(piece.to_vec()));
    assert_eq!(result.is_err(), pieces.is_empty());
    result.ok().map(|()| pieces)
}

fn data(packet: &[u8]) -> &[u8] {
    let ip = IpView::parse(packet).expect("a packet");
    assert!(ip.header_checksum_valid() && ip.total_len() == packet.len());
    match ip.transport().expect("a segment or a datagram") {
        Transport::Tcp(tcp) => {
            assert!(tcp.checksum_valid(ip.src(), ip.dst()));
            tcp.payload()
        }
        Transport::Udp(udp) => {
            assert!(udp.checksum_valid(ip.src(), ip.dst()));
            udp.payload()
        }
        _ => panic!("neither is ever cut"),
    }
}

/// A frame as it is.
fn cut(frame: &[u8]) {
    let Some(pieces) = pieces(frame) else { return };
    let header = VirtioNetHdr::decode(frame.first_chunk().expect("it was cut"));
    if header.gso() == Ok(Gso::None) {
        assert_eq!(pieces.len(), 1);
        return;
    }
    let all: Vec<u8> = pieces.iter().flat_map(|piece| data(piece).to_vec()).collect();
    assert!(frame.ends_with(&all));
    let (last, others) = pieces.split_last().expect("there is one at least");
    assert!(others.iter().all(|piece| data(piece).len() == usize::from(header.gso_size)));
    assert!(data(last).len() <= usize::from(header.gso_size));
}

/// Packets, and then what became of them.
fn join(packets: &[Vec<u8>]) {
    let mut coalescer = Coalescer::new(packets.len());
    for packet in packets {
        let room = coalescer.room().expect("one place for each");
        room[..HEADER_LEN].fill(0);
        room[HEADER_LEN..HEADER_LEN + packet.len()].copy_from_slice(packet);
        coalescer.commit(HEADER_LEN + packet.len());
    }
    let mut left: Vec<Option<&Vec<u8>>> = packets.iter().map(Some).collect();
    for frame in coalescer.frames() {
        for piece in pieces(frame).expect("what was joined can be cut") {
            let same = |packet: &Option<&Vec<u8>>| packet.is_some_and(|packet| equal(packet, &piece));
            let found = left.iter_mut().find(|packet| same(packet)).expect("a packet that was there before");
            *found = None;
        }
    }
    assert!(left.iter().all(Option::is_none), "none is lost");
}

/// The same but for the identification of a packet that must not be fragmented, and its checksum.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let atomic = a.len() >= 20 && a[0] >> 4 == 4 && a[6] & 0x40 != 0;
    a == b || atomic && a.len() == b.len() && (&a[..4], &a[6..10], &a[12..]) == (&b[..4], &b[6..10], &b[12..])
}

/// Each step: whose packet it is and of what kind, its length, its flags, and what is broken.
fn scripted(script: &[u8]) -> Vec<Vec<u8>> {
    let mut next = [0u32; 4];
    let step = |&[kind, len, flags, broken]: &[u8; 4]| {
        let (which, v6, tcp) = (usize::from(kind % 4), kind & 4 != 0, kind & 8 == 0);
        let end = |host: u8| -> SocketAddr {
            let ip = if v6 {
                std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()])
            } else {
                [192, 0, 2, host].into()
            };
            SocketAddr::new(ip, which as u16)
        };
        let bytes = vec![kind; usize::from(len) * (1 + usize::from(kind >> 6) * 85)];
        let mut packet = Vec::new();
        if tcp {
            let flags = if flags < 128 { Flags::ACK } else { Flags(flags) };
            let header = TcpHeader { seq: next[which], flags, ..TcpHeader::default() };
            next[which] = next[which].wrapping_add(bytes.len() as u32);
            tcp_segment(&mut packet, end(1), end(2), &header, &bytes).expect("it fits");
        } else {
            udp_datagram(&mut packet, end(1), end(2), &bytes).expect("it fits");
        }
        if broken >= 128 {
            let at = usize::from(broken - 128) % packet.len();
            packet[at] ^= flags;
        }
        packet
    };
    script.as_chunks::<4>().0.iter().map(step).collect()
}

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((0, rest)) => cut(rest),
        Some((1, rest)) => join(&scripted(rest)),
        Some((_, rest)) => {
            let mut packets = Vec::new();
            let mut rest = rest;
            while let Some((&len, after)) = rest.split_first() {
                let (packet, after) = after.split_at(usize::from(len).min(after.len()));
                packets.push(packet.to_vec());
                rest = after;
            }
            join(&packets);
        }
        None => {}
    }
});
