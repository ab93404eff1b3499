//! ClientHellos as `openssl s_client` and curl send them, the examples of the RFCs, and what is made of them.

use super::*;

const OPENSSL: &[u8] = include_bytes!("tests/openssl.bin");
const OPENSSL_TLS12: &[u8] = include_bytes!("tests/openssl_tls12.bin");
const NO_NAME: &[u8] = include_bytes!("tests/openssl_no_name.bin");
const CURL: &[u8] = include_bytes!("tests/curl.bin");
const CURL_HTTP: &[u8] = include_bytes!("tests/curl_http.bin");
/// RFC 9001, A.2.
const INITIAL_V1: &[u8] = include_bytes!("tests/rfc9001.bin");
/// RFC 9369, A.2.
const INITIAL_V2: &[u8] = include_bytes!("tests/rfc9369.bin");

fn name(name: &str) -> Sniffed {
    Sniffed::Name(name.to_owned())
}

#[test]
fn names_are_found_as_soon_as_they_are_here() {
    for (bytes, expected) in [
        (OPENSSL, "www.example.com"),
        (OPENSSL_TLS12, "old.example"),
        (CURL, "curl.example"),
        (CURL_HTTP, "curl.example"),
    ] {
        assert_eq!(stream(bytes), name(expected));
        let mut known = false;
        for len in 0..bytes.len() {
            match stream(&bytes[..len]) {
                Sniffed::More => assert!(!known, "{len}"),
                found => {
                    assert_eq!(found, name(expected), "{len}");
                    known = true;
                }
            }
        }
        assert!(known || bytes == CURL_HTTP, "{expected}");
    }
    assert_eq!(stream(NO_NAME), Sniffed::Nothing);
}

/// The same message in records of one length.
fn in_records(hello: &[u8], len: usize) -> Vec<u8> {
    let records = hello[5..].chunks(len);
    records.flat_map(|part| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat()).collect()
}

#[test]
fn a_message_may_be_spread_over_records() {
    for len in [1, 2, 3, 7, 50, 100] {
        let split = in_records(OPENSSL, len);
        assert_eq!(stream(&split), name("www.example.com"), "{len}");
        for end in 0..split.len() {
            let found = stream(&split[..end]);
            assert!(found == Sniffed::More || found == name("www.example.com"), "{len} {end}");
        }
    }
}

/// A ClientHello with these extensions.
fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat())
        .collect();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 4, 0x0a, 0x0a, 0x13, 0x01],
        &[1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

fn server_name(text: &[u8]) -> Vec<u8> {
    let len = text.len() as u16;
    [&(len + 3).to_be_bytes()[..], &[0], &len.to_be_bytes(), text].concat()
}

#[test]
fn what_is_not_known_is_passed_over() {
    let outer = server_name(b"public.example");
    // GREASE in front, Encrypted Client Hello before and after.
    for extensions in [
        vec![(0x0a0a, &[][..]), (0, &outer)],
        vec![(0xfe0d, &[0; 100][..]), (0x5a5a, &[0]), (0, &outer)],
        vec![(0, &outer[..]), (0xfe0d, &[0; 200])],
    ] {
        assert_eq!(stream(&hello(&extensions)), name("public.example"));
    }
}

#[test]
fn what_is_no_name_is_none() {
    for text in
        [&b""[..], b".", b"a..b", b"192.0.2.1", b"2001:db8::1", b"a b", b"\xff\xfe", b"a\0b", &[b'a'; 64]]
    {
        assert_eq!(stream(&hello(&[(0, &server_name(text))])), Sniffed::Nothing, "{text:?}");
    }
    assert_eq!(stream(&hello(&[(0, &server_name(b"A_b.Example."))])), name("a_b.example"));
    assert_eq!(stream(&hello(&[])), Sniffed::Nothing);
    for bytes in
        [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"\x16\x03\x01\0\0", b"\x16\x02", b"\x15\x03", b"\0", b"EHLO x\r\n"]
    {
        assert_eq!(stream(bytes), Sniffed::Nothing, "{bytes:?}");
    }
}

#[test]
fn requests_name_their_host() {
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nAccept: */*\r\nhOST:  Www.Example:8080 \r\n", Some("www.example")),
        ("M-SEARCH * HTTP/1.1\nHost: a.example\n", Some("a.example")),
        ("POST /x HTTP/1.0\r\nHost: [2001:db8::1]:80\r\n", None),
        ("GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n", None),
        ("GET / HTTP/1.1\r\n\r\nHost: late.example\r\n", None),
        ("GET / HTTP/1.1\r\nno colon\r\nHost: a.example\r\n", None),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        ("HELO mail.example\r\nHost: a.example\r\n", None),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\nHost: a.example\r\n", None),
    ] {
        assert_eq!(stream(request.as_bytes()), expected.map_or(Sniffed::Nothing, name), "{request:?}");
    }
    for more in ["G", "GET", "GET /", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: half.exa"] {
        assert_eq!(stream(more.as_bytes()), Sniffed::More, "{more:?}");
    }
}

#[test]
fn there_is_a_limit() {
    let long = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; MOST]].concat();
    assert_eq!(stream(&long), Sniffed::Nothing);
    let hello = hello(&[(9, &[0; 12_000])]);
    assert_eq!(stream(&hello[..MOST - 1]), Sniffed::More);
    assert_eq!(stream(&hello[..MOST]), Sniffed::Nothing);
}

#[test]
fn initial_packets_of_both_versions_are_read() {
    for packet in [INITIAL_V1, INITIAL_V2] {
        assert!(is_initial(packet));
        assert_eq!(Quic::default().datagram(packet), name("example.com"));
        for at in (0..packet.len()).step_by(7) {
            let mut wrong = packet.to_vec();
            wrong[at] ^= 0x40;
            assert_eq!(Quic::default().datagram(&wrong), Sniffed::Nothing, "{at}");
        }
        assert_eq!(Quic::default().datagram(&packet[..1199]), Sniffed::Nothing);
        // What another packet in the same datagram is does not matter.
        assert_eq!(Quic::default().datagram(&[packet, &[0x40; 50]].concat()), name("example.com"));
    }
    for other in [&b""[..], b"\xc0", b"\xc0\0\0\0\x02\0\0", &[0x40; 1200], &[0; 1200]] {
        assert!(!is_initial(other));
        assert_eq!(Quic::default().datagram(other), Sniffed::Nothing);
    }
}

/// A CRYPTO frame.
fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    let varint = |number: usize| (number as u16 | 1 << 14).to_be_bytes();
    [&[6][..], &varint(offset), &varint(data.len()), data].concat()
}

#[test]
fn a_hello_may_be_spread_over_packets_in_any_order() {
    let hello = &hello(&[(0x2a2a, &[0; 1500]), (0, &server_name(b"late.example")), (9, &[0; 300])])[5..];
    let cuts = [0, 40, 1000, 1300, 1590, hello.len()];
    let pieces: Vec<Vec<u8>> = cuts.windows(2).map(|cut| crypto(cut[0], &hello[cut[0]..cut[1]])).collect();
    for version in [1, 2] {
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 4, 0, 3, 2]] {
            let mut quic = Quic::default();
            let mut found = Vec::new();
            for (number, piece) in (0..).zip(order) {
                // PING, an ACK, PADDING.
                let frames = [&[1][..], &[2, 9, 0, 1, 2, 3, 4], &[0; 5], &pieces[piece]].concat();
                found.push(quic.datagram(&initial(version, b"client's", number, &frames).unwrap()));
            }
            assert!(found.contains(&name("late.example")), "{order:?} {found:?}");
            assert!(!found.contains(&Sniffed::Nothing), "{order:?} {found:?}");
        }
    }
    // Two packets in one datagram.
    let packet = |number, piece: &[u8]| initial(1, b"x", number, piece).unwrap();
    let both = [packet(0, &pieces[1]), packet(1, &pieces[0])].concat();
    assert_eq!(Quic::default().datagram(&both), Sniffed::More);
}

#[test]
fn packets_that_make_no_sense_are_nothing() {
    let one = |frames: &[u8]| Quic::default().datagram(&initial(1, b"x", 0, frames).unwrap());
    for frames in [
        &[0x1c, 0, 0, 0][..],
        &[6, 0, 9],
        &[0xff],
        &[2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
        &crypto(MOST + 1, b"x"),
        &crypto(0, &[2; 50]),
    ] {
        assert_eq!(one(frames), Sniffed::Nothing, "{frames:?}");
    }
    assert_eq!(one(&crypto(1, b"x")), Sniffed::More);
    let mut quic = Quic::default();
    let found: Vec<_> =
        (0..8).map(|n| quic.datagram(&initial(1, b"x", n, &crypto(9, b"x")).unwrap())).collect();
    assert_eq!(
        found.iter().position(|found| *found == Sniffed::Nothing),
        Some(7),
        "it does not wait for ever"
    );
    let mut quic = Quic::default();
    let full = (0..8).map(|n| quic.datagram(&initial(1, b"x", n, &crypto(1, &[0; 1400])).unwrap()));
    assert!(full.into_iter().any(|found| found == Sniffed::Nothing));
}
