//! How sockets are kept out of the capture.

use std::fmt;
use std::str::FromStr;

use oneway_route::{IfIndex, Mark};
use socket2::Socket;

use crate::reach::Reach;
use crate::{EgressError, so_bindtodevice, so_mark};

/// The mechanism that keeps the sockets of an [`Egress`](crate::Egress) out of the capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// `SO_MARK`: the capture's routing rule does not match packets that carry this mark. Never zero.
    Mark(Mark),
    /// `SO_BINDTODEVICE`: only routes through this device are considered.
    Bind {
        /// The device's index; the name is checked to still mean it.
        index: IfIndex,
        /// The device's name.
        name: String,
    },
}

impl Strategy {
    /// Bound to a device that is not there: every socket is refused, until an uplink is found.
    pub fn unbound() -> Self {
        Self::Bind { index: IfIndex(0), name: String::new() }
    }

    /// Whether it is [`Strategy::unbound`].
    pub fn is_unbound(&self) -> bool {
        matches!(self, Self::Bind { index: IfIndex(0), .. })
    }

    pub(crate) fn is_bind(&self) -> bool {
        matches!(self, Self::Bind { .. })
    }

    /// Whether the strategy can protect anything on this operating system.
    pub(crate) fn usable(&self) -> Result<(), EgressError> {
        match self {
            Self::Mark(mark) => so_mark::usable(*mark),
            Self::Bind { .. } => so_bindtodevice::usable(),
        }
    }

    /// Protects a fresh socket and reads the protection back.
    pub(crate) fn apply(&self, socket: &Socket, reach: Reach) -> Result<(), EgressError> {
        match self {
            Self::Mark(mark) => so_mark::apply(socket, *mark),
            Self::Bind { index, name } => match reach {
                Reach::Local => Ok(()),
                Reach::Uplink => so_bindtodevice::apply(socket, *index, name),
            },
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(mark) => write!(f, "mark {:#x}", mark.0),
            Self::Bind { .. } if self.is_unbound() => f.write_str("bind, to no uplink yet"),
            Self::Bind { name, .. } => write!(f, "bind to {name}"),
        }
    }
}

/// What the user asked for with `--protect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protect {
    /// The strongest that the host allows.
    #[default]
    Auto,
    /// [`Strategy::Mark`].
    Mark,
    /// [`Strategy::Bind`].
    Bind,
    /// Bind to a source address that has a routing rule of its own.
    SourceRule,
    /// Host routes to the servers.
    HostRoute,
    /// Sockets born in another network namespace.
    Netns,
}

impl Protect {
    /// The name on the command line and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Mark => "mark",
            Self::Bind => "bind",
            Self::SourceRule => "source-rule",
            Self::HostRoute => "host-route",
            Self::Netns => "netns",
        }
    }
}

impl fmt::Display for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Mark, Self::Bind, Self::SourceRule, Self::HostRoute, Self::Netns]
            .into_iter()
            .find(|protect| protect.name() == text)
            .ok_or_else(|| {
                format!(
                    "unknown protection {text:?}; one of auto, mark, bind, source-rule, host-route, netns is expected"
                )
            })
    }
}
