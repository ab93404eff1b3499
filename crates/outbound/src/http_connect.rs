//! HTTP `CONNECT`: RFC 9110, 9.3.6, with Basic authentication (RFC 7617).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oneway_flow::Target;

use crate::config::Credentials;
use crate::handshake::{Handshake, Progress};
use crate::host::Destination;
use crate::{Answer, ProxyFault};

/// A response head longer than this is not read on, the interim ones before it included: who sends them without end is not
/// listened to without end.
pub const MAX_HEAD: usize = 16 * 1024;

/// Header fields of a response; more are not read on.
const MAX_FIELDS: usize = 128;

/// Bytes read at once. What comes behind the head belongs to the destination and is kept.
const CHUNK: usize = 2048;

/// A response, as far as it has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The head is not complete yet.
    Partial,
    /// The head is complete.
    Complete {
        /// The status code.
        code: u16,
        /// Length of the head, its empty line included.
        len: usize,
    },
}

/// The client's side of one HTTP `CONNECT`.
#[derive(Debug)]
pub struct HttpConnect {
    destination: Destination,
    credentials: Option<Credentials>,
    /// How much of the input has been searched for the end of the head.
    searched: usize,
    /// Length of the interim heads so far.
    interim: usize,
}

impl HttpConnect {
    /// Asks for a connection to `target`, by name if it has one.
    ///
    /// # Errors
    /// [`ProxyFault::Unspeakable`] for a name that does not fit the protocol.
    pub fn connect(target: &Target, credentials: Option<&Credentials>) -> Result<Self, ProxyFault> {
        Ok(Self {
            destination: Destination::new(target)?,
            credentials: credentials.cloned(),
            searched: 0,
            interim: 0,
        })
    }
}

impl Handshake for HttpConnect {
    fn start(&mut self, _: bool, out: &mut Vec<u8>) {
        let authority = match &self.destination {
            // A scope is this host's own affair (RFC 6874), and Display would print it.
            Destination::Ip(addr) if addr.is_ipv6() => format!("[{}]:{}", addr.ip(), addr.port()),
            Destination::Ip(addr) => addr.to_string(),
            Destination::Name(name, port) => format!("{name}:{port}"),
        };
        out.extend_from_slice(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").as_bytes());
        if let Some(credentials) = &self.credentials {
            let pair = format!("{}:{}", credentials.user(), credentials.password());
            let basic = STANDARD.encode(pair);
            out.extend_from_slice(format!("Proxy-Authorization: Basic {basic}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    fn step(&mut self, input: &[u8], _out: &mut Vec<u8>) -> Result<Progress, ProxyFault> {
        expect_http(input)?;
        // Only a complete head is parsed, so that one that drips in costs one parse and not one a byte.
        let Some(end) = head_end(input, &mut self.searched) else {
            return if self.interim + input.len() >= MAX_HEAD {
                Err(too_long())
            } else {
                Ok(Progress::Need(CHUNK))
            };
        };
        if self.interim + end > MAX_HEAD {
            return Err(too_long());
        }
        let Status::Complete { code, len } = parse_response(&input[..end])? else {
            return Err(garbage("its answer is not a response".to_owned()));
        };
        match code {
            // Interim responses come before the final one (RFC 9110, 15.2).
            100..=199 => {
                self.searched = 0;
                self.interim += len;
                Ok(Progress::Took(len))
            }
            // Content-Length and Transfer-Encoding of a 2xx mean nothing here (RFC 9110, 9.3.6).
            200..=299 => Ok(Progress::Done(len)),
            407 if self.credentials.is_some() => {
                Err(ProxyFault::Auth("refused the user or the password (407)"))
            }
            407 => Err(ProxyFault::Auth("wants a user and a password (407)")),
            _ => Err(refused(code)),
        }
    }

    fn requested(&self) -> bool {
        true
    }
}

/// Parses a response head from the bytes received so far.
///
/// # Errors
/// [`ProxyFault::Garbage`].
pub fn parse_response(input: &[u8]) -> Result<Status, ProxyFault> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(input) {
        Ok(httparse::Status::Complete(len)) => match response.code {
            Some(code) => Ok(Status::Complete { code, len }),
            None => Err(garbage("its answer has no status".to_owned())),
        },
        Ok(httparse::Status::Partial) => Ok(Status::Partial),
        Err(error) => Err(garbage(format!("its answer is malformed ({error})"))),
    }
}

/// Where the head ends: behind an empty line. A bare line feed ends a line too (RFC 9112, 2.2). `searched`
/// remembers between calls how far no end was found.
fn head_end(input: &[u8], searched: &mut usize) -> Option<usize> {
    // Up to three bytes of the end may have been seen already.
    let from = searched.saturating_sub(3);
    let tail = input.get(from..)?;
    let found = tail.iter().enumerate().filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| {
        match tail.get(at + 1..)? {
            [b'\n', ..] => Some(at + 2),
            [b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        }
    });
    *searched = input.len();
    found.map(|at| from + at)
}

/// Notices at once, and not after a time-out, that something else answers.
fn expect_http(input: &[u8]) -> Result<(), ProxyFault> {
    const BEGIN: &[u8] = b"HTTP/1.";
    if input.iter().zip(BEGIN).all(|(found, wanted)| found == wanted) {
        return Ok(());
    }
    Err(garbage(format!("its answer begins with {:#04x}", input[0])))
}

fn too_long() -> ProxyFault {
    garbage(format!("the head of its answer is longer than {MAX_HEAD} bytes"))
}

fn garbage(what: String) -> ProxyFault {
    ProxyFault::Garbage { protocol: "HTTP", what }
}

fn refused(code: u16) -> ProxyFault {
    let (meaning, answer) = match code {
        403 => ("forbidden", Answer::IcmpAdmin),
        404 => ("host not found", Answer::IcmpHost),
        405 | 501 => ("CONNECT is not supported", Answer::Rst),
        502 => ("bad gateway: the destination refused", Answer::Rst),
        503 => ("the destination is unreachable", Answer::IcmpHost),
        504 => ("the destination timed out", Answer::Silent),
        _ => ("no tunnel", Answer::Rst),
    };
    ProxyFault::Refused { code, meaning, answer }
}

#[cfg(test)]
mod tests;
