//! SOCKS5: RFC 1928, with user and password of RFC 1929.

pub mod datagram;
pub(crate) mod pipelining;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use oneway_flow::Target;

use crate::config::Credentials;
use crate::handshake::{Handshake, Progress};
use crate::host::Destination;
use crate::{Answer, ProxyFault};

const VERSION: u8 = 5;
/// RFC 1929: the version of the negotiation, not of SOCKS.
const AUTH_VERSION: u8 = 1;
const NO_AUTH: u8 = 0x00;
const USER_PASSWORD: u8 = 0x02;
const NO_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
/// No command of RFC 1928 or of any extension that is known.
const UNASSIGNED: u8 = 0xff;
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

/// `BND.ADDR` and `BND.PORT` of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddr {
    /// An address, possibly unspecified.
    Ip(SocketAddr),
    /// A host name; not checked.
    Name(String, u16),
}

/// A reply to a request, as far as it has been received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// At least so many bytes are missing, and they belong to the reply.
    Need(usize),
    /// The request was granted.
    Granted {
        /// Where the proxy is bound.
        bound: BoundAddr,
        /// Length of the reply.
        len: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Method,
    Auth,
    Reply,
}

/// The client's side of one SOCKS5 handshake.
#[derive(Debug)]
pub struct Socks5 {
    state: State,
    command: u8,
    destination: Destination,
    credentials: Option<Credentials>,
    /// The request went with the greeting.
    pipelined: bool,
    bound: Option<BoundAddr>,
}

impl Socks5 {
    /// Asks for a connection to `target`, by name if it has one.
    ///
    /// # Errors
    /// [`ProxyFault::Unspeakable`] for a name that does not fit the protocol.
    pub fn connect(target: &Target, credentials: Option<&Credentials>) -> Result<Self, ProxyFault> {
        Ok(Self::new(CONNECT, Destination::new(target)?, credentials))
    }

    /// Asks for a UDP relay. The address that datagrams will come from is unknown (it may be translated on the
    /// way), so it is all zeros (RFC 1928, section 4).
    pub fn udp_associate(credentials: Option<&Credentials>) -> Self {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Self::new(UDP_ASSOCIATE, Destination::Ip(any), credentials)
    }

    /// Asks for nothing that there is: the proxy refuses and connects to nobody (RFC 1928, section 6, X'07').
    fn nothing() -> Self {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Self::new(UNASSIGNED, Destination::Ip(any), None)
    }

    /// Where the proxy is bound, once the handshake is complete.
    pub fn bound(&self) -> Option<&BoundAddr> {
        self.bound.as_ref()
    }

    fn new(command: u8, destination: Destination, credentials: Option<&Credentials>) -> Self {
        Self {
            state: State::Method,
            command,
            destination,
            credentials: credentials.cloned(),
            pipelined: false,
            bound: None,
        }
    }

    fn method(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ProxyFault> {
        let [version, rest @ ..] = input else { return Ok(Progress::Need(2)) };
        expect_version(*version)?;
        let [method, ..] = rest else { return Ok(Progress::Need(1)) };
        match (*method, &self.credentials) {
            (NO_AUTH, _) if self.pipelined => self.state = State::Reply,
            (NO_AUTH, _) => self.request(out),
            (USER_PASSWORD, Some(credentials)) => {
                out.push(AUTH_VERSION);
                put_short(out, credentials.user().as_bytes());
                put_short(out, credentials.password().as_bytes());
                self.state = State::Auth;
            }
            (NO_ACCEPTABLE, None) => return Err(ProxyFault::Auth("wants a user and a password")),
            (NO_ACCEPTABLE, Some(_)) => return Err(ProxyFault::Auth("does not take a user and a password")),
            (other, _) => {
                return Err(garbage(format!("it chose method {other:#04x}, which was not offered")));
            }
        }
        Ok(Progress::Took(2))
    }

    fn auth(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ProxyFault> {
        // The version byte is not checked: widespread servers answer 5 in place of 1.
        let [_, status, ..] = input else { return Ok(Progress::Need(2 - input.len())) };
        if *status != 0 {
            return Err(ProxyFault::Auth("refused the user or the password"));
        }
        self.request(out);
        Ok(Progress::Took(2))
    }

    fn request(&mut self, out: &mut Vec<u8>) {
        self.put_request(out);
        self.state = State::Reply;
    }

    fn put_request(&self, out: &mut Vec<u8>) {
        out.extend([VERSION, self.command, 0]);
        put_destination(out, &self.destination);
    }
}

impl Handshake for Socks5 {
    fn start(&mut self, pipelined: bool, out: &mut Vec<u8>) {
        if self.credentials.is_some() {
            // What follows depends on the method that the server chooses.
            out.extend([VERSION, 2, NO_AUTH, USER_PASSWORD]);
            return;
        }
        out.extend([VERSION, 1, NO_AUTH]);
        if pipelined {
            self.put_request(out);
            self.pipelined = true;
        }
    }

    fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ProxyFault> {
        match self.state {
            State::Method => self.method(input, out),
            State::Auth => self.auth(input, out),
            State::Reply => match parse_reply(input)? {
                Reply::Need(more) => Ok(Progress::Need(more)),
                Reply::Granted { bound, len } => {
                    self.bound = Some(bound);
                    Ok(Progress::Done(len))
                }
            },
        }
    }

    fn requested(&self) -> bool {
        self.state == State::Reply
    }
}

/// Parses a reply (RFC 1928, section 6) from the bytes received so far.
///
/// # Errors
/// [`ProxyFault::Refused`] as soon as the reply code is known: servers exist that send no address behind it.
pub fn parse_reply(input: &[u8]) -> Result<Reply, ProxyFault> {
    // VER, REP, RSV, ATYP and one byte of the address: the least that tells the length.
    const HEAD: usize = 5;
    if let [version, ..] = input {
        expect_version(*version)?;
    }
    if let [_, code, ..] = input
        && *code != 0
    {
        return Err(refused(*code));
    }
    let [_, _, _, kind, first, ..] = input else { return Ok(Reply::Need(HEAD - input.len())) };
    let addr_len = match *kind {
        IPV4 => 4,
        IPV6 => 16,
        DOMAIN => 1 + usize::from(*first),
        other => return Err(garbage(format!("its reply has an address of unknown type {other:#04x}"))),
    };
    let len = 4 + addr_len + 2;
    let Some(addr) = input.get(4..len) else { return Ok(Reply::Need(len - input.len())) };
    let (addr, port) = addr.split_at(addr_len);
    let port = u16::from_be_bytes([port[0], port[1]]);
    let bound = match *kind {
        DOMAIN => BoundAddr::Name(String::from_utf8_lossy(&addr[1..]).into_owned(), port),
        _ => match ip(addr) {
            Some(ip) => BoundAddr::Ip(SocketAddr::new(ip.to_canonical(), port)),
            None => return Err(garbage("its reply has a malformed address".to_owned())),
        },
    };
    Ok(Reply::Granted { bound, len })
}

/// An address of 4 or 16 bytes.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// `ATYP`, `DST.ADDR`, `DST.PORT`.
fn put_destination(out: &mut Vec<u8>, destination: &Destination) {
    let port = match destination {
        Destination::Ip(addr) => {
            match addr.ip() {
                IpAddr::V4(v4) => {
                    out.push(IPV4);
                    out.extend(v4.octets());
                }
                IpAddr::V6(v6) => {
                    out.push(IPV6);
                    out.extend(v6.octets());
                }
            }
            addr.port()
        }
        Destination::Name(name, port) => {
            out.push(DOMAIN);
            put_short(out, name.as_bytes());
            *port
        }
    };
    out.extend(port.to_be_bytes());
}

/// A string behind one byte of length. What comes here has been checked to fit.
fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u8::MAX))];
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

fn expect_version(version: u8) -> Result<(), ProxyFault> {
    if version == VERSION {
        return Ok(());
    }
    Err(garbage(format!("its answer begins with {version:#04x}")))
}

fn garbage(what: String) -> ProxyFault {
    ProxyFault::Garbage { protocol: "SOCKS5", what }
}

/// RFC 1928, section 6.
fn refused(code: u8) -> ProxyFault {
    let (meaning, answer) = match code {
        1 => ("general failure", Answer::Rst),
        2 => ("not allowed by its rules", Answer::IcmpAdmin),
        3 => ("network unreachable", Answer::IcmpNet),
        4 => ("host unreachable", Answer::IcmpHost),
        5 => ("connection refused", Answer::Rst),
        6 => ("time to live expired", Answer::Silent),
        7 => ("command not supported", Answer::IcmpPort),
        8 => ("address type not supported", Answer::IcmpAdmin),
        _ => ("unknown reply", Answer::Rst),
    };
    ProxyFault::Refused { code: code.into(), meaning, answer }
}

#[cfg(test)]
mod tests;
