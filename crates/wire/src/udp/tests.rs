use super::*;
use crate::emit::udp_datagram;
use crate::ip::IpView;
use crate::testing::{addr, hex};

#[test]
fn fields() {
    let bytes = hex("d431 0035 000c beef 0102 0304 ffff");
    let udp = UdpView::parse(&bytes).unwrap();
    assert_eq!((udp.src_port(), udp.dst_port(), udp.checksum()), (0xd431, 53, 0xbeef));
    assert_eq!((udp.total_len(), udp.payload()), (12, &[1, 2, 3, 4][..]));
}

#[test]
fn malformed() {
    let bytes = hex("d431 0035 000c beef 0102 0304");
    for len in 0..bytes.len() {
        assert!(matches!(UdpView::parse(&bytes[..len]), Err(Malformed::Truncated { .. })), "{len}");
    }
    for value in 0..8 {
        let mut bytes = bytes.clone();
        bytes[5] = value;
        let expected = Malformed::Length { what: "UDP length", value: value.into() };
        assert_eq!(UdpView::parse(&bytes).unwrap_err(), expected);
    }
}

#[test]
fn no_checksum_is_right_over_ipv4_only() {
    for (src, dst, right) in
        [("192.0.2.1:1", "192.0.2.2:2", true), ("[2001:db8::1]:1", "[2001:db8::2]:2", false)]
    {
        let mut packet = Vec::new();
        udp_datagram(&mut packet, addr(src), addr(dst), b"x").unwrap();
        let at = IpView::parse(&packet).unwrap().header_len();
        let valid = |packet: &[u8]| {
            UdpView::parse(&packet[at..]).unwrap().checksum_valid(addr(src).ip(), addr(dst).ip())
        };
        assert!(valid(&packet));
        packet[at + 8] ^= 1;
        assert!(!valid(&packet));
        packet[at + 6..at + 8].copy_from_slice(&[0, 0]);
        assert_eq!(valid(&packet), right);
    }
}
