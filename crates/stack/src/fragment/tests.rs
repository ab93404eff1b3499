use std::collections::HashMap;

use oneway_wire::emit;

use super::*;

/// xorshift64*: the same packets on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

fn datagram(v6: bool, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = if v6 {
        ("[2001:db8::1]:5000", "[2001:db8:2::53]:53")
    } else {
        ("192.0.2.1:5000", "198.51.100.53:53")
    };
    let mut packet = Vec::new();
    emit::udp_datagram(&mut packet, src.parse().unwrap(), dst.parse().unwrap(), payload).unwrap();
    packet
}

/// A fragment of the given bytes; `v6` as in RFC 8200, otherwise IPv4 with a header checksum.
fn fragment(v6: bool, id: u16, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    if v6 {
        let header = emit::IpHeader::new(
            "2001:db8::1".parse().unwrap(),
            "2001:db8:2::53".parse().unwrap(),
            protocol::FRAGMENT,
        );
        emit::ip_header(&mut packet, &header, data.len() + 8).unwrap();
        packet.extend_from_slice(&[protocol::UDP, 0]);
        packet.extend_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
        packet.extend_from_slice(&u32::from(id).to_be_bytes());
    } else {
        let header = emit::IpHeader {
            identification: id,
            dont_fragment: false,
            ..emit::IpHeader::new(
                "192.0.2.1".parse().unwrap(),
                "198.51.100.53".parse().unwrap(),
                protocol::UDP,
            )
        };
        emit::ip_header(&mut packet, &header, data.len()).unwrap();
        let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet[10..12].copy_from_slice(&[0, 0]);
        let ck = !checksum::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&ck.to_be_bytes());
    }
    packet.extend_from_slice(data);
    packet
}

fn whole(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Whole(packet) => packet,
        other => panic!("not whole: {other:?}"),
    }
}

/// Equal but for what fragmentation may change in IPv4: the DF bit is clear, so nothing.
fn assert_same(got: &[u8], sent: &[u8]) {
    assert_eq!(got, sent);
    let ip = IpView::parse(got).unwrap();
    assert!(ip.fragment().is_none() && ip.fragment_header().is_none());
    assert!(ip.header_checksum_valid());
    let oneway_wire::ip::Transport::Udp(udp) = ip.transport().unwrap() else { panic!("not UDP") };
    assert!(udp.checksum_valid(ip.src(), ip.dst()));
}

#[test]
fn random_cuts_orders_and_duplicates_come_out_whole() {
    let now = Instant::now();
    let seed = 0x5eed_0001;
    let mut random = Random(seed);
    let mut reassembler = Reassembler::default();
    for round in 0..400 {
        let v6 = round % 2 == 0;
        let len = 1 + random.below(if round % 20 == 0 { 65_000 } else { 9_000 });
        let sent = datagram(v6, &random.bytes(len));
        let header = if v6 { 40 } else { 20 };
        let payload = &sent[header..];
        let id = u16::from_be_bytes([sent[4], sent[5]]);
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < payload.len() {
            let end = (at + 8 * (1 + random.below(400))).min(payload.len());
            pieces.push(fragment(v6, id, at, end < payload.len(), &payload[at..end]));
            at = end;
        }
        if pieces.len() == 1 && !v6 {
            continue;
        }
        random.shuffle(&mut pieces);
        let mut result = None;
        for piece in 0..pieces.len() {
            assert!(result.is_none(), "seed {seed} round {round}: whole before its last fragment");
            match reassembler.push(now, &pieces[piece]) {
                Outcome::Whole(packet) => result = Some(packet),
                Outcome::Pending => {
                    let again = random.below(piece + 1);
                    assert_eq!(
                        reassembler.push(now, &pieces[again]),
                        Outcome::Dropped(Reason::Duplicate),
                        "seed {seed} round {round}"
                    );
                }
                Outcome::Dropped(reason) => panic!("seed {seed} round {round}: {reason:?}"),
            }
        }
        assert_same(&result.unwrap_or_else(|| panic!("seed {seed} round {round}: not whole")), &sent);
        assert_eq!((reassembler.memory(), reassembler.len()), (0, 0), "seed {seed} round {round}");
    }
    assert!(reassembler.sources.is_empty() && reassembler.deadlines.is_empty());
}

#[test]
fn the_emitters_fragments_come_out_whole() {
    let now = Instant::now();
    let mut random = Random(0x5eed_0002);
    let mut reassembler = Reassembler::default();
    for mtu in [1280, 1500, 576, 9000, 65535] {
        for len in [1, 1472, 1473, 4000, 65_000] {
            for v6 in [false, true] {
                let sent = datagram(v6, &random.bytes(len));
                let pieces = emit::fragments(&sent, mtu, 7).unwrap();
                assert!(pieces.iter().all(|piece| piece.len() <= mtu));
                let (last, others) = pieces.split_last().unwrap();
                for piece in others {
                    assert_eq!(reassembler.push(now, piece), Outcome::Pending);
                }
                assert_same(&whole(reassembler.push(now, last)), &sent);
            }
        }
    }
}

/// The slow and obvious one: a byte per slot, and the datagram dead once a byte or the end is contradicted.
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
        let past_known_end = self.end.is_some_and(|known| end > known || (!more && known != end));
        let past_new_end = !more && self.bytes.keys().any(|&at| at >= end);
        if overlap || past_known_end || past_new_end || (!more && self.end.is_some()) {
            self.dead = true;
            return None;
        }
        self.pieces.push(piece);
        self.bytes.extend(data.iter().enumerate().map(|(index, &byte)| (offset + index, byte)));
        if !more {
            self.end = Some(end);
        }
        let end = self.end?;
        (0..end).map(|at| self.bytes.get(&at).copied()).collect()
    }
}

#[test]
fn agrees_with_a_slow_reference_on_hostile_fragments() {
    let now = Instant::now();
    let seed = 0x5eed_0003;
    let mut random = Random(seed);
    let (mut completed, mut died) = (0, 0);
    for round in 0..6_000u32 {
        let v6 = round % 2 == 0;
        let mut reassembler = Reassembler::default();
        let mut reference = Reference::default();
        let slots = 2 + random.below(6);
        let original = random.bytes(slots * 8);
        for step in 0..slots * 3 {
            // Mostly along a grid, so that many rounds complete; sometimes anything.
            let (offset, len) = if random.below(20) == 0 {
                (8 * random.below(slots + 1), 1 + random.below(24))
            } else {
                (8 * random.below(slots), 8)
            };
            let more = offset + len < slots * 8 && random.below(40) != 0;
            let len = if more { len.next_multiple_of(8) } else { len };
            let mut data: Vec<u8> =
                (offset..offset + len).map(|at| original.get(at).copied().unwrap_or(0)).collect();
            if random.below(60) == 0 {
                data[0] ^= 1;
            }
            if offset == 0 && !more {
                continue;
            }
            let expected = reference.push(offset, more, &data);
            let outcome = reassembler.push(now, &fragment(v6, 9, offset, more, &data));
            let context = format!("seed {seed} round {round} step {step} at {offset} {more} {outcome:?}");
            match (outcome, expected) {
                (Outcome::Whole(packet), Some(payload)) => {
                    assert_eq!(IpView::parse(&packet).unwrap().payload(), payload, "{context}");
                    completed += 1;
                    break;
                }
                (Outcome::Whole(_), None) | (_, Some(_)) => panic!("{context}"),
                (Outcome::Dropped(Reason::Overlap | Reason::Abandoned), None) => {
                    assert!(reference.dead, "{context}");
                }
                (_, None) => assert!(!reference.dead, "{context}"),
            }
        }
        died += u32::from(reference.dead);
        assert!(reassembler.memory() <= DATAGRAM_COST || !reference.dead);
    }
    assert!(completed > 500 && died > 500, "{completed} completed, {died} died: the test tests little");
}

#[test]
fn what_is_no_fragment_passes() {
    let now = Instant::now();
    let mut reassembler = Reassembler::default();
    let mut packet = datagram(false, b"whole");
    let sent = packet.clone();
    packet.extend_from_slice(b"padding");
    assert_eq!(whole(reassembler.push(now, &packet)), sent);
    assert_eq!(
        reassembler.push(now, &[0x45, 0]),
        Outcome::Dropped(Reason::Malformed(IpView::parse(&[0x45, 0]).unwrap_err()))
    );
}

#[test]
fn an_atomic_fragment_is_whole_by_itself() {
    let now = Instant::now();
    let mut reassembler = Reassembler::default();
    let sent = datagram(true, b"alone in its fragment");
    // Another datagram with the same identification is under way and must not notice (RFC 6946 4).
    assert_eq!(reassembler.push(now, &fragment(true, 5, 8, true, &[1; 8])), Outcome::Pending);
    assert_same(&whole(reassembler.push(now, &fragment(true, 5, 0, false, &sent[40..]))), &sent);
    assert_eq!(reassembler.len(), 1);
}

#[test]
fn extension_headers_before_the_fragment_header_stay_and_those_behind_come_back() {
    let now = Instant::now();
    let mut reassembler = Reassembler::default();
    let plain = datagram(true, &[7; 32]);
    let destination_options = [protocol::UDP, 0, 1, 4, 0, 0, 0, 0];
    let mut fragmentable = destination_options.to_vec();
    fragmentable.extend_from_slice(&plain[40..]);
    let build = |offset: u16, more: u16, data: &[u8]| {
        let mut packet = plain[..40].to_vec();
        packet[6] = protocol::HOP_BY_HOP;
        packet[4..6].copy_from_slice(&(16 + data.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[protocol::FRAGMENT, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend_from_slice(&[protocol::DESTINATION_OPTIONS, 0]);
        packet.extend_from_slice(&(offset | more).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 1]);
        packet.extend_from_slice(data);
        packet
    };
    assert_eq!(reassembler.push(now, &build(24, 0, &fragmentable[24..])), Outcome::Pending);
    let packet = whole(reassembler.push(now, &build(0, 1, &fragmentable[..24])));
    assert_eq!(packet[40], protocol::DESTINATION_OPTIONS);
    assert_eq!(packet[48..], fragmentable);
    let ip = IpView::parse(&packet).unwrap();
    assert_eq!((ip.protocol(), ip.header_len(), ip.total_len()), (protocol::UDP, 56, packet.len()));
}

#[test]
fn ipv4_options_and_flags_of_the_first_fragment_count() {
    let now = Instant::now();
    let mut reassembler = Reassembler::default();
    let mut first = fragment(false, 3, 0, true, &[1; 16]);
    // A router alert option, and the reserved and DF bits, which a fragment should not have.
    first.splice(20..20, [0x94, 4, 0, 0]);
    first[0] = 0x46;
    first[2..4].copy_from_slice(&40u16.to_be_bytes());
    first[6] |= 0xc0;
    assert_eq!(reassembler.push(now, &fragment(false, 3, 16, false, &[2; 5])), Outcome::Pending);
    let packet = whole(reassembler.push(now, &first));
    let ip = IpView::parse(&packet).unwrap();
    assert_eq!((ip.header_len(), ip.total_len()), (24, 45));
    assert_eq!(packet[6..8], [0, 0]);
    assert!(ip.header_checksum_valid());
}

#[test]
fn bad_lengths_are_refused() {
    let now = Instant::now();
    for v6 in [false, true] {
        let mut reassembler = Reassembler::default();
        let mut push = |packet: &[u8]| reassembler.push(now, packet);
        assert_eq!(push(&fragment(v6, 1, 8, true, &[0; 7])), Outcome::Dropped(Reason::Length));
        assert_eq!(push(&fragment(v6, 1, 8, true, &[])), Outcome::Dropped(Reason::Length));
        assert_eq!(push(&fragment(v6, 1, 8, false, &[])), Outcome::Dropped(Reason::Length));
        assert_eq!(push(&fragment(v6, 1, 65_528, false, &[0; 8])), Outcome::Dropped(Reason::TooLong));
        assert!(reassembler.is_empty());
    }
    let mut reassembler = Reassembler::default();
    // IPv4 counts its header, IPv6 does not.
    assert_eq!(
        reassembler.push(now, &fragment(false, 1, 65_528, false, &[0; 1])),
        Outcome::Dropped(Reason::TooLong)
    );
    assert_eq!(reassembler.push(now, &fragment(true, 1, 65_528, false, &[0; 7])), Outcome::Pending);
    // UDP needs 8 bytes of header, TCP 20.
    assert_eq!(reassembler.push(now, &fragment(true, 2, 0, true, &[0; 8])), Outcome::Pending);
    let mut tcp = fragment(true, 2, 0, true, &[0; 16]);
    tcp[40] = protocol::TCP;
    assert_eq!(reassembler.push(now, &tcp), Outcome::Dropped(Reason::HeaderChain));
}

#[test]
fn an_overlap_kills_the_datagram_until_its_deadline() {
    let now = Instant::now();
    for v6 in [false, true] {
        let mut reassembler = Reassembler::default();
        assert_eq!(reassembler.push(now, &fragment(v6, 1, 0, true, &[1; 16])), Outcome::Pending);
        assert_eq!(
            reassembler.push(now, &fragment(v6, 1, 8, false, &[1; 16])),
            Outcome::Dropped(Reason::Overlap)
        );
        assert_eq!(reassembler.memory(), DATAGRAM_COST);
        assert_eq!(
            reassembler.push(now, &fragment(v6, 1, 16, false, &[1; 16])),
            Outcome::Dropped(Reason::Abandoned)
        );
        // Another identification is another datagram.
        assert_eq!(reassembler.push(now, &fragment(v6, 2, 0, true, &[1; 16])), Outcome::Pending);
        let later = now + Duration::from_secs(if v6 { 60 } else { 30 });
        assert_eq!(reassembler.next_expiry(), Some(later));
        assert_eq!(reassembler.push(later, &fragment(v6, 1, 0, true, &[1; 16])), Outcome::Pending);
        assert_eq!(reassembler.push(later, &fragment(v6, 2, 16, true, &[1; 16])), Outcome::Pending);
        assert_eq!(reassembler.len(), 2);
    }
}

#[test]
fn the_rest_of_what_had_no_room_says_so_too() {
    let now = Instant::now();
    let roomy = Limits::default();
    for (limits, reason) in [
        (Limits { total: 1 << 10, ..roomy }, Reason::Full),
        (Limits { per_source: 1 << 10, ..roomy }, Reason::SourceFull),
    ] {
        let mut reassembler = Reassembler::new(limits);
        assert_eq!(reassembler.push(now, &fragment(false, 1, 0, true, &[1; 16])), Outcome::Pending);
        for offset in [16, 1016] {
            let outcome = reassembler.push(now, &fragment(false, 1, offset, true, &[1; 1000]));
            assert_eq!(outcome, Outcome::Dropped(reason), "{offset}");
        }
        assert!(reason.is_full() && !Reason::Abandoned.is_full());
    }
}

#[test]
fn the_timeout_counts_from_the_first_fragment() {
    let now = Instant::now();
    let mut reassembler = Reassembler::default();
    let at = |seconds| now + Duration::from_secs(seconds);
    assert_eq!(reassembler.push(at(0), &fragment(false, 1, 0, true, &[1; 16])), Outcome::Pending);
    assert_eq!(reassembler.push(at(5), &fragment(true, 1, 0, true, &[1; 16])), Outcome::Pending);
    assert_eq!(reassembler.push(at(29), &fragment(false, 1, 16, true, &[1; 16])), Outcome::Pending);
    assert_eq!((reassembler.expire(at(29)), reassembler.next_expiry()), (0, Some(at(30))));
    assert_eq!((reassembler.expire(at(30)), reassembler.next_expiry()), (1, Some(at(65))));
    assert_eq!((reassembler.expire(at(65)), reassembler.next_expiry()), (1, None));
    assert_eq!((reassembler.memory(), reassembler.sources.len()), (0, 0));
}

#[test]
fn congestion_seen_by_a_fragment_is_told() {
    let now = Instant::now();
    let cases =
        [(0b10, 0b11, Some(0b11)), (0b01, 0b11, Some(0b11)), (0b10, 0b10, Some(0b10)), (0b00, 0b11, None)];
    for v6 in [false, true] {
        for (first, last, expected) in cases {
            let mut reassembler = Reassembler::default();
            let mut pieces = [fragment(v6, 1, 0, true, &[1; 16]), fragment(v6, 1, 16, false, &[1; 16])];
            for (piece, ecn) in pieces.iter_mut().zip([first, last]) {
                piece[1] |= if v6 { ecn << 4 } else { ecn };
            }
            assert_eq!(reassembler.push(now, &pieces[0]), Outcome::Pending);
            match (reassembler.push(now, &pieces[1]), expected) {
                (Outcome::Whole(packet), Some(ecn)) => {
                    let ip = IpView::parse(&packet).unwrap();
                    assert_eq!(ip.traffic_class() & ECN_MASK, ecn);
                    assert!(ip.header_checksum_valid());
                }
                (Outcome::Dropped(Reason::Ecn), None) => {}
                (outcome, _) => panic!("{first:b} {last:b}: {outcome:?}"),
            }
        }
    }
}

#[test]
fn a_flood_stays_within_the_limits_and_spares_what_is_under_way() {
    let now = Instant::now();
    let limits = Limits { total: 64 << 10, per_source: 16 << 10, ..Limits::default() };
    let mut reassembler = Reassembler::new(limits);
    let sent = datagram(false, &[9; 100]);
    let id = u16::from_be_bytes([sent[4], sent[5]]);
    assert_eq!(reassembler.push(now, &fragment(false, id, 0, true, &sent[20..60])), Outcome::Pending);

    let mut random = Random(0x5eed_0004);
    let (mut full, mut source_full) = (0, 0);
    for _ in 0..20_000 {
        let len = 8 * (1 + random.below(180));
        let offset = 8 * random.below(4_000);
        let mut packet = fragment(true, random.below(5_000) as u16, offset, true, &random.bytes(len));
        packet[23] = 2 + random.below(6) as u8;
        match reassembler.push(now, &packet) {
            Outcome::Dropped(Reason::Full) => full += 1,
            Outcome::Dropped(Reason::SourceFull) => source_full += 1,
            _ => {}
        }
        assert!(reassembler.memory() <= limits.total);
        assert!(reassembler.sources.values().all(|&bytes| bytes <= limits.per_source));
    }
    assert!(full > 0 && source_full > 0, "{full} {source_full}: the flood was none");
    let charged: usize = reassembler.datagrams.values().map(|datagram| datagram.charged).sum();
    assert_eq!((charged, reassembler.sources.values().sum()), (reassembler.memory(), reassembler.memory()));

    // The flood ends; the old one lives, and completes before anything expires if there is room for its rest.
    reassembler.limits.total += 1 << 10;
    assert_same(&whole(reassembler.push(now, &fragment(false, id, 40, false, &sent[60..]))), &sent);
    reassembler.expire(now + Duration::from_secs(60));
    assert_eq!((reassembler.memory(), reassembler.len(), reassembler.sources.len()), (0, 0, 0));
}
