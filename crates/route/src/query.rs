//! One question to the kernel: where would a packet go?

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::error::RouteError;
use crate::id::{IfIndex, Mark, Table};

/// The packet that is asked about. Made with [`RouteQuery::to`] and changed field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteQuery {
    /// Its destination.
    pub dst: IpAddr,
    /// Its mark; `None` is mark 0.
    pub mark: Option<Mark>,
    /// The device its socket is bound to (`SO_BINDTODEVICE`).
    pub oif: Option<IfIndex>,
    /// The address its socket is bound to. It must be one of the host's own.
    pub src: Option<IpAddr>,
    /// The user who sends it; `None` is the asking one.
    pub uid: Option<u32>,
    /// The port its socket is bound to; `None` is one that no rule names.
    #[serde(default)]
    pub sport: Option<u16>,
    /// Its protocol, by its number, and its destination port; `None` is one that no rule names.
    #[serde(default)]
    pub dport: Option<(u8, u16)>,
}

impl RouteQuery {
    /// An unmarked packet of an unbound socket to `dst`.
    pub fn to(dst: IpAddr) -> Self {
        Self { dst, mark: None, oif: None, src: None, uid: None, sport: None, dport: None }
    }

    /// The same with a mark.
    pub fn marked(self, mark: Mark) -> Self {
        Self { mark: Some(mark), ..self }
    }

    /// The same from a socket bound to an address and a port.
    pub fn from(self, src: IpAddr, sport: u16) -> Self {
        Self { src: Some(src), sport: Some(sport), ..self }
    }

    /// The same from a socket bound to a device.
    pub fn bound(self, oif: IfIndex) -> Self {
        Self { oif: Some(oif), ..self }
    }
}

/// What a route does with a packet (`rtm_type`, rtnetlink(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Delivers it to this host.
    Local,
    /// Sends it as a broadcast.
    Broadcast,
    /// Delivers it to this host, received as broadcast, sent as unicast (`anycast`).
    Anycast,
    /// Sends it to a group.
    Multicast,
    /// Drops it silently.
    Blackhole,
    /// Drops it with `EHOSTUNREACH`. Also the answer when there is no route at all.
    Unreachable,
    /// Drops it with `EACCES`.
    Prohibit,
    /// Ends the look-up in this table; the next rule is asked.
    Throw,
    /// Anything newer or older than this list.
    Other(u8),
}

/// Where the packet would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// The device it would leave by. `None` when it would not leave.
    pub oif: Option<IfIndex>,
    /// That device's name. Empty when it would not leave, or when the device vanished meanwhile.
    pub oif_name: String,
    /// The source address it would get.
    pub prefsrc: Option<IpAddr>,
    /// The next hop; `None` is on-link.
    pub gateway: Option<IpAddr>,
    /// The table that decided, where the kernel tells.
    pub table: Option<Table>,
    /// What happens to it. No route at all is [`RouteKind::Unreachable`].
    pub kind: RouteKind,
}

/// Asks the kernel for the route of one packet in the calling thread's network namespace
/// (`RTM_GETROUTE`). Policy rules are followed as for a packet made on this host.
///
/// # Errors
/// When the kernel cannot be asked. That there is no route is an answer, not an error.
pub fn query(query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
    crate::os::query(query)
}

/// Asks the kernel many questions in a row, as [`query`] does, in the network namespace of the thread that opened it. A device
/// that is renamed meanwhile may have its name of before.
#[derive(Debug)]
pub struct Asker(crate::os::Asker);

impl Asker {
    /// Begins.
    ///
    /// # Errors
    /// [`RouteError::Open`].
    pub fn open() -> Result<Self, RouteError> {
        crate::os::Asker::open().map(Self)
    }

    /// Asks one.
    ///
    /// # Errors
    /// As [`query`].
    pub fn ask(&mut self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        self.0.ask(query)
    }
}

/// Ends a TCP connection of a program of this host, which gets an error: for one that no packet can tell any more, because
/// its own address is gone. `false` when there is none.
///
/// # Errors
/// When the kernel cannot be asked, or may not do it.
pub fn destroy_tcp(own: SocketAddr, peer: SocketAddr) -> Result<bool, RouteError> {
    crate::os::destroy_tcp(own, peer)
}
