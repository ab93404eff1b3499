//! The ways that a flow can leave by.
//!
//! Each protocol's handshake is a state machine without I/O ([`Handshake`]); one driver runs it over a socket
//! that [`oneway_egress`] has made. [`Outbound::connect`] and [`Outbound::udp`] are what flows use;
//! [`DialError::answer`] says what the client must see when they fail.
#![forbid(unsafe_code)]

mod config;
mod direct;
mod drive;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod host;
mod http_connect;
mod outbound;
mod proxy;
mod resolve;
mod shadowsocks;
mod socks4;
mod socks5;
mod trojan;
mod tunnel;
mod udp;

pub use config::{Credentials, OutboundConfig, Protocol, ProxyConfig, UrlError};
pub use error::{Answer, DialError, ProxyFault};
pub use handshake::{Handshake, Progress};
pub use http_connect::{HttpConnect, MAX_HEAD, Status, parse_response};
pub use outbound::{Connected, Outbound};
pub use proxy::{Proxy, Timeouts};
pub use resolve::{Resolve, Resolving, SystemResolver};
pub use shadowsocks::Method;
pub use socks4::Socks4;
pub use socks5::datagram::{
    DatagramHeader, HEADER_MAX, Rejected, Source, decode_header as decode_datagram_header,
    encode_header as encode_datagram_header,
};
pub use socks5::{BoundAddr, Reply, Socks5, parse_reply as parse_socks5_reply};
pub use udp::{Backlog, Fate, PROXY_HEADER_MAX, Room, UdpCounters, UdpPath, UdpReady};
