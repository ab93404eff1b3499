//! What `run` would change on this host, decided purely from a [`Request`] and a [`Snapshot`].
//!
//! One policy rule captures and exempts at once: `iif lo fwmark 0x0/BIT lookup T` takes what this host
//! sends without our bit. Our own sockets carry the bit and follow exactly the rules the host has
//! without us. Whoever deletes that rule ends the capture, but cannot make a loop.

mod addresses;
mod again;
mod answers;
mod capture;
pub(crate) mod choose;
mod congestion;
mod protect;
mod redirect;
mod resolver;
mod strict;
mod text;
mod tproxy;
mod uplink;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::change::Change;
use crate::host::Snapshot;
use crate::id::{Family, IfIndex, Mark, Table};
use crate::nft::RefuseTable;
use crate::resolver::Resolver;
#[cfg(any(target_os = "linux", test))]
pub(crate) use capture::IPV6_OFF;
pub use capture::never_captured;
#[cfg(any(target_os = "linux", test))]
pub(crate) use congestion::CONGESTION;

pub use addresses::collisions;
pub use again::{find_uplinks, find_uplinks_unguarded, plan_again};
pub use capture::plan;

/// How our own sockets are kept out of the capture. Each has its own file below `plan/protect/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protect {
    /// They set `SO_MARK` to our bit, which the capture rule leaves alone.
    Mark,
    /// [`Protect::Mark`], and rules that end the decision about what carries our bit: by main, or not at all.
    MarkTerminal,
    /// [`Protect::MarkTerminal`], and no route by a device of the capture device's group counts for them
    /// (`suppress_ifgroup`).
    MarkIfgroup,
    /// They set `SO_BINDTODEVICE` to the uplink. The capture rule matches them too, but the routes
    /// of our table lead to another device than theirs, do not count for them
    /// (`fib_lookup_good_nhc`, net/ipv4/fib_trie.c; `rt6_score_route`, net/ipv6/route.c), and the
    /// look-up goes on to the host's own rules.
    Bind,
    /// They are bound to the uplink's address and to a port of a range of ours, which the capture rule leaves alone.
    SourceRule,
    /// They go to some servers only, and our table has a host route for each.
    HostRoute,
    /// The same, with the capture's routes in main: `0.0.0.0/1` and `128.0.0.0/1` over an untouched default route.
    HostRouteHalves,
    /// They are made in another network namespace.
    Netns,
}

impl Protect {
    /// Its name on the command line and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
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

    /// Whether our sockets go to servers alone that have host routes.
    pub fn is_host_route(self) -> bool {
        matches!(self, Self::HostRoute | Self::HostRouteHalves)
    }

    /// Whether our sockets carry our bit.
    pub fn marks(self) -> bool {
        matches!(self, Self::Mark | Self::MarkTerminal | Self::MarkIfgroup)
    }
}

/// What [`Protect::SourceRule`] tells our sockets by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The first and the last of their source ports.
    pub ports: (u16, u16),
    /// The user who they and the kernel's own packets for them belong to; `None` leaves that open.
    pub uid: Option<u32>,
    /// The address of IPv4; without one no socket of that family is made.
    pub v4: Option<IpAddr>,
    /// That of IPv6.
    pub v6: Option<IpAddr>,
}

impl Sources {
    /// The address of one family.
    pub fn get(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The capture device's name; `None` chooses a free `oneway0`, `oneway1`, ….
    pub tun_name: Option<String>,
    /// Its addresses; empty chooses a free IPv4 /24 and IPv6 /64.
    pub tun_addresses: Vec<IpNet>,
    /// Its MTU in bytes, 1280 to 65535 (68 without IPv6).
    pub mtu: u32,
    /// What is captured; empty is everything but what a specific route of the host leads to.
    pub include: Vec<IpNet>,
    /// What is not captured; wins over `include`.
    pub exclude: Vec<IpNet>,
    /// Users whose traffic is not captured.
    pub exclude_uids: Vec<u32>,
    /// Control groups whose programs' traffic is not captured.
    pub exclude_cgroups: Vec<Cgroup>,
    /// Whether the traffic of containers and LAN clients is captured too.
    pub forwarded: bool,
    /// The bit of packet marks that is ours; `None` chooses a free one.
    pub mark: Option<Mark>,
    /// Whether connection tracking is to remember who began a connection, also where sockets would do
    /// ([`Memory`](crate::Memory)).
    #[serde(default)]
    pub track: bool,
    /// The uplink, pinned; `None` follows the host's choice.
    pub interface: Option<String>,
    /// How our own sockets are kept out.
    pub protect: Protect,
    /// [`Protect::SourceRule`]: whether this process is root, so that no other user's packets are taken for ours.
    #[serde(default)]
    pub root: bool,
    /// [`Protect::SourceRule`]: the ports; `None` chooses free ones.
    #[serde(default)]
    pub ports: Option<(u16, u16)>,
    /// [`Protect::MarkIfgroup`]: the group; `None` chooses a free one.
    #[serde(default)]
    pub group: Option<u32>,
    /// [`Protect::HostRoute`]: all that our own sockets ever connect to.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// `false` for a device that somebody else set up and handed over: its link and addresses are
    /// left alone, and `tun_name` must name it.
    pub device_is_ours: bool,
    /// Whether IPv6 is captured. When `false` it is left alone, unless `strict` refuses it.
    pub ipv6: bool,
    /// Whether what cannot be captured is refused instead of left alone, also when this program is gone.
    #[serde(default)]
    pub strict: bool,
    /// The port of our listeners on loopback that this host's own TCP ends in; `None` has it come by the device.
    #[serde(default)]
    pub redirect: Option<u16>,
    /// The port of our transparent sockets on loopback that this host's own TCP and UDP come to; likewise.
    #[serde(default)]
    pub tproxy: Option<u16>,
    /// The user of this process, so that no other's connections are taken for ours; `None` leaves that open.
    #[serde(default)]
    pub user: Option<u32>,
    /// The host's resolver settings, where queries are answered here; `None` leaves them alone.
    #[serde(default)]
    pub resolver: Option<Resolver>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            tun_name: None,
            tun_addresses: Vec::new(),
            mtu: 65535,
            include: Vec::new(),
            exclude: Vec::new(),
            exclude_uids: Vec::new(),
            exclude_cgroups: Vec::new(),
            forwarded: false,
            mark: None,
            track: false,
            interface: None,
            protect: Protect::Mark,
            root: false,
            user: None,
            ports: None,
            group: None,
            servers: Vec::new(),
            device_is_ours: true,
            ipv6: true,
            strict: false,
            redirect: None,
            tproxy: None,
            resolver: None,
        }
    }
}

/// Where a family's traffic leaves the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// The device's name.
    pub name: String,
    /// The device.
    pub index: IfIndex,
    /// The source address of new connections, if the device has a usable one.
    pub address: Option<IpAddr>,
    /// The next hop; `None` is on-link.
    pub gateway: Option<IpAddr>,
}

/// The uplinks by family.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplinks {
    /// That of IPv4.
    pub v4: Option<Uplink>,
    /// That of IPv6.
    pub v6: Option<Uplink>,
}

impl Uplinks {
    /// That of one family.
    pub fn get(&self, family: Family) -> Option<&Uplink> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }
}

/// Whether a step captures traffic, or comes before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing is captured by it.
    Prepare,
    /// The rules of the capture: the last steps, made only after the proof.
    Capture,
}

/// What [`Request::tproxy`] needs besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divert {
    /// The bit by which packets are led to loopback.
    pub mark: Mark,
    /// The table that leads there.
    pub table: Table,
}

/// One change and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When it is made.
    pub phase: Phase,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
    /// Why.
    pub why: String,
}

/// Every change to the host, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The capture device's name.
    pub tun_name: String,
    /// Its addresses. The first address of each network is the device's own, the others are free for
    /// synthetic peers.
    pub tun_addresses: Vec<IpNet>,
    /// How our own sockets are kept out.
    pub protect: Protect,
    /// What [`Protect::SourceRule`] tells our sockets by.
    #[serde(default)]
    pub sources: Option<Sources>,
    /// The group that [`Protect::MarkIfgroup`] has put the device into.
    #[serde(default)]
    pub group: Option<u32>,
    /// All that our own sockets ever connect to, with [`Protect::HostRoute`].
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// Why nothing of ours can come back, in words.
    #[serde(default)]
    pub explanation: String,
    /// Our bit. With [`Protect::Mark`] every own socket must set it. With [`Protect::Bind`] it may be
    /// there too: it then keeps the answers to incoming connections out of the capture.
    pub mark: Option<Mark>,
    /// Our routing table.
    pub table: Table,
    /// The uplinks.
    pub uplinks: Uplinks,
    /// The families that are captured.
    pub families: Vec<Family>,
    /// Whether what cannot be captured is refused.
    #[serde(default)]
    pub strict: bool,
    /// How packets are led to our transparent sockets.
    #[serde(default)]
    pub divert: Option<Divert>,
    /// The steps.
    pub steps: Vec<Step>,
    /// The capture rules restricted to a second bit that nothing carries, for
    /// [`prove_rules`](crate::prove_rules).
    pub rehearsal: Vec<Step>,
    /// That second bit.
    pub rehearsal_mark: Mark,
    /// Addresses that must be captured once the plan is applied, one or more per family. No packet is
    /// ever sent to them.
    pub samples: Vec<IpAddr>,
    /// A user whose programs are captured, where some users' are not.
    pub program: Option<u32>,
    /// What is left out or worth knowing.
    pub notes: Vec<String>,
}

/// Why there is no plan. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The device name cannot be one.
    #[error("\"{0}\" cannot be a device name: use 1 to 15 characters without '/', ':' and white space")]
    BadTunName(String),
    /// The device is there already and is none that could be used.
    #[error("there is already a device \"{0}\" that is not a TUN; choose another name with --tun")]
    TunNameTaken(String),
    /// A handed-over device must be named.
    #[error("the handed-over TUN device is not among the host's devices{}", .0.as_ref().map(|n| format!(": \"{n}\"")).unwrap_or_default())]
    NoSuchTun(Option<String>),
    /// A handed-over device is down: the kernel takes no routes into it.
    #[error("the handed-over TUN device \"{0}\" is down; bring it up first: ip link set {0} up")]
    TunDown(String),
    /// The MTU is out of range.
    #[error("an MTU of {mtu} is out of range; use {least} to 65535")]
    BadMtu {
        /// What was asked for.
        mtu: u32,
        /// The least that the captured families allow (RFC 791, RFC 8200 section 5).
        least: u32,
    },
    /// The address has no room for a device and a peer, or is none of a host.
    #[error("{0} cannot be the TUN's address; use a unicast address in a network of at least 4 addresses")]
    BadTunAddress(IpNet),
    /// The device's address lies in a network of the host.
    #[error("the TUN address {net} overlaps {with}; choose another with --tun-address, or leave it out")]
    Overlap {
        /// The address asked for.
        net: IpNet,
        /// The network, and what it belongs to.
        with: String,
    },
    /// Every candidate network is in use.
    #[error("no free {0} network for the TUN; name one with --tun-address")]
    NoFreeNetwork(Family),
    /// The pinned uplink is not there.
    #[error("there is no device \"{0}\" to pin the uplink to; see --interface")]
    NoInterface(String),
    /// The mark is not a single bit.
    #[error("the mark {0} is not a single bit; use one like 0x10000000")]
    NotOneBit(Mark),
    /// The mark belongs to somebody else.
    #[error("the mark {mark} is in use by the host's rule {rule}; choose another, or leave it out")]
    MarkInUse {
        /// The mark.
        mark: Mark,
        /// The rule's priority.
        rule: u32,
    },
    /// All bits are in use.
    #[error("no free bit in the packet mark: the host's rules use them all")]
    NoFreeMark,
    /// No table number is free.
    #[error("no free routing table number")]
    NoFreeTable,
    /// No block of rule priorities is free.
    #[error("no {wanted} free rule priorities in a row below {below}")]
    NoFreePriorities {
        /// How many are needed.
        wanted: u32,
        /// The rule they must come before.
        below: u32,
    },
    /// The host cannot carry the protection.
    #[error("this host cannot carry --protect {name}: {why}; use {instead}")]
    Protect {
        /// Its name.
        name: &'static str,
        /// What stands in the way.
        why: String,
        /// The best alternative.
        instead: &'static str,
    },
    /// Control groups cannot be told apart.
    #[error(
        "the control group {0:?} cannot be excluded: this host's nftables cannot tell control groups apart; exclude a user with --exclude-uid"
    )]
    NoCgroupMatch(String),
    /// The host cannot keep everything in.
    #[error("this host cannot carry --strict: {why}; {instead}")]
    Strict {
        /// What stands in the way.
        why: String,
        /// What can be done.
        instead: &'static str,
    },
    /// Packets cannot be handed to transparent sockets.
    #[error("this host cannot carry --capture tproxy: {0}; use --capture tun")]
    NoTproxy(String),
    /// There is no NAT.
    #[error(
        "this kernel has no nftables with connection tracking, which --capture redirect needs; use --capture tun"
    )]
    NoRedirect,
    /// The resolver settings cannot be changed.
    #[error("this host cannot carry --resolver always: {0}")]
    Resolver(String),
    /// Everything is excluded.
    #[error("there is nothing to capture: every included network is excluded; see --include and --exclude")]
    Nothing,
}

impl PlanError {
    /// Whether it is what was asked for that this host contradicts, and not the host that lacks something.
    pub fn is_wrong_request(&self) -> bool {
        match self {
            Self::BadTunName(_)
            | Self::TunNameTaken(_)
            | Self::NoSuchTun(_)
            | Self::TunDown(_)
            | Self::BadMtu { .. }
            | Self::BadTunAddress(_)
            | Self::Overlap { .. }
            | Self::NoInterface(_)
            | Self::NotOneBit(_)
            | Self::MarkInUse { .. }
            | Self::Nothing => true,
            Self::NoFreeNetwork(_)
            | Self::NoFreeMark
            | Self::NoFreeTable
            | Self::NoFreePriorities { .. }
            | Self::Protect { .. }
            | Self::NoCgroupMatch(_)
            | Self::Strict { .. }
            | Self::NoTproxy(_)
            | Self::NoRedirect
            | Self::Resolver(_) => false,
        }
    }
}

impl Plan {
    /// The steps in the words of `ip` and `nft`, each with its undo and its reason.
    pub fn text(&self) -> String {
        text::text(self)
    }

    /// What refuses what is not captured, with [`Request::strict`].
    pub fn refusals(&self) -> Option<&RefuseTable> {
        self.steps.iter().find_map(|step| match &step.change {
            Change::Refuse(table) => Some(table),
            _ => None,
        })
    }

    /// The change to the host's resolver settings.
    pub fn resolver(&self) -> Option<&Change> {
        let mut changes = self.steps.iter().map(|step| &step.change);
        changes.find(|change| matches!(change, Change::ResolvConf(_) | Change::LinkDns { .. }))
    }

    /// What is done about the host's resolver settings, or why nothing is, in one line; none if nobody asked.
    pub fn resolver_words(&self) -> Option<String> {
        let made = self.steps.iter().find_map(|step| match &step.change {
            Change::ResolvConf(file) => Some(format!("resolver settings: {file}, since {}", step.why)),
            Change::LinkDns { name, nameserver } => Some(format!(
                "resolver settings: systemd-resolved asks {nameserver} by {name} for all names, since {}",
                step.why
            )),
            _ => None,
        });
        let left = || self.notes.iter().find(|note| resolver::is_about(note)).cloned();
        made.or_else(left)
    }

    /// The addresses of one family that must be captured.
    pub fn samples_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.samples.iter().copied().filter(move |a| Family::of(*a) == family)
    }
}

/// The parts of a plan that are decided one after the other.
struct Draft<'a> {
    request: &'a Request,
    host: &'a Snapshot,
    tun: String,
    families: Vec<Family>,
    /// Those that rules and routes are made for: the captured ones, and those that are refused.
    routed: Vec<Family>,
    mark: Option<Mark>,
    table: Table,
    uplinks: Uplinks,
    sources: Option<Sources>,
    group: Option<u32>,
    divert: Option<Divert>,
    tun_addresses: Vec<IpNet>,
    notes: Vec<String>,
}

#[cfg(test)]
pub(crate) mod tests;
