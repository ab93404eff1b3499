//! The examples of RFC 9001, Appendix A. Whole conversations are held with another's server where there are sockets.

use rustls::Side;
use rustls::quic::{HeaderProtectionKey as _, Version};

use super::protection::{Headers, for_quic, is_retry_of};
use super::session::both;
use super::*;

/// The connection that the client's first packet names.
const CONNECTION: &str = "8394c8f03e515708";

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|n| u8::from_str_radix(&text[n..n + 2], 16).unwrap()).collect()
}

fn keys(side: Side) -> quinn_proto::crypto::Keys {
    let provider = for_quic(&crate::provider().unwrap());
    let suites = &provider.cipher_suites;
    let suite = suites.iter().find(|suite| suite.suite() == INITIAL).unwrap().tls13().unwrap();
    both(suite.quic_suite().unwrap().keys(&hex(CONNECTION), side, Version::V1))
}

/// A.2.
#[test]
fn a_header_of_a_client() {
    let headers = Headers::new(&hex("9f50449e04a0e810283a1e9933adedd2"));
    let sample = hex("d1b1c98dd7689fb8ec11d242b123dc9b");
    let (mut first, mut number) = (0xc3, [0, 0, 0, 2]);
    headers.encrypt_in_place(&sample, &mut first, &mut number).unwrap();
    assert_eq!((first, number.to_vec()), (0xc0, hex("7b9aec34")));
    headers.decrypt_in_place(&sample, &mut first, &mut number).unwrap();
    assert_eq!((first, number), (0xc3, [0, 0, 0, 2]));
    // Neither a sample nor a number of another length is taken, and nothing is changed.
    assert!(headers.decrypt_in_place(&sample[1..], &mut first, &mut number).is_err());
    assert!(headers.decrypt_in_place(&sample, &mut first, &mut []).is_err());
    assert_eq!((first, number), (0xc3, [0, 0, 0, 2]));
}

/// A.3, both ways.
#[test]
fn a_packet_of_a_server() {
    let header = hex("c1000000010008f067a5502a4262b50040750001");
    let payload = hex(
        "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566dc5430b9a045a1200130100002e00\
         330024001d00209d3c940d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00020304",
    );
    let protected = hex(
        "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede\
         4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06ed\
         bb7aaf2f58891850abbdca3d20398c276456cbc42158407dd074ee",
    );
    let number_at = header.len() - 2;
    let server = keys(Side::Server);
    let mut packet = [header.clone(), payload.clone(), vec![0; 16]].concat();
    server.packet.local.encrypt(1, &mut packet, header.len());
    server.header.local.encrypt(number_at, &mut packet);
    assert_eq!(packet, protected);
    let client = keys(Side::Client);
    client.header.remote.decrypt(number_at, &mut packet);
    assert_eq!(packet[..header.len()], header);
    let mut sealed = bytes::BytesMut::from(&packet[header.len()..]);
    client.packet.remote.decrypt(1, &header, &mut sealed).unwrap();
    assert_eq!(sealed[..], payload);
    // Another number, another header, another bit; and less than a tag.
    let sealed = bytes::BytesMut::from(&packet[header.len()..]);
    assert!(client.packet.remote.decrypt(2, &header, &mut sealed.clone()).is_err());
    assert!(client.packet.remote.decrypt(1, &header[1..], &mut sealed.clone()).is_err());
    let mut bent = sealed;
    bent[30] ^= 1;
    assert!(client.packet.remote.decrypt(1, &header, &mut bent.clone()).is_err());
    assert!(client.packet.remote.decrypt(1, &header, &mut bytes::BytesMut::from(&bent[..15])).is_err());
    // A header that ends before the sample stays as it is.
    let mut short = packet[..number_at + 19].to_vec();
    client.header.remote.decrypt(number_at, &mut short);
    assert_eq!(short, packet[..number_at + 19]);
}

/// A.4.
#[test]
fn a_retry() {
    let retry = hex("ff000000010008f067a5502a4262b5746f6b656e");
    let tag: [u8; 16] = hex("04a265ba2eff4d829058fb3f0f2496ba").try_into().unwrap();
    let (header, rest) = retry.split_at(7);
    assert!(is_retry_of(&hex(CONNECTION), [header, rest], tag));
    assert!(!is_retry_of(&hex("8394c8f03e515709"), [header, rest], tag));
    assert!(!is_retry_of(&hex(CONNECTION), [header, &rest[1..]], tag));
}

#[test]
fn who_cannot_be_known_has_no_client() {
    let settings = TlsSettings { ca: Some("/nonexistent".into()), ..TlsSettings::default() };
    assert!(matches!(QuicClient::new("dns.example", &settings), Err(TlsError::Ca { .. })));
    let settings = TlsSettings { skip_verify: true, ..TlsSettings::default() };
    assert!(matches!(QuicClient::new("no name", &settings), Err(TlsError::Name { .. })));
    assert!(format!("{:?}", QuicClient::new("dns.example", &settings).unwrap()).contains("dns.example"));
}
