//! The reassembler, with packets as they are and with fragments made from a script; the latter against a slow
//! reference.
#![no_main]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use oneway_stack::fragment::{Limits, Outcome, Reassembler};
use oneway_wire::emit::{IpHeader, ip_header};
use oneway_wire::ip::{IpView, protocol};

const LIMITS: Limits = Limits {
    total: 8 << 10,
    per_source: 6 << 10,
    timeout_v4: Duration::from_secs(30),
    timeout_v6: Duration::from_secs(60),
};

/// Bytes by position, dead once anything is contradicted.
#[derive(Default)]
struct Reference {
    bytes: HashMap<usize, u8>,
    pieces: Vec<(usize, bool, Vec<u8>)>,
    end: Option<usize>,
    dead: bool,
}

impl Reference {
    fn push(&mut self, offset: usize, more: bool, data: &[u8]) -> Option<Vec<u8>> {
        let piece = (offset, more, data.to_vec());
        if self.dead || self.pieces.contains(&piece) {
            return None;
        }
        let end = offset + data.len();
        let overlap = (offset..end).any(|at| self.bytes.contains_key(&at));
        let past_known_end = self.end.is_some_and(|known| end > known || !more);
        let past_new_end = !more && self.bytes.keys().any(|&at| at >= end);
        if overlap || past_known_end || past_new_end {
            self.dead = true;
            return None;
        }
        self.pieces.push(piece);
        self.bytes.extend(data.iter().enumerate().map(|(index, &byte)| (offset + index, byte)));
        if !more {
            self.end = Some(end);
        }
        (0..self.end?).map(|at| self.bytes.get(&at).copied()).collect()
    }
}

fn fragment(v6: bool, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let (src, dst) = if v6 {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into())
    } else {
        ([192, 0, 2, 1].into(), [192, 0, 2, 2].into())
    };
    let mut packet = Vec::new();
    if v6 {
        ip_header(&mut packet, &IpHeader::new(src, dst, protocol::FRAGMENT), data.len() + 8).expect("short");
        packet.extend_from_slice(&[253, 0]);
        packet.extend_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 1]);
    } else {
        let header = IpHeader { dont_fragment: false, ..IpHeader::new(src, dst, 253) };
        ip_header(&mut packet, &header, data.len()).expect("short");
        packet[6..8].copy_from_slice(&((offset as u16) >> 3 | if more { 0x2000 } else { 0 }).to_be_bytes());
    }
    packet.extend_from_slice(data);
    packet
}

fn assert_whole(packet: &[u8]) -> IpView<'_> {
    let ip = IpView::parse(packet).expect("a whole packet");
    assert!(ip.fragment().is_none() && ip.fragment_header().is_none());
    assert_eq!(ip.total_len(), packet.len());
    ip
}

/// Each step: offset in units of 8 bytes, length in the same with the last-fragment bit, a fill byte.
fn scripted(script: &[u8], v6: bool) {
    let now = Instant::now();
    let mut reassembler = Reassembler::default();
    let mut reference = Reference::default();
    for step in script.as_chunks::<3>().0 {
        let offset = usize::from(step[0] % 32) * 8;
        let more = step[1] & 0x80 == 0;
        let len = if more { (1 + usize::from(step[1] % 8)) * 8 } else { 1 + usize::from(step[1] % 64) };
        if offset == 0 && !more {
            continue;
        }
        let data = vec![step[2] % 4; len];
        let expected = reference.push(offset, more, &data);
        match reassembler.push(now, &fragment(v6, offset, more, &data)) {
            Outcome::Whole(packet) => {
                let ip = assert_whole(&packet);
                assert!(ip.header_checksum_valid());
                assert_eq!(Some(ip.payload()), expected.as_deref());
                assert_eq!((reassembler.memory(), reassembler.len()), (0, 0));
                reference = Reference::default();
            }
            _ => assert!(expected.is_none()),
        }
    }
}

/// Packets as they are, each behind a length byte and seconds to let pass.
fn raw(mut data: &[u8]) {
    let mut now = Instant::now();
    let mut reassembler = Reassembler::new(LIMITS);
    while let Some((&[len, seconds], rest)) = data.split_first_chunk::<2>() {
        let (packet, rest) = rest.split_at(usize::from(len).min(rest.len()));
        data = rest;
        now += Duration::from_secs((seconds % 64).into());
        if let Outcome::Whole(packet) = reassembler.push(now, packet) {
            assert_whole(&packet);
        }
        assert!(reassembler.memory() <= LIMITS.total);
        assert_eq!(reassembler.is_empty(), reassembler.memory() == 0);
        assert!(reassembler.next_expiry().is_none_or(|at| at > now));
    }
    reassembler.expire(now + Duration::from_secs(60));
    assert!(reassembler.is_empty() && reassembler.memory() == 0);
}

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((0, rest)) => scripted(rest, false),
        Some((1, rest)) => scripted(rest, true),
        Some((_, rest)) => raw(rest),
        None => {}
    }
});
