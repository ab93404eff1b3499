//! How sockets are kept out of the capture.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use oneway_route::{Family, IfIndex, Mark, RouteQuery};
use socket2::Socket;

use crate::reach::Reach;
use crate::source_rule::Ports;
use crate::{EgressError, HostRoute, Namespace, SourceRule, Uplink, UplinkPair, so_bindtodevice, so_mark};

/// The mechanism that keeps the sockets of an [`Egress`](crate::Egress) out of the capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// `SO_MARK`: the capture's routing rule does not match packets that carry this mark. Never zero.
    Mark(Mark),
    /// The same, and rules that end the decision about packets with this mark.
    MarkTerminal(Mark),
    /// The same, and no route by the capture device counts for them.
    MarkIfgroup(Mark),
    /// `SO_BINDTODEVICE`: only routes through this device are considered.
    /// The names are checked to still mean the devices of these indices.
    Bind(UplinkPair),
    /// Bound to an address and a port that the capture's rule does not match.
    SourceRule(SourceRule),
    /// To servers alone that have host routes.
    HostRoute(HostRoute),
    /// Made in another network namespace.
    Netns(Arc<Namespace>),
}

/// What is done to protect a socket: both, unless a guard is left out on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    pub(crate) set: bool,
    pub(crate) read_back: bool,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Tcp,
    Udp,
    Icmp,
}

impl Strategy {
    /// Bound to a device that is not there: every socket is refused, until an uplink is found.
    pub fn unbound() -> Self {
        Self::Bind(Uplink { index: IfIndex(0), name: String::new() }.into())
    }

    /// Whether every socket is refused until an uplink is found.
    pub fn is_unbound(&self) -> bool {
        match self {
            Self::Bind(uplinks) => uplinks.get(Family::V4).index == IfIndex(0),
            Self::SourceRule(rule) => rule.sources.v4.or(rule.sources.v6).is_none(),
            _ => false,
        }
    }

    /// The mark that sockets carry.
    pub fn mark(&self) -> Option<Mark> {
        match self {
            Self::Mark(mark) | Self::MarkTerminal(mark) | Self::MarkIfgroup(mark) => Some(*mark),
            _ => None,
        }
    }

    pub(crate) fn is_bind(&self) -> bool {
        matches!(self, Self::Bind(_))
    }

    /// What a socket of ours to a destination beyond the uplink asks the kernel for. In another namespace it is to be asked
    /// there.
    pub fn question(&self, dst: IpAddr) -> RouteQuery {
        let query = RouteQuery::to(dst);
        match self {
            Self::Mark(mark) | Self::MarkTerminal(mark) | Self::MarkIfgroup(mark) => query.marked(*mark),
            Self::Bind(uplinks) => query.bound(uplinks.get(Family::of(dst)).index),
            Self::SourceRule(rule) => match rule.sources.get(Family::of(dst)) {
                Some(src) if !dst.is_loopback() => query.from(src, rule.sources.ports.0),
                _ => query,
            },
            Self::HostRoute(_) | Self::Netns(_) => query,
        }
    }

    /// Whether its sockets go where the host's own best route leads, by whichever device.
    pub fn follows_the_host(&self) -> bool {
        matches!(self, Self::Mark(_) | Self::MarkTerminal(_) | Self::MarkIfgroup(_) | Self::SourceRule(_))
    }

    /// Whether the strategy can protect anything on this operating system.
    pub(crate) fn usable(&self) -> Result<(), EgressError> {
        match self {
            Self::Mark(mark) | Self::MarkTerminal(mark) | Self::MarkIfgroup(mark) => so_mark::usable(*mark),
            // Where there are no devices to bind to there are no rules by source and no tables either.
            Self::Bind(_) | Self::SourceRule(_) | Self::HostRoute(_) => so_bindtodevice::usable(),
            Self::Netns(_) => Ok(()),
        }
    }

    /// Protects a fresh socket and reads the protection back. Whether it is bound to an address by that.
    pub(crate) fn apply(
        &self,
        socket: &Socket,
        (family, reach, purpose): (Family, Reach, Purpose),
        ports: &Ports,
        steps: Steps,
    ) -> Result<bool, EgressError> {
        match self {
            Self::Mark(mark) | Self::MarkTerminal(mark) | Self::MarkIfgroup(mark) => {
                if steps.set {
                    so_mark::set(socket, *mark)?;
                }
                if steps.read_back {
                    so_mark::read_back(socket, *mark)?;
                }
            }
            Self::Bind(uplinks) => match reach {
                Reach::Local => {}
                Reach::Uplink => bind_device(socket, uplinks.get(family), steps)?,
            },
            Self::SourceRule(rule) => match (reach, purpose) {
                (Reach::Local, _) => {}
                (Reach::Uplink, Purpose::Icmp) => {
                    bind_device(socket, rule.device_for(family)?, steps)?;
                }
                (Reach::Uplink, _) => {
                    if steps.set {
                        rule.bind(socket, family, purpose == Purpose::Tcp, ports)?;
                    }
                    if steps.read_back {
                        rule.read_back(socket, family)?;
                    }
                    return Ok(steps.set);
                }
            },
            // The destination is what protects, and is looked at before.
            Self::HostRoute(_) => {}
            Self::Netns(namespace) if steps.read_back => namespace.check(socket)?,
            Self::Netns(_) => {}
        }
        Ok(false)
    }
}

/// Binds a fresh socket to a device and reads it back.
pub(crate) fn bind_device(socket: &Socket, device: &Uplink, steps: Steps) -> Result<(), EgressError> {
    if steps.set {
        so_bindtodevice::set(socket, &device.name)?;
    }
    if steps.read_back {
        so_bindtodevice::read_back(socket, device.index, &device.name)?;
    }
    Ok(())
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(mark) => write!(f, "mark {:#x}", mark.0),
            Self::MarkTerminal(mark) => write!(f, "mark-terminal {:#x}", mark.0),
            Self::MarkIfgroup(mark) => write!(f, "mark-ifgroup {:#x}", mark.0),
            Self::Bind(_) if self.is_unbound() => f.write_str("bind, to no uplink yet"),
            Self::Bind(uplinks) => write!(f, "bind to {uplinks}"),
            Self::SourceRule(_) if self.is_unbound() => f.write_str("source-rule, with no uplink yet"),
            Self::SourceRule(SourceRule { sources, .. }) => {
                let (first, last) = sources.ports;
                let addresses = [sources.v4, sources.v6].into_iter().flatten().map(|a| a.to_string());
                let addresses: Vec<_> = addresses.collect();
                write!(f, "source-rule from {} port {first}-{last}", addresses.join(" or "))
            }
            Self::HostRoute(rule) => {
                let name = if rule.halves { "host-route-halves" } else { "host-route" };
                write!(f, "{name} to {} servers by table {}", rule.servers.len(), rule.table)
            }
            Self::Netns(namespace) => write!(f, "netns {}", namespace.name()),
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
    /// [`Strategy::MarkTerminal`].
    MarkTerminal,
    /// [`Strategy::MarkIfgroup`].
    MarkIfgroup,
    /// [`Strategy::Bind`].
    Bind,
    /// [`Strategy::SourceRule`].
    SourceRule,
    /// [`Strategy::HostRoute`].
    HostRoute,
    /// [`Strategy::HostRoute`], with the capture's routes in main.
    HostRouteHalves,
    /// [`Strategy::Netns`].
    Netns,
}

impl Protect {
    /// The name on the command line and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Mark => "mark",
            Self::MarkTerminal => "mark-terminal",
            Self::MarkIfgroup => "mark-ifgroup",
            Self::Bind => "bind",
            Self::SourceRule => "source-rule",
            Self::HostRoute => "host-route",
            Self::HostRouteHalves => "host-route-halves",
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
        let all = [
            Self::Auto,
            Self::Mark,
            Self::MarkTerminal,
            Self::MarkIfgroup,
            Self::Bind,
            Self::SourceRule,
            Self::HostRoute,
            Self::HostRouteHalves,
            Self::Netns,
        ];
        all.into_iter().find(|protect| protect.name() == text).ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|protect| protect.name()).collect();
            format!("unknown protection {text:?}; one of {} is expected", names.join(", "))
        })
    }
}
