//! Trojan: a request in front of the bytes of a TLS connection, to which nothing is answered.
//!
//! ```text
//! hex(SHA224(password)) CRLF  CMD ATYP ADDR PORT CRLF  payload …                       TCP
//!                                                      ATYP ADDR PORT LEN CRLF payload …  UDP, each datagram
//! ```
//!
//! <https://trojan-gfw.github.io/trojan/protocol>; addresses are those of SOCKS5 (RFC 1928, 5).

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};

use oneway_flow::Target;
use sha2::{Digest, Sha224};

use crate::ProxyFault;
use crate::socks5::datagram::{HEADER_MAX, Rejected, encode_header};

const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
const CRLF: &[u8] = b"\r\n";

/// RSV and FRAG in front of an address in the header of a SOCKS5 datagram.
const SOCKS_PREFIX: usize = 3;

/// The request for a connection to `target`.
pub(crate) fn connect(password: &str, target: &Target) -> Result<Vec<u8>, ProxyFault> {
    request(password, CONNECT, target)
}

/// The request to carry datagrams. Each says itself where it goes.
pub(crate) fn associate(password: &str) -> Result<Vec<u8>, ProxyFault> {
    request(password, UDP_ASSOCIATE, &Target::from_addr(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)))
}

fn request(password: &str, command: u8, target: &Target) -> Result<Vec<u8>, ProxyFault> {
    let mut header = [0; HEADER_MAX];
    let len = encode_header(&mut header, target)?;
    let mut hex = String::with_capacity(56);
    for byte in Sha224::digest(password.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    let address = header.get(SOCKS_PREFIX..len).unwrap_or_default();
    Ok([hex.as_bytes(), CRLF, &[command], address, CRLF].concat())
}

/// A datagram as it stands in the stream, from one behind the header of SOCKS5.
pub(crate) fn frame(datagram: &[u8]) -> Result<Vec<u8>, Rejected> {
    let header = crate::socks5::datagram::decode_header(datagram)?;
    let (address, payload) = datagram.split_at(header.len.min(datagram.len()));
    let address = address.get(SOCKS_PREFIX..).ok_or(Rejected::Malformed)?;
    let len = u16::try_from(payload.len()).map_err(|_| Rejected::Malformed)?;
    Ok([address, &len.to_be_bytes(), CRLF, payload].concat())
}

/// The first datagram of what has come, behind the header of SOCKS5, and how many bytes it took; none if more are needed.
pub(crate) fn unframe(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Rejected> {
    let len = match bytes {
        [1, ..] => 1 + 4 + 2,
        [4, ..] => 1 + 16 + 2,
        [3, name, ..] => 1 + 1 + usize::from(*name) + 2,
        [] | [3] => return Ok(None),
        _ => return Err(Rejected::Malformed),
    };
    let (Some(address), Some(rest)) = (bytes.get(..len), bytes.get(len..)) else { return Ok(None) };
    let Some(([high, low, cr, lf], rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    if [*cr, *lf] != *CRLF {
        return Err(Rejected::Malformed);
    }
    let size = usize::from(u16::from_be_bytes([*high, *low]));
    let Some(payload) = rest.get(..size) else { return Ok(None) };
    Ok(Some(([&[0; SOCKS_PREFIX], address, payload].concat(), len + 4 + size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(addr: &str, host: Option<&str>) -> Target {
        Target { addr: addr.parse().unwrap(), host: host.map(Into::into) }
    }

    #[test]
    fn a_request_names_the_destination_behind_the_password() {
        let hash = "90a3ed9e32b2aaf4c61c410eb925426119e1a9dc53d4286ade99a809";
        let named = connect("pass", &target("198.18.0.1:443", Some("a.example"))).unwrap();
        let hex: String = Sha224::digest(b"pass").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.len(), hash.len());
        let expected = [hex.as_bytes(), b"\r\n\x01\x03\x09a.example\x01\xbb\r\n"].concat();
        assert_eq!(named, expected);
        // FIPS 180-4's value for the empty message begins so.
        let udp = associate("").unwrap();
        assert!(udp.starts_with(
            b"d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f\r\n\x03\x01\0\0\0\0\0\0\r\n"
        ));
        assert!(connect("pass", &target("198.18.0.1:443", Some("a b"))).is_err());
    }

    #[test]
    fn datagrams_are_framed_and_found_again_at_any_cut() {
        let mut stream = Vec::new();
        let mut sent = Vec::new();
        for (dst, payload) in [
            (target("192.0.2.1:53", None), &b"one"[..]),
            (target("[2001:db8::1]:53", None), b""),
            (target("198.18.0.1:53", Some("a.example")), &[7; 60_000]),
        ] {
            let mut header = [0; HEADER_MAX];
            let len = encode_header(&mut header, &dst).unwrap();
            sent.push([&header[..len], payload].concat());
            stream.extend(frame(sent.last().unwrap()).unwrap());
        }
        let mut at = 0;
        for datagram in &sent {
            let rest = &stream[at..];
            let (found, len) = unframe(rest).unwrap().unwrap();
            assert_eq!(&found, datagram);
            for cut in (0..len.min(30)).chain([len - 1]) {
                assert_eq!(unframe(&rest[..cut]), Ok(None), "{cut}");
            }
            at += len;
        }
        assert_eq!(at, stream.len());
        assert_eq!(unframe(b"\x02"), Err(Rejected::Malformed));
        assert_eq!(unframe(&[1, 0, 0, 0, 0, 0, 0, 0, 0, b'x', b'y']), Err(Rejected::Malformed));
        assert_eq!(frame(&[0, 0, 0, 9]), Err(Rejected::Malformed));
    }
}
