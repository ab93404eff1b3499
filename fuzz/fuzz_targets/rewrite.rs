//! New addresses and ports: what may change changes, and a checksum stays as right or wrong as it was.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use oneway_wire::checksum::{combine, pseudo, sum};
use oneway_wire::ip::IpView;
use oneway_wire::rewrite::{Offsets, rewrite};

fn endpoint(bytes: &[u8; 18], v6: bool) -> SocketAddr {
    let ip = if v6 {
        IpAddr::from(*bytes.first_chunk::<16>().expect("18 bytes"))
    } else {
        IpAddr::from(*bytes.first_chunk::<4>().expect("18 bytes"))
    };
    SocketAddr::new(ip, u16::from_be_bytes([bytes[16], bytes[17]]))
}

/// Zero and 0xffff are the same number.
fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

/// The sum a receiver makes, less what a partial checksum leaves to the device.
fn residue(packet: &[u8], partial: bool) -> u16 {
    let ip = IpView::parse(packet).expect("it was parsed before");
    let pseudo = pseudo(ip.src(), ip.dst(), ip.protocol(), 0);
    if partial {
        let at = Offsets::of(&ip).expect("it was parsed before").checksum_at();
        combine(!pseudo, u16::from_be_bytes([packet[at], packet[at + 1]]))
    } else {
        combine(pseudo, sum(ip.payload()))
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((flags, data)) = data.split_first() else { return };
    let Some((src, data)) = data.split_first_chunk::<18>() else { return };
    let Some((dst, packet)) = data.split_first_chunk::<18>() else { return };
    let partial = flags & 1 != 0;
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6) ^ (flags & 2 != 0);
    let (src, dst) = (endpoint(src, v6), endpoint(dst, v6 ^ (flags & 4 != 0)));
    let mut new = packet.to_vec();
    if rewrite(&mut new, src, dst, partial).is_err() {
        assert_eq!(new, packet);
        return;
    }
    let (before, after) =
        (IpView::parse(packet).expect("rewritten"), IpView::parse(&new).expect("rewritten"));
    let offsets = Offsets::of(&after).expect("rewritten");
    assert_eq!(offsets, Offsets::of(&before).expect("rewritten"));
    assert_eq!(offsets.endpoints(&new), Ok((src, dst)));
    let header = |packet: &[u8]| sum(&packet[..after.header_len()]);
    if src.is_ipv4() {
        assert!(same(header(packet), header(&new)));
    }
    let field = |packet: &[u8]| {
        u16::from_be_bytes([packet[offsets.checksum_at()], packet[offsets.checksum_at() + 1]])
    };
    if offsets.is_udp() && !partial && field(packet) == 0 {
        assert_eq!(field(&new), 0);
    } else {
        assert!(same(residue(packet, partial), residue(&new, partial)));
        assert!(!offsets.is_udp() || partial || field(&new) != 0);
    }
    // All else is as it was.
    let mut restored = new.clone();
    let addresses = if src.is_ipv4() { 10..20 } else { 8..40 };
    restored[addresses.clone()].copy_from_slice(&packet[addresses]);
    if src.is_ipv4() {
        assert_eq!(new[..10], packet[..10]);
    }
    let (ports, ck) =
        (offsets.transport()..offsets.transport() + 4, offsets.checksum_at()..offsets.checksum_at() + 2);
    restored[ports.clone()].copy_from_slice(&packet[ports]);
    restored[ck.clone()].copy_from_slice(&packet[ck]);
    assert_eq!(restored, packet);
});
