//! Why a socket was not made.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

/// Of errno(3), the same on all Unix systems.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// The number of `EMFILE` or `ENFILE` if what failed did so, at whatever depth, for want of a descriptor. That says nothing
/// about whoever was to be spoken to.
pub fn lacking_descriptors(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if let Some(number @ (ENFILE | EMFILE)) = io.raw_os_error() {
                return Some(number);
            }
            // An error that another one was made of is not its source, but has the same.
            next = io.get_ref().map_or(next, |inner| Some(inner as &(dyn Error + 'static)));
        }
    }
    None
}

/// Which guard a destination has hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForbiddenReason {
    /// Inside a prefix that belongs to the capture itself: the TUN's network, the fake-IP pool.
    Prefix(IpNet),
    /// `0.0.0.0/8` or `::`, which the kernel would turn into this host itself (RFC 1122, 3.2.1.3).
    Unspecified,
    /// `224.0.0.0/4` or `ff00::/8`.
    Multicast,
    /// `fe80::/10`: which link it is on is not said, and a route may say the TUN.
    LinkLocal,
    /// `255.255.255.255`.
    Broadcast,
    /// One of this program's own listening sockets.
    OwnListener,
}

impl fmt::Display for ForbiddenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(net) => write!(f, "{net} is the capture's own and would lead back into it"),
            Self::Unspecified => f.write_str("the unspecified address means this host itself"),
            Self::Multicast => f.write_str("it is a multicast address"),
            Self::LinkLocal => f.write_str("it is a link-local address, of one link that is not named"),
            Self::Broadcast => f.write_str("it is the broadcast address"),
            Self::OwnListener => f.write_str("it is a listener of this program"),
        }
    }
}

/// A step of making an outgoing socket that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The destination is guarded.
    #[error("refused to send to {dst}: {reason}")]
    Forbidden {
        /// The destination, IPv4-mapped IPv6 addresses already reduced to IPv4.
        dst: IpAddr,
        /// The guard.
        reason: ForbiddenReason,
    },
    /// Packets of ours to this destination came back from the TUN; nothing is sent there until that is shown to be over.
    #[error("nothing is sent to {dst}: packets of our own to there came back from the TUN")]
    Quarantined {
        /// The destination.
        dst: IpAddr,
    },
    /// `socket(2)` or a basic option failed.
    #[error("cannot create a {what} socket: {source}")]
    Create {
        /// What was being made, e.g. `TCP/IPv6`.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The protection could not be set, or reads back as something else. The socket has been closed.
    #[error("cannot protect a socket with {mechanism}: {why}")]
    Protect {
        /// The socket option.
        mechanism: &'static str,
        /// What happened and what to do about it.
        why: String,
        /// The kernel's answer, if it gave an error.
        #[source]
        source: Option<io::Error>,
    },
    /// The network namespace that sockets are to be made in is none, or is the one that is captured.
    #[error("cannot protect a socket with another network namespace: {why}")]
    Namespace {
        /// What it is instead, and what to do about it.
        why: String,
        /// The kernel's answer, if it gave an error.
        #[source]
        source: Option<io::Error>,
    },
    /// The device that sockets are bound to has no route to the destination; a bound socket would ask for it
    /// by ARP or ND on the link.
    #[error("{device} has no route to {dst}")]
    NoRoute {
        /// The destination.
        dst: IpAddr,
        /// The device.
        device: String,
    },
    /// Sockets go to servers with a host route only, and this is none.
    #[error("nothing is sent to {dst}: it has no host route, and --protect host-route protects nothing else")]
    NoHostRoute {
        /// The destination.
        dst: IpAddr,
    },
    /// The kernel could not be asked for a route.
    #[error("cannot ask the kernel for the route to {dst}: {source}")]
    Route {
        /// The destination.
        dst: IpAddr,
        /// The failure.
        source: oneway_route::RouteError,
    },
    /// The connection attempt failed.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// This operating system, kernel or build cannot do it.
    #[error("{what} is not supported here; {instead}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to use instead.
        instead: &'static str,
    },
}

impl EgressError {
    /// Whether it is what was asked for that this host contradicts, and not the host that lacks something.
    pub fn is_wrong_request(&self) -> bool {
        matches!(self, Self::Namespace { .. })
    }

    /// The kernel's error for the caller to translate, where there is one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Connect(source) | Self::Create { source, .. } => Some(source),
            Self::Protect { source, .. } | Self::Namespace { source, .. } => source.as_ref(),
            _ => None,
        }
    }
}
