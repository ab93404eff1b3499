use super::*;
use crate::checksum::{pseudo, transport_valid};
use crate::emit::udp_datagram;
use crate::ip::protocol;
use crate::testing::{Random, addr};

const TCP: VirtioNetHdr = VirtioNetHdr {
    flags: NEEDS_CSUM,
    gso_type: 0x81,
    hdr_len: 54,
    gso_size: 1448,
    csum_start: 20,
    csum_offset: 16,
};

#[test]
fn layout() {
    assert_eq!(TCP.encode_le(), [1, 0x81, 54, 0, 0xa8, 5, 20, 0, 16, 0]);
    assert_eq!(VirtioNetHdr::decode_le(&TCP.encode_le()), TCP);
    assert_eq!(VirtioNetHdr::decode(&TCP.encode()), TCP);
    if cfg!(target_endian = "little") {
        assert_eq!(TCP.encode(), TCP.encode_le());
    }
    assert_eq!(VirtioNetHdr::default().encode(), [0; 10]);
}

#[test]
fn gso_types() {
    for raw in 0..=255 {
        let gso = Gso::from_raw(raw);
        assert_eq!(gso.is_some(), [0, 1, 0x81, 4, 0x84, 5].contains(&raw), "{raw}");
        if let Some(gso) = gso {
            assert_eq!(gso.to_raw(), raw);
        }
        let header = VirtioNetHdr { gso_type: raw, gso_size: 1, ..VirtioNetHdr::default() };
        assert_eq!(header.check(100).is_ok(), gso.is_some());
    }
}

#[test]
fn check_compares_with_the_packet() {
    assert_eq!(TCP.check(54), Ok(()));
    // Headers longer than the packet.
    assert!(TCP.check(53).is_err());
    // The checksum ends at byte 38.
    let plain = VirtioNetHdr { gso_type: 0, ..TCP };
    assert_eq!(plain.check(38), Ok(()));
    assert!(plain.check(37).is_err());
    let far = VirtioNetHdr { csum_start: 0xffff, csum_offset: 0xffff, ..plain };
    assert!(far.check(65_535).is_err());
    assert!(VirtioNetHdr { flags: 0, ..far }.check(0).is_ok());
    assert!(VirtioNetHdr { gso_size: 0, ..TCP }.check(1000).is_err());
}

#[test]
fn completes_what_the_device_would() {
    let mut random = Random(0x5eed_0501);
    for round in 0..5_000 {
        let v6 = round % 2 == 0;
        let (src, dst) = (random.endpoint(v6), random.endpoint(v6));
        let len = random.below(300);
        let payload = random.bytes(len);
        let mut complete = Vec::new();
        udp_datagram(&mut complete, src, dst, &payload).unwrap();
        let start = if v6 { 40u16 } else { 20 };
        let at = usize::from(start) + 6;
        let mut packet = complete.clone();
        let sum = pseudo(src.ip(), dst.ip(), protocol::UDP, packet.len() as u32 - u32::from(start));
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let header = partial_checksum(start, true);
        complete_checksum(&header, &mut packet).unwrap();
        assert_eq!(packet, complete, "round {round}");
        assert!(transport_valid(src.ip(), dst.ip(), protocol::UDP, &packet[start.into()..]));
    }
}

#[test]
fn leaves_alone_what_needs_nothing_or_is_wrong() {
    let mut packet = Vec::new();
    udp_datagram(&mut packet, addr("192.0.2.1:1"), addr("192.0.2.2:2"), b"x").unwrap();
    let before = packet.clone();
    complete_checksum(&VirtioNetHdr::default(), &mut packet).unwrap();
    assert_eq!(packet, before);
    let wrong = VirtioNetHdr { csum_offset: 9, ..partial_checksum(20, true) };
    assert!(complete_checksum(&wrong, &mut packet).is_err());
    assert_eq!(packet, before);
}
