//! SOCKS4 and SOCKS4a, as the documents of Ying-Da Lee (`SOCKS.protocol`, `SOCKS4A.protocol`) have them.

use std::net::{Ipv4Addr, SocketAddr};

use oneway_flow::Target;

use crate::handshake::{Handshake, Progress};
use crate::host::Destination;
use crate::{Answer, ProxyFault};

const VERSION: u8 = 4;
const CONNECT: u8 = 1;
const REPLY_LEN: usize = 8;

/// Of the form 0.0.0.x with x not zero: tells a 4a server that a name follows.
const NAME_FOLLOWS: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 1);

/// The client's side of one SOCKS4 handshake.
#[derive(Debug)]
pub struct Socks4 {
    destination: Destination,
    user: String,
}

impl Socks4 {
    /// Asks for a connection to `target`. `names` says that the proxy speaks 4a: it is then given the name, if
    /// there is one.
    ///
    /// # Errors
    /// [`ProxyFault::Unspeakable`] for a name or a user that does not fit the protocol, [`ProxyFault::NoIpv6`]
    /// for an IPv6 address, which it has no room for.
    pub fn connect(target: &Target, user: &str, names: bool) -> Result<Self, ProxyFault> {
        let destination =
            if names { Destination::new(target)? } else { Destination::new(&target.addr.into())? };
        if matches!(destination, Destination::Ip(SocketAddr::V6(_))) {
            return Err(ProxyFault::NoIpv6);
        }
        if user.contains('\0') {
            return Err(ProxyFault::Unspeakable("the user of a SOCKS4 proxy cannot have a zero byte"));
        }
        Ok(Self { destination, user: user.to_owned() })
    }
}

impl Handshake for Socks4 {
    fn start(&mut self, _: bool, out: &mut Vec<u8>) {
        let (ip, port, name) = match &self.destination {
            Destination::Ip(addr) => {
                let ip = match addr {
                    SocketAddr::V4(v4) => *v4.ip(),
                    // Refused by the constructor; an address that no server connects to.
                    SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
                };
                (ip, addr.port(), None)
            }
            Destination::Name(name, port) => (NAME_FOLLOWS, *port, Some(name)),
        };
        out.extend([VERSION, CONNECT]);
        out.extend(port.to_be_bytes());
        out.extend(ip.octets());
        out.extend_from_slice(self.user.as_bytes());
        out.push(0);
        if let Some(name) = name {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
        }
    }

    fn step(&mut self, input: &[u8], _out: &mut Vec<u8>) -> Result<Progress, ProxyFault> {
        if let [version, ..] = input
            && *version != 0
            // The document says 0; some servers answer with the protocol's version.
            && *version != VERSION
        {
            let what = format!("its answer begins with {version:#04x}");
            return Err(ProxyFault::Garbage { protocol: "SOCKS4", what });
        }
        match input {
            [_, 90, ..] if input.len() >= REPLY_LEN => Ok(Progress::Done(REPLY_LEN)),
            [] | [_] | [_, 90, ..] => Ok(Progress::Need(REPLY_LEN - input.len())),
            [_, 91, ..] => {
                Err(ProxyFault::Refused { code: 91, meaning: "rejected or failed", answer: Answer::Rst })
            }
            [_, 92 | 93, ..] => Err(ProxyFault::Auth("refused the user")),
            [_, code, ..] => {
                let what = format!("its reply code is {code}");
                Err(ProxyFault::Garbage { protocol: "SOCKS4", what })
            }
        }
    }

    fn requested(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_message(machine: &mut Socks4) -> Vec<u8> {
        let mut out = Vec::new();
        machine.start(false, &mut out);
        out
    }

    #[test]
    fn asks_by_address_and_by_name() {
        let target = Target { addr: "192.0.2.7:8080".parse().unwrap(), host: Some("example.com".into()) };
        let mut plain = Socks4::connect(&target, "me", false).unwrap();
        assert_eq!(first_message(&mut plain), b"\x04\x01\x1f\x90\xc0\x00\x02\x07me\0");
        let mut named = Socks4::connect(&target, "", true).unwrap();
        assert_eq!(first_message(&mut named), b"\x04\x01\x1f\x90\0\0\0\x01\0example.com\0");
        let v6 = Target::from_addr("[2001:db8::1]:80".parse().unwrap());
        assert_eq!(Socks4::connect(&v6, "", true).unwrap_err(), ProxyFault::NoIpv6);
        assert!(Socks4::connect(&target, "a\0b", false).is_err());
    }

    #[test]
    fn understands_replies_cut_anywhere() {
        let target = Target::from_addr("192.0.2.7:80".parse().unwrap());
        for version in [0, 4] {
            let reply = [version, 90, 0, 0, 0, 0, 0, 0];
            let mut machine = Socks4::connect(&target, "", false).unwrap();
            for cut in 0..8 {
                assert_eq!(machine.step(&reply[..cut], &mut Vec::new()), Ok(Progress::Need(8 - cut)));
            }
            let with_early = [&reply[..], b"early"].concat();
            assert_eq!(machine.step(&with_early, &mut Vec::new()), Ok(Progress::Done(8)));
        }
        let mut machine = Socks4::connect(&target, "", false).unwrap();
        let refused = machine.step(&[0, 91], &mut Vec::new());
        assert!(matches!(refused, Err(ProxyFault::Refused { answer: Answer::Rst, .. })));
        assert!(matches!(machine.step(&[0, 93], &mut Vec::new()), Err(ProxyFault::Auth(_))));
        assert!(matches!(machine.step(&[0, 7], &mut Vec::new()), Err(ProxyFault::Garbage { .. })));
        assert!(matches!(machine.step(b"HTTP", &mut Vec::new()), Err(ProxyFault::Garbage { .. })));
    }
}
