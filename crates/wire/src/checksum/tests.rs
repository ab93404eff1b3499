use super::*;
use crate::testing::{Random, hex};

/// RFC 1071 4.1, word by word.
fn slow_sum(data: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in data.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn rfc_1071_example() {
    assert_eq!(sum(&hex("0001 f203 f4f5 f6f7")), 0xddf2);
    assert_eq!(sum(&[]), 0);
    assert_eq!(sum(&[0xab]), 0xab00);
}

#[test]
fn rfc_1624_example() {
    // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285, sums to 0x0000 and not 0xffff.
    assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn sums_like_the_slow_one_at_every_length_and_alignment() {
    let mut random = Random(0x5eed_0101);
    let data = random.bytes(400);
    for start in 0..9 {
        for end in start..data.len() {
            assert_eq!(sum(&data[start..end]), slow_sum(&data[start..end]), "{start}..{end}");
        }
    }
    for _ in 0..200 {
        let len = random.below(70_000);
        let data = random.bytes(len);
        assert_eq!(sum(&data), slow_sum(&data));
    }
    for byte in [0x00, 0xff, 0x80, 0x7f] {
        let data = vec![byte; 65_535];
        assert_eq!(sum(&data), slow_sum(&data));
    }
}

#[test]
fn the_accumulator_sums_pieces() {
    let mut random = Random(0x5eed_0102);
    for _ in 0..200 {
        let data = random.bytes(500);
        let cut = 2 * random.below(250);
        let word = random.word();
        let pieces = Checksum::new().bytes(&data[..cut]).word(word).bytes(&data[cut..]);
        let mut joined = data.clone();
        joined.extend_from_slice(&word.to_be_bytes());
        assert_eq!(pieces.sum(), slow_sum(&joined));
        assert_eq!(pieces.finish(), !slow_sum(&joined));
        assert_eq!(combine(sum(&data[..cut]), sum(&data[cut..])), slow_sum(&data));
    }
}

#[test]
fn pseudo_header_is_the_one_of_the_rfcs() {
    let mut random = Random(0x5eed_0103);
    for v6 in [false, true] {
        for _ in 0..200 {
            let (src, dst) = (random.ip(v6), random.ip(v6));
            let (proto, len) = (1 + random.below(255) as u8, random.below(65_536) as u32);
            let mut bytes = Vec::new();
            match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    bytes.extend_from_slice(&src.octets());
                    bytes.extend_from_slice(&dst.octets());
                    bytes.extend_from_slice(&[0, proto]);
                    bytes.extend_from_slice(&(len as u16).to_be_bytes());
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    bytes.extend_from_slice(&src.octets());
                    bytes.extend_from_slice(&dst.octets());
                    bytes.extend_from_slice(&len.to_be_bytes());
                    bytes.extend_from_slice(&[0, 0, 0, proto]);
                }
                _ => unreachable!("one family"),
            }
            assert_eq!(pseudo(src, dst, proto, len), slow_sum(&bytes));
            assert_eq!(Checksum::new().pseudo(src, dst, proto, len).sum(), slow_sum(&bytes));
        }
    }
}

#[test]
fn updates_agree_with_full_computation() {
    let mut random = Random(0x5eed_0104);
    for round in 0..20_000 {
        let mut data = random.bytes(40);
        // No packet is all zeros; that is what makes an update exact.
        data[0] |= 0x45;
        let before = !sum(&data);
        let at = 2 + 2 * random.below(19);
        let old = u16::from_be_bytes([data[at], data[at + 1]]);
        let new = random.word();
        data[at..at + 2].copy_from_slice(&new.to_be_bytes());
        assert_eq!(update16(before, old, new), !sum(&data), "round {round}: {old:04x} to {new:04x}");
        assert_eq!(partial_update16(!before, old, new), sum(&data), "round {round}");
    }
}

#[test]
fn address_updates_agree_with_full_computation() {
    let mut random = Random(0x5eed_0105);
    for v6 in [false, true] {
        for round in 0..5_000 {
            let (src, dst, new) = (random.ip(v6), random.ip(v6), random.ip(v6));
            let segment = random.bytes(60);
            let context = format!("round {round}: {src} to {new}");
            let full = transport(src, dst, 6, &segment);
            assert_eq!(update_addr(full, src, new), transport(new, dst, 6, &segment), "{context}");
            let partial = pseudo(src, dst, 6, 60);
            assert_eq!(partial_update_addr(partial, src, new), pseudo(new, dst, 6, 60), "{context}");
        }
    }
}

#[test]
fn zero_is_no_udp_checksum() {
    assert_eq!(udp_field(0), 0xffff);
    assert_eq!(udp_field(1), 1);
}
