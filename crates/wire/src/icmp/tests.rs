use super::*;
use crate::testing::hex;

#[test]
fn echo() {
    let bytes = hex("0800 f7fd 0001 0001");
    let icmp = IcmpView::parse_v4(&bytes).unwrap();
    assert_eq!(icmp.message(), Message::EchoRequest { id: 1, seq: 1, data: &[] });
    assert!(icmp.checksum_valid([192, 0, 2, 1].into(), [192, 0, 2, 2].into()) && !icmp.is_error());
    let bytes = hex("8100 0000 1234 0002 6162");
    let icmp = IcmpView::parse_v6(&bytes).unwrap();
    assert_eq!(icmp.message(), Message::EchoReply { id: 0x1234, seq: 2, data: b"ab" });
}

#[test]
fn malformed() {
    for len in 0..8 {
        assert!(IcmpView::parse_v4(&[0; 8][..len]).is_err());
        assert!(IcmpView::parse_v6(&[0; 8][..len]).is_err());
    }
}

#[test]
fn errors_of_both_families() {
    let v4 = |text: &str| {
        let bytes = hex(text);
        let icmp = IcmpView::parse_v4(&bytes).unwrap();
        match icmp.message() {
            Message::Error { error, quoted: b"q" } => Some(error),
            other => {
                assert_eq!(other, Message::Other);
                None
            }
        }
    };
    let v6 = |text: &str| {
        let bytes = hex(text);
        let icmp = IcmpView::parse_v6(&bytes).unwrap();
        match icmp.message() {
            Message::Error { error, quoted: b"q" } => Some(error),
            other => {
                assert_eq!(other, Message::Other);
                None
            }
        }
    };
    for (code, error) in [
        (0, Error::Net),
        (1, Error::Host),
        (2, Error::Protocol),
        (3, Error::Port),
        (5, Error::Other { kind: 3, code: 5 }),
        (6, Error::Net),
        (7, Error::Host),
        (9, Error::AdminProhibited),
        (10, Error::AdminProhibited),
        (11, Error::Net),
        (12, Error::Host),
        (13, Error::AdminProhibited),
    ] {
        assert_eq!(v4(&format!("03{code:02x} 0000 0000 0000 71")), Some(error), "code {code}");
    }
    assert_eq!(v4("0304 0000 0000 05dc 71"), Some(Error::PacketTooBig { mtu: 1500 }));
    assert_eq!(v4("0b00 0000 0000 0000 71"), Some(Error::TtlExceeded));
    assert_eq!(v4("0b01 0000 0000 0000 71"), Some(Error::ReassemblyTimeExceeded));
    assert_eq!(v4("0501 0000 0000 0000 71"), Some(Error::Other { kind: 5, code: 1 }));
    assert_eq!(v4("0d00 0000 0000 0000 71"), None);

    assert_eq!(v6("0100 0000 0000 0000 71"), Some(Error::Net));
    assert_eq!(v6("0101 0000 0000 0000 71"), Some(Error::AdminProhibited));
    assert_eq!(v6("0103 0000 0000 0000 71"), Some(Error::Host));
    assert_eq!(v6("0104 0000 0000 0000 71"), Some(Error::Port));
    assert_eq!(v6("0105 0000 0000 0000 71"), Some(Error::AdminProhibited));
    assert_eq!(v6("0200 0000 0001 0000 71"), Some(Error::PacketTooBig { mtu: 65_536 }));
    assert_eq!(v6("0300 0000 0000 0000 71"), Some(Error::TtlExceeded));
    assert_eq!(v6("0401 0000 0000 0028 71"), Some(Error::Protocol));
    assert_eq!(v6("7f00 0000 0000 0000 71"), Some(Error::Other { kind: 127, code: 0 }));
    // Neighbour solicitation, and the redirect, which is no error but must not be answered by one either.
    assert_eq!(v6("8700 0000 0000 0000 71"), None);
    assert_eq!(v6("8900 0000 0000 0000 71"), None);
    assert!(IcmpView::parse_v6(&hex("8900 0000 0000 0000")).unwrap().is_error());
}
