//! What the host looks like: links, addresses, routes, rules and switches, as plain data.
//!
//! The planner sees the host only through a [`Snapshot`], so a snapshot made by hand is a fake host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::RouteError;
use crate::id::{Family, IfIndex, Mark, Priority, Table};
use crate::query::RouteKind;

/// `RTPROT_*` and rule protocol number that tags all that is ours. Not assigned in
/// `include/uapi/linux/rtnetlink.h` nor in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 162;

/// The routing state of one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Every interface, by index.
    pub links: Vec<Link>,
    /// Every address.
    pub addresses: Vec<Address>,
    /// Every route of every table and both families, but no cached ones.
    pub routes: Vec<Route>,
    /// Every policy rule of both families, in the order they are asked.
    pub rules: Vec<Rule>,
    /// The switches that matter here, by path below `/proc/sys` (`net/ipv4/conf/all/rp_filter`).
    /// What this kernel does not have is not there.
    pub sysctls: BTreeMap<String, String>,
    /// Whether switches may be set: a container's may be read-only.
    #[serde(default)]
    pub switches: bool,
    /// What nftables can do here.
    pub nft: NftSupport,
    /// The nftables tables.
    pub nft_tables: Vec<NftTableId>,
    /// The TCP ports that are listened on and that others are connected to, but on loopback; in order.
    #[serde(default)]
    pub serving: Vec<u16>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its number.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// Whether it is a point-to-point device.
    pub point_to_point: bool,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// The kind of a virtual device (`veth`, `tun`, `wireguard`, …); `None` for a physical one.
    pub kind: Option<String>,
    /// Whether the packets of a TUN are preceded by four bytes (`IFLA_TUN_PI`), as they are without `IFF_NO_PI`. Before Linux
    /// 4.20 nothing says so.
    #[serde(default)]
    pub packet_info: bool,
    /// The bridge, bond or VRF it belongs to.
    pub master: Option<IfIndex>,
    /// The group that `suppress_ifgroup` looks at; 0 unless somebody set one.
    #[serde(default)]
    pub group: u32,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The interface.
    pub index: IfIndex,
    /// The address and its network.
    pub net: IpNet,
    /// The other end, of a point-to-point address.
    pub peer: Option<IpAddr>,
    /// `rtm_scope`: 0 is global, 253 link, 254 host.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

/// `IFA_F_*` of `include/uapi/linux/if_addr.h`.
const IFA_F_SECONDARY: u32 = 0x01;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;
/// Flags that change by themselves: optimistic, homeaddress is stable, deprecated, tentative.
const IFA_F_VOLATILE: u32 = IFA_F_TENTATIVE | IFA_F_DEPRECATED | 0x04;

impl Address {
    /// Whether it may be the source of new connections: global, not deprecated, not on trial.
    pub fn usable(&self) -> bool {
        let bad = IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE;
        self.scope == 0 && self.flags & bad == 0
    }

    /// IPv4: a second address of the same network. IPv6: a temporary one (RFC 8981).
    pub fn secondary(&self) -> bool {
        self.flags & IFA_F_SECONDARY != 0
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The table that holds it.
    pub table: Table,
    /// The destination; `/0` is the default route.
    pub dst: IpNet,
    /// The source selector of an IPv6 route.
    pub src: Option<IpNet>,
    /// What it does.
    pub kind: RouteKind,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// `rtm_scope`.
    pub scope: u8,
    /// `rtm_tos`.
    pub tos: u8,
    /// The device, unless it has several next hops or none.
    pub oif: Option<IfIndex>,
    /// The next hop; `None` is on-link.
    pub gateway: Option<IpAddr>,
    /// The preferred source address.
    pub prefsrc: Option<IpAddr>,
    /// The metric: the lower is preferred.
    pub metric: u32,
    /// The next hops of a multipath route.
    pub next_hops: Vec<NextHop>,
    /// The next-hop object that it has its next hops from (`ip nexthop`), by number.
    #[serde(default)]
    pub nexthop: Option<u32>,
    /// All other attributes, in words; compared but not understood.
    pub other: Vec<String>,
}

/// One next hop of a multipath route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Its device.
    pub oif: IfIndex,
    /// Its gateway; `None` is on-link.
    pub gateway: Option<IpAddr>,
    /// `rtnh_hops`: its weight less one.
    pub hops: u8,
}

impl Route {
    /// Its family.
    pub fn family(&self) -> Family {
        Family::of_net(self.dst)
    }

    /// A plain route by hand, for fake hosts: unicast in table main, made by the kernel.
    pub fn unicast(dst: IpNet, oif: IfIndex) -> Self {
        Self {
            table: Table::MAIN,
            dst,
            src: None,
            kind: RouteKind::Unicast,
            protocol: 2,
            scope: 253,
            tos: 0,
            oif: Some(oif),
            gateway: None,
            prefsrc: None,
            metric: 0,
            next_hops: Vec::new(),
            nexthop: None,
            other: Vec::new(),
        }
    }
}

/// What a policy rule does with a packet it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Asks a table; when that has no answer, the next rule is asked.
    Lookup(Table),
    /// Goes on at the rule of that priority.
    Goto(Priority),
    /// Does nothing: the target of a `goto`.
    Nop,
    /// Drops it silently.
    Blackhole,
    /// Drops it with `ENETUNREACH`.
    Unreachable,
    /// Drops it with `EACCES`.
    Prohibit,
    /// Anything else.
    Other(u8),
}

/// A policy rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Its place.
    pub priority: Priority,
    /// What it does.
    pub action: RuleAction,
    /// Whether it matches what the selectors do not (`not`).
    pub invert: bool,
    /// Source selector.
    pub src: Option<IpNet>,
    /// Destination selector.
    pub dst: Option<IpNet>,
    /// Incoming device; `lo` is what this host sends.
    pub iif: Option<String>,
    /// The device a socket is bound to.
    pub oif: Option<String>,
    /// The mark and its mask.
    pub fwmark: Option<(Mark, u32)>,
    /// First and last user.
    pub uids: Option<(u32, u32)>,
    /// First and last source port.
    #[serde(default)]
    pub sports: Option<(u16, u16)>,
    /// The protocol above IP, by its number.
    #[serde(default)]
    pub ip_protocol: Option<u8>,
    /// First and last destination port.
    #[serde(default)]
    pub dports: Option<(u16, u16)>,
    /// Answers of prefixes as long as this or shorter do not count.
    pub suppress_prefixlength: Option<u32>,
    /// Answers by devices of this group do not count.
    #[serde(default)]
    pub suppress_ifgroup: Option<u32>,
    /// Who made it.
    pub protocol: u8,
    /// `rtm_tos`
    pub tos: u8,
    /// All other attributes, in words; compared but not understood.
    pub other: Vec<String>,
}

impl Rule {
    /// A rule by hand, for fake hosts: `from all lookup TABLE`.
    pub fn lookup(family: Family, priority: Priority, table: Table) -> Self {
        Self {
            family,
            priority,
            action: RuleAction::Lookup(table),
            invert: false,
            src: None,
            dst: None,
            iif: None,
            oif: None,
            fwmark: None,
            uids: None,
            sports: None,
            ip_protocol: None,
            dports: None,
            suppress_prefixlength: None,
            suppress_ifgroup: None,
            protocol: 2,
            tos: 0,
            other: Vec::new(),
        }
    }
}

/// What nftables can do here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NftSupport {
    /// Nobody may ask (no `CAP_NET_ADMIN`).
    #[default]
    Unknown,
    /// This kernel has no nftables, or no connection tracking in it.
    Missing,
    /// Chains of type `route` and connection marks work, but control groups cannot be told apart, or there are no sets or zones.
    NoCgroups,
    /// All of that works.
    Full,
}

impl NftSupport {
    /// Whether connections can be marked.
    pub fn tracks(self) -> bool {
        matches!(self, Self::NoCgroups | Self::Full)
    }
}

/// A table of nftables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftTableId {
    /// `NFPROTO_*`: 1 is `inet`.
    pub family: u8,
    /// Its name.
    pub name: String,
    /// Whether it carries our tag.
    pub ours: bool,
}

impl Snapshot {
    /// Reads the calling thread's network namespace.
    ///
    /// Needs no privilege but for [`Snapshot::nft`]. To learn what nftables can do, a batch is sent
    /// that the kernel checks and then throws away, because it has no end mark.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or something kept changing.
    pub fn take() -> Result<Self, RouteError> {
        crate::os::snapshot()
    }

    /// The same for a host that was looked at before: what nftables can do is taken over, and the ports in use are left
    /// out.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub fn take_again(nft: NftSupport) -> Result<Self, RouteError> {
        crate::os::snapshot_again(nft)
    }

    /// The interface of that name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }

    /// The interface of that index.
    pub fn link_at(&self, index: IfIndex) -> Option<&Link> {
        self.links.iter().find(|l| l.index == index)
    }

    /// Whether a default route by this device is of no use: it swallows what it is given, or has no wire.
    pub fn leads_nowhere(&self, link: &Link) -> bool {
        let port = |other: &Link| other.master == Some(link.index) && other.up;
        match link.kind.as_deref() {
            Some("dummy") => true,
            // Some kernels say that a bridge without ports has a carrier.
            Some("bridge") if !self.links.iter().any(port) => true,
            _ => !link.up || !link.carrier,
        }
    }

    /// A switch as a number; 0 when it is not there.
    pub fn sysctl(&self, path: &str) -> i64 {
        self.sysctls.get(path).and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether this host has the family at all.
    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => true,
            Family::V6 => self.sysctls.contains_key("net/ipv6/conf/all/disable_ipv6"),
        }
    }

    /// What differs between two snapshots, a line each: `-` was there before, `+` is there now.
    /// Leaves out what changes by itself: carrier, ports in use, duplicate address detection, route and rule
    /// order.
    pub fn diff(&self, now: &Self) -> Vec<String> {
        let (old, new) = (self.lines(), now.lines());
        let gone = subtract(&old, &new).map(|l| format!("- {l}"));
        let come = subtract(&new, &old).map(|l| format!("+ {l}"));
        gone.chain(come).collect()
    }

    fn lines(&self) -> Vec<String> {
        let links = self.links.iter().map(|l| format!("{:?}", Link { carrier: false, ..l.clone() }));
        let addresses = self
            .addresses
            .iter()
            .map(|a| format!("{:?}", Address { flags: a.flags & !IFA_F_VOLATILE, ..a.clone() }));
        let routes = self.routes.iter().map(|r| format!("{r:?}"));
        let rules = self.rules.iter().map(|r| format!("{r:?}"));
        let sysctls = self.sysctls.iter().map(|(k, v)| format!("{k} = {v}"));
        let tables = self.nft_tables.iter().map(|t| format!("{t:?}"));
        let mut lines: Vec<_> =
            links.chain(addresses).chain(routes).chain(rules).chain(sysctls).chain(tables).collect();
        lines.sort();
        lines
    }
}

/// The lines of `a` that are not in `b`, counting repeats. Both are sorted.
fn subtract<'a>(a: &'a [String], b: &'a [String]) -> impl Iterator<Item = &'a String> {
    let mut left: BTreeMap<&String, usize> = BTreeMap::new();
    for line in b {
        *left.entry(line).or_default() += 1;
    }
    a.iter().filter(move |line| match left.get_mut(line) {
        Some(n) if *n > 0 => {
            *n -= 1;
            false
        }
        _ => true,
    })
}
