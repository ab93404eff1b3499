//! Servers that questions go to.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::Secure;

/// A server to ask. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// Over UDP, and over TCP what does not fit.
    Udp(SocketAddr),
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over TLS, or over HTTP over TLS.
    Secure(Arc<Secure>),
}

impl Upstream {
    /// Where it is; none if only its name is known, for which others are asked.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(addr) | Self::Tcp(addr) => Some(*addr),
            Self::Secure(secure) => secure.addr(),
        }
    }

    /// Its name, if that is all that is known of where it is.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Udp(_) | Self::Tcp(_) => None,
            Self::Secure(secure) => secure.name(),
        }
    }

    /// Whether it is on this host.
    pub(crate) fn is_local(&self) -> bool {
        self.addr().is_some_and(|addr| addr.ip().is_loopback())
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(addr) => write!(f, "udp://{addr}"),
            Self::Tcp(addr) => write!(f, "tcp://{addr}"),
            Self::Secure(secure) => write!(f, "{secure}"),
        }
    }
}
