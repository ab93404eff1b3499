//! The name that a flow's first bytes ask for.
//!
//! [`stream`] looks at what a client sends first over TCP: a TLS ClientHello, or an HTTP request. [`Quic`] looks at its first
//! datagrams: QUIC Initial packets (versions 1 and 2), which carry a ClientHello that anybody can read. Nothing here does
//! I/O or waits: what came so far is the argument, and the answer may be that more is needed.

#![forbid(unsafe_code)]

mod host;
mod http;
mod quic;
mod reader;
mod tls;

#[cfg(feature = "client")]
pub use quic::initial;
pub use quic::{Quic, is_initial};

/// Bytes of a client that are looked at, at most. A ClientHello with post-quantum keys has 1.8 KB, and few have 4.
pub const MOST: usize = 8 * 1024;

/// What is known by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// It may become a name when more comes.
    More,
    /// There is none, or it is nothing that is known here.
    Nothing,
    /// The host name, in lower case, without a dot at the end.
    Name(String),
}

/// Looks at all that a client has sent so far over a stream.
///
/// With Encrypted Client Hello the name is the outer one, which is all that is told to anybody but the server.
pub fn stream(bytes: &[u8]) -> Sniffed {
    match bytes.first() {
        None => Sniffed::More,
        Some(&tls::HANDSHAKE) => tls::records(bytes),
        Some(first) if first.is_ascii_uppercase() => http::request(bytes),
        Some(_) => Sniffed::Nothing,
    }
}

#[cfg(test)]
mod tests;
