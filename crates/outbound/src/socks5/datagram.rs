//! The header of relayed datagrams: RFC 1928, section 7.

use std::net::{IpAddr, SocketAddr};

use oneway_flow::Target;

use super::{DOMAIN, IPV4, IPV6, ip};
use crate::ProxyFault;
use crate::host::Destination;

/// The longest header: RSV, FRAG, ATYP, a name of 255 bytes behind its length, port.
pub const HEADER_MAX: usize = 4 + 1 + 255 + 2;

/// Where a relayed datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// An address.
    Ip(SocketAddr),
    /// A host name, as some proxies echo it.
    Name(&'a str, u16),
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramHeader<'a> {
    /// Where the datagram came from.
    pub source: Source<'a>,
    /// Length of the header; the payload is behind it.
    pub len: usize,
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// `FRAG` is not zero: reassembly is optional, and without it fragments must be dropped.
    Fragment,
    /// Too short, or of no known address type.
    Malformed,
}

/// Writes the header for a datagram to `dst` and returns its length.
///
/// # Errors
/// [`ProxyFault::Unspeakable`] for a name that does not fit the protocol.
pub fn encode_header(buf: &mut [u8; HEADER_MAX], dst: &Target) -> Result<usize, ProxyFault> {
    let (kind, port) = match (&dst.host, dst.addr) {
        (None, addr) => {
            (Destination::Ip(SocketAddr::new(addr.ip().to_canonical(), addr.port())), addr.port())
        }
        (Some(_), addr) => (Destination::new(dst)?, addr.port()),
    };
    buf[..3].fill(0);
    let end = match &kind {
        Destination::Ip(addr) => match addr.ip() {
            IpAddr::V4(v4) => {
                buf[3] = IPV4;
                buf[4..8].copy_from_slice(&v4.octets());
                8
            }
            IpAddr::V6(v6) => {
                buf[3] = IPV6;
                buf[4..20].copy_from_slice(&v6.octets());
                20
            }
        },
        Destination::Name(name, _) => {
            let end = 5 + name.len();
            buf[3] = DOMAIN;
            buf[4] = name.len() as u8;
            buf[5..end].copy_from_slice(name.as_bytes());
            end
        }
    };
    buf[end..end + 2].copy_from_slice(&port.to_be_bytes());
    Ok(end + 2)
}

/// Reads the header of a datagram from the relay.
///
/// # Errors
/// [`Rejected`]: the datagram is to be dropped.
pub fn decode_header(datagram: &[u8]) -> Result<DatagramHeader<'_>, Rejected> {
    let [_, _, fragment, kind, rest @ ..] = datagram else { return Err(Rejected::Malformed) };
    if *fragment != 0 {
        return Err(Rejected::Fragment);
    }
    let (addr, name) = match *kind {
        IPV4 => (rest.get(..4).ok_or(Rejected::Malformed)?, false),
        IPV6 => (rest.get(..16).ok_or(Rejected::Malformed)?, false),
        DOMAIN => {
            let len = usize::from(*rest.first().ok_or(Rejected::Malformed)?);
            (rest.get(..1 + len).ok_or(Rejected::Malformed)?, true)
        }
        _ => return Err(Rejected::Malformed),
    };
    let port = rest.get(addr.len()..addr.len() + 2).ok_or(Rejected::Malformed)?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    let source = if name {
        let name = std::str::from_utf8(&addr[1..]).map_err(|_| Rejected::Malformed)?;
        match name.parse::<IpAddr>() {
            Ok(ip) => Source::Ip(SocketAddr::new(ip.to_canonical(), port)),
            Err(_) => Source::Name(name, port),
        }
    } else {
        let ip = ip(addr).ok_or(Rejected::Malformed)?;
        Source::Ip(SocketAddr::new(ip.to_canonical(), port))
    };
    Ok(DatagramHeader { source, len: 4 + addr.len() + 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(addr: &str, host: Option<&str>) -> Target {
        Target { addr: addr.parse().unwrap(), host: host.map(Into::into) }
    }

    #[test]
    fn decodes_what_it_encodes() {
        let long = format!("{}.example", "a".repeat(247));
        for (dst, len) in [
            (target("192.0.2.1:53", None), 10),
            (target("[2001:db8::1]:443", None), 22),
            (target("198.18.0.1:443", Some("example.com")), 18),
            (target("198.18.0.1:443", Some("192.0.2.9")), 10),
            (target("198.18.0.1:443", Some(&long)), HEADER_MAX),
        ] {
            let mut buf = [0xaa; HEADER_MAX];
            assert_eq!(encode_header(&mut buf, &dst), Ok(len), "{dst}");
            let header = decode_header(&buf[..len]).unwrap();
            assert_eq!(header.len, len);
            match (header.source, dst.host.as_deref()) {
                (Source::Ip(found), None) => assert_eq!(found, dst.addr),
                (Source::Ip(found), Some(host)) => assert_eq!(found.ip().to_string(), host),
                (Source::Name(name, port), host) => assert_eq!((Some(name), port), (host, 443)),
            }
            for cut in 0..len {
                assert_eq!(decode_header(&buf[..cut]), Err(Rejected::Malformed), "{dst} cut at {cut}");
            }
        }
    }

    #[test]
    fn drops_fragments_and_nonsense() {
        assert_eq!(decode_header(&[0, 0, 1, 1, 192, 0, 2, 1, 0, 53]), Err(Rejected::Fragment));
        assert_eq!(decode_header(&[0, 0, 0, 2, 192, 0, 2, 1, 0, 53]), Err(Rejected::Malformed));
        assert_eq!(decode_header(&[0, 0, 0, 3, 2, 0xff, 0xff, 0, 53]), Err(Rejected::Malformed));
        assert_eq!(decode_header(&[]), Err(Rejected::Malformed));
    }

    #[test]
    fn refuses_names_that_do_not_fit() {
        let mut buf = [0; HEADER_MAX];
        for host in ["", "a b", "a\0b", &"x".repeat(256)] {
            assert!(encode_header(&mut buf, &target("198.18.0.1:1", Some(host))).is_err(), "{host:?}");
        }
    }
}
