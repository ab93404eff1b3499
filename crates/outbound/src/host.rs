//! Where a proxy is told to connect to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use oneway_flow::Target;

use crate::ProxyFault;

/// A destination in the form that goes into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Ip(SocketAddr),
    Name(Arc<str>, u16),
}

impl Destination {
    /// The name if one is known, else the address.
    ///
    /// # Errors
    /// A name that could mean something else inside a request: names come from DNS and from what clients send.
    pub(crate) fn new(target: &Target) -> Result<Self, ProxyFault> {
        let port = target.addr.port();
        let Some(host) = &target.host else {
            return Ok(Self::Ip(SocketAddr::new(target.addr.ip().to_canonical(), port)));
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self::Ip(SocketAddr::new(ip.to_canonical(), port)));
        }
        if host.is_empty() || host.len() > usize::from(u8::MAX) {
            return Err(ProxyFault::Unspeakable("its name is empty or longer than 255 bytes"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
        if !host.bytes().all(plain) {
            return Err(ProxyFault::Unspeakable("its name has characters that no host name has"));
        }
        Ok(Self::Name(Arc::clone(host), port))
    }
}
