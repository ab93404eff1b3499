//! Why a flow could not be carried, and what its client is to see of that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneway_egress::{EgressError, lacking_descriptors};
use oneway_flow::Network;

/// What the client of a failed flow must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A TCP reset: connection refused.
    Rst,
    /// ICMP network unreachable, ICMPv6 no route.
    IcmpNet,
    /// ICMP host unreachable, ICMPv6 address unreachable.
    IcmpHost,
    /// ICMP port unreachable.
    IcmpPort,
    /// ICMP administratively prohibited.
    IcmpAdmin,
    /// Nothing: the client's own clock decides, as with a real black hole.
    Silent,
}

impl Answer {
    /// The same for a transport that may not have resets.
    pub fn on(self, network: Network) -> Self {
        match (self, network) {
            (Self::Rst, Network::Udp) => Self::IcmpPort,
            (Self::Rst, Network::Icmp) => Self::IcmpHost,
            (answer, _) => answer,
        }
    }

    /// What the kernel's error about a socket means to whoever asked for the connection.
    pub fn to_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => Self::IcmpNet,
            // No address of ours to send from: no network of that family.
            io::ErrorKind::AddrNotAvailable => Self::IcmpNet,
            io::ErrorKind::HostUnreachable => Self::IcmpHost,
            io::ErrorKind::PermissionDenied => Self::IcmpAdmin,
            io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Rst,
        }
    }

    fn to_egress(error: &EgressError) -> Self {
        match error {
            EgressError::Connect(source) => Self::to_io(source),
            EgressError::NoRoute { .. } => Self::IcmpNet,
            // This host has no such family (RFC 6724 clients go on to the other one).
            EgressError::Create { source, .. } if source.raw_os_error() == Some(EAFNOSUPPORT) => {
                Self::IcmpNet
            }
            _ => Self::Rst,
        }
    }
}

/// The number that Linux and Android give to "address family not supported"; other systems make no sockets.
const EAFNOSUPPORT: i32 = 97;

/// What a proxy said, or failed to say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyFault {
    /// The bytes are not those of the protocol.
    #[error("does not speak {protocol}: {what}; see whether the address and the type of the proxy are right")]
    Garbage {
        /// The protocol that was expected.
        protocol: &'static str,
        /// What was found.
        what: String,
    },
    /// User and password were refused, or are needed.
    #[error("{0}; see the user and the password of the proxy")]
    Auth(&'static str),
    /// The proxy cannot or may not reach the destination.
    #[error("answered {code}: {meaning}")]
    Refused {
        /// The reply or status code.
        code: u16,
        /// In words.
        meaning: &'static str,
        /// What it means to the client.
        answer: Answer,
    },
    /// The destination cannot be said in this protocol.
    #[error("cannot be asked for this destination: {0}")]
    Unspeakable(&'static str),
    /// The protocol has no room for an IPv6 address.
    #[error("cannot be asked for an IPv6 address")]
    NoIpv6,
}

/// A flow that could not be carried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// A rule says `block`.
    #[error("blocked by rule")]
    Blocked,
    /// There are as many connections as there may be, by what they hold.
    #[error("as many connections as may be are open")]
    Limit,
    /// The direct connection failed.
    #[error("cannot reach {dst}: {source}")]
    Direct {
        /// The destination.
        dst: SocketAddr,
        /// The step that failed.
        source: EgressError,
    },
    /// The destination is known by its name only, and has no address.
    #[error("cannot find the address of {host}: {source}")]
    Name {
        /// The destination.
        host: Arc<str>,
        /// The resolver's answer.
        source: io::Error,
    },
    /// No socket for datagrams could be made.
    #[error("cannot open a UDP socket: {0}")]
    Udp(#[source] EgressError),
    /// The proxy's host name has no address.
    #[error("cannot find the address of proxy {proxy}: {source}")]
    Resolve {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// The resolver's answer.
        source: io::Error,
    },
    /// The proxy does not accept the connection.
    #[error("cannot reach proxy {proxy} at {addr}: {source}; see whether it is running")]
    ProxyDown {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// The last of its addresses that was tried.
        addr: SocketAddr,
        /// The step that failed.
        source: EgressError,
    },
    /// The proxy did not accept the connection in time.
    #[error("proxy {proxy} did not answer the connection within {after:?}; see whether it is running")]
    ProxySilent {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// The limit.
        after: Duration,
    },
    /// There can be no TLS with the proxy, or it is not the one that it should be.
    #[error("cannot speak TLS with proxy {proxy}: {source}; see its certificate, and `server-name` and `ca`")]
    Tls {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// Why.
        source: io::Error,
    },
    /// No sockets could be made inside this program to carry a stream by.
    #[error("cannot carry a connection by proxy {proxy}: {source}")]
    Tunnel {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// The step that failed.
        source: EgressError,
    },
    /// The proxy closed or reset the connection before it had answered.
    #[error("proxy {proxy} broke the connection off: {source}")]
    ProxyBroke {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// How.
        source: io::Error,
    },
    /// The proxy accepted the connection but its answer did not come in time.
    #[error("proxy {proxy} did not finish the handshake within {after:?}")]
    HandshakeTimeout {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// The limit.
        after: Duration,
        /// Whether the destination had been asked for, so that it is the destination which is silent.
        requested: bool,
    },
    /// The proxy answered something other than success.
    #[error("proxy {proxy} {fault}")]
    Proxy {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// What it answered.
        fault: ProxyFault,
    },
    /// The protocol cannot carry this kind of traffic.
    #[error("proxy {proxy} cannot carry {what}")]
    Unsupported {
        /// The proxy, as a URL without its password.
        proxy: Arc<str>,
        /// The kind of traffic.
        what: &'static str,
        /// What it means to the client.
        answer: Answer,
    },
}

impl DialError {
    /// What the client of a TCP connection must see; [`Answer::on`] translates for datagrams.
    pub fn answer(&self) -> Answer {
        match self {
            Self::Blocked | Self::Limit => Answer::Rst,
            Self::Direct { source, .. } => Answer::to_egress(source),
            Self::Name { .. } => Answer::IcmpHost,
            Self::Udp(source) => Answer::to_egress(source),
            Self::HandshakeTimeout { requested: true, .. } => Answer::Silent,
            Self::Proxy { fault: ProxyFault::Refused { answer, .. }, .. }
            | Self::Unsupported { answer, .. } => *answer,
            // Clients go on to IPv4 at once.
            Self::Proxy { fault: ProxyFault::NoIpv6, .. } => Answer::IcmpNet,
            Self::Proxy { .. }
            | Self::Resolve { .. }
            | Self::ProxyDown { .. }
            | Self::ProxySilent { .. }
            | Self::ProxyBroke { .. }
            | Self::Tls { .. }
            | Self::Tunnel { .. }
            | Self::HandshakeTimeout { .. } => Answer::Rst,
        }
    }

    /// What it says about the proxy: that it works, since it has answered about the destination; that it does not; or, if
    /// `None`, nothing.
    pub fn proxy_works(&self) -> Option<bool> {
        match self {
            Self::Proxy { fault: ProxyFault::Refused { .. }, .. } => Some(true),
            Self::Proxy { fault: ProxyFault::Garbage { .. } | ProxyFault::Auth(_), .. }
            | Self::Resolve { .. }
            | Self::ProxyDown { .. }
            | Self::ProxySilent { .. }
            | Self::ProxyBroke { .. }
            | Self::Tls { .. }
            | Self::HandshakeTimeout { requested: false, .. } => Some(false),
            // It was not even asked, or it may be the destination that is silent.
            Self::Proxy { fault: ProxyFault::Unspeakable(_) | ProxyFault::NoIpv6, .. }
            | Self::Blocked
            | Self::Limit
            | Self::Direct { .. }
            | Self::Name { .. }
            | Self::Udp(_)
            | Self::Tunnel { .. }
            | Self::Unsupported { .. }
            | Self::HandshakeTimeout { requested: true, .. } => None,
        }
    }

    /// Whether it failed for want of a descriptor: that says nothing about the proxy or the destination.
    pub fn lacks_descriptors(&self) -> bool {
        lacking_descriptors(self).is_some()
    }

    /// [`Self::answer`] for a transport that may not have resets.
    pub fn answer_on(&self, network: Network) -> Answer {
        self.answer().on(network)
    }
}
