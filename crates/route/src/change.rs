//! One change to the host as data, with its inverse, and both in the words of `ip` and `nft`.

use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::host::{PROTOCOL, Rule, RuleAction};
use crate::id::{Family, Table};
use crate::nft::{NftTable, RedirectTable, RefuseTable, TproxyTable};
use crate::query::RouteKind;
use crate::resolver::{LinkDomains, ResolvConf};

/// One change to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// Sets a device's MTU, in bytes, and brings it up.
    Link {
        /// The device.
        name: String,
        /// The MTU.
        mtu: u32,
        /// Its MTU and whether it was up, when the device was there before.
        before: Option<(u32, bool)>,
    },
    /// Adds an address.
    Address {
        /// The device.
        name: String,
        /// The address and its network.
        net: IpNet,
    },
    /// Puts a device into a group of devices.
    Group {
        /// The device.
        name: String,
        /// The group.
        group: u32,
        /// Its group, when the device was there before.
        before: Option<u32>,
    },
    /// Adds a route, tagged with [`PROTOCOL`].
    Route(RouteSpec),
    /// Adds a policy rule, tagged with [`PROTOCOL`].
    Rule(Rule),
    /// Makes a control group below the root.
    Cgroup {
        /// Its path.
        path: String,
    },
    /// Makes a table of nftables; an older one of ours by that name is replaced in the same instant.
    Nft(NftTable),
    /// Makes the table of nftables that refuses what would escape the capture; likewise.
    Refuse(RefuseTable),
    /// Makes the table of nftables that redirects connections to our listeners; likewise.
    Redirect(RedirectTable),
    /// Makes the table of nftables that hands packets to our transparent sockets; likewise.
    Tproxy(TproxyTable),
    /// Sets a switch.
    Sysctl {
        /// Its path below `/proc/sys`.
        path: String,
        /// What it was.
        old: String,
        /// What it becomes.
        new: String,
    },
    /// Puts a `resolv.conf` of ours in the place of what is there, if that is what it was planned for.
    ResolvConf(ResolvConf),
    /// Has systemd-resolved ask one server for all names, by a device, in the clear and without checks.
    LinkDns {
        /// The device.
        name: String,
        /// The server.
        nameserver: IpAddr,
    },
    /// Has systemd-resolved not ask another device's servers for all names; these are its domains before that.
    LinkDomains(LinkDomains),
}

/// A route to be made: by way of a device, `local`, `throw`, or `unreachable`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// The table.
    pub table: Table,
    /// The destination.
    pub dst: IpNet,
    /// The device; `None` makes it a `throw` route, or one that refuses.
    pub dev: Option<String>,
    /// The next hop, of the destination's family or not (RFC 5549); `None` is on-link. It is one that the host has a route by,
    /// and so taken to be on the link (`onlink`) whether or not an address or a route of main says so.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The preferred source address.
    pub src: Option<IpAddr>,
    /// The metric; 0 leaves it to the kernel.
    pub metric: u32,
    /// Whether it refuses what it is for (`unreachable`) instead of sending it on.
    #[serde(default)]
    pub refuses: bool,
    /// Whether what it is for is delivered to this host (`local`).
    #[serde(default)]
    pub local: bool,
    /// The congestion control of TCP connections that begin with it (`congctl`); `None` is the host's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
}

impl RouteSpec {
    /// A `throw` route: the look-up goes on behind this table.
    pub(crate) fn throw(table: Table, dst: IpNet) -> Self {
        Self {
            table,
            dst,
            dev: None,
            gateway: None,
            src: None,
            metric: 0,
            refuses: false,
            local: false,
            congestion: None,
        }
    }

    /// What it does.
    pub fn kind(&self) -> RouteKind {
        match (self.refuses, &self.dev) {
            (true, _) => RouteKind::Unreachable,
            (false, Some(_)) if self.local => RouteKind::Local,
            (false, Some(_)) => RouteKind::Unicast,
            (false, None) => RouteKind::Throw,
        }
    }
}

/// The inverse of a [`Change`]. Making it twice, or when nothing is there, is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub enum Undo {
    /// There is nothing to do: it vanishes with the device, which vanishes with the process.
    Vanishes {
        /// The device.
        name: String,
    },
    /// Gives a device that was there before its MTU and state back.
    Link {
        /// The device.
        name: String,
        /// The MTU it had.
        mtu: u32,
        /// Whether it was up.
        up: bool,
    },
    /// Removes an address.
    Address {
        /// The device.
        name: String,
        /// The address and its network.
        net: IpNet,
    },
    /// Removes a route that carries our tag.
    Route(RouteSpec),
    /// Removes a rule that carries our tag.
    Rule(Rule),
    /// Puts a device that was there before back into its group.
    Group {
        /// The device.
        name: String,
        /// The group it was in.
        group: u32,
    },
    /// Removes a control group, if no program is in it.
    Cgroup {
        /// Its path.
        path: String,
    },
    /// Removes a table of nftables, if it carries our tag.
    Nft {
        /// Its name; the family is `inet`.
        name: String,
    },
    /// Sets a switch back, if it still has the value it was set to.
    Sysctl {
        /// Its path below `/proc/sys`.
        path: String,
        /// What it was.
        old: String,
        /// What it was set to.
        new: String,
    },
    /// Brings back what was in the place of `resolv.conf`, if what is there still is ours.
    ResolvConf(ResolvConf),
    /// Gives another device its domains back, if they still are what they were made.
    LinkDomains(LinkDomains),
    /// Has systemd-resolved forget the servers of a device.
    LinkDns {
        /// The device.
        name: String,
    },
}

impl Change {
    /// Its inverse.
    pub fn undo(&self) -> Undo {
        match self {
            Self::Link { name, before: None, .. } => Undo::Vanishes { name: name.clone() },
            Self::Link { name, before: Some((mtu, up)), .. } => {
                Undo::Link { name: name.clone(), mtu: *mtu, up: *up }
            }
            Self::Group { name, before: None, .. } => Undo::Vanishes { name: name.clone() },
            Self::Group { name, before: Some(group), .. } => {
                Undo::Group { name: name.clone(), group: *group }
            }
            Self::Address { name, net } => Undo::Address { name: name.clone(), net: *net },
            Self::Route(route) => Undo::Route(route.clone()),
            Self::Rule(rule) => Undo::Rule(rule.clone()),
            Self::Cgroup { path } => Undo::Cgroup { path: path.clone() },
            Self::Nft(table) => Undo::Nft { name: table.name.clone() },
            Self::Refuse(table) => Undo::Nft { name: table.name.clone() },
            Self::Redirect(table) => Undo::Nft { name: table.name.clone() },
            Self::Tproxy(table) => Undo::Nft { name: table.name.clone() },
            Self::Sysctl { path, old, new } => {
                Undo::Sysctl { path: path.clone(), old: old.clone(), new: new.clone() }
            }
            Self::ResolvConf(file) => Undo::ResolvConf(file.clone()),
            Self::LinkDomains(link) => Undo::LinkDomains(link.clone()),
            Self::LinkDns { name, .. } => Undo::LinkDns { name: name.clone() },
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { name, mtu, .. } => write!(f, "ip link set dev {name} mtu {mtu} up"),
            Self::Address { name, net: net @ IpNet::V4(_) } => write!(f, "ip address add {net} dev {name}"),
            Self::Address { name, net } => write!(f, "ip -6 address add {net} dev {name} nodad"),
            Self::Group { name, group, .. } => write!(f, "ip link set dev {name} group {group}"),
            Self::Route(route) => write!(f, "{} route add {}", ip(Family::of_net(route.dst)), Words(route)),
            Self::Rule(rule) => write!(f, "{} rule add {}", ip(rule.family), Words(rule)),
            Self::Cgroup { path } => write!(f, "mkdir -p /sys/fs/cgroup/{path}"),
            Self::Nft(table) => write!(f, "{table}"),
            Self::Refuse(table) => write!(f, "{table}"),
            Self::Redirect(table) => write!(f, "{table}"),
            Self::Tproxy(table) => write!(f, "{table}"),
            Self::Sysctl { path, new, .. } => write!(f, "sysctl -w {path}={new}"),
            Self::ResolvConf(file) => write!(f, "{file}"),
            Self::LinkDomains(link) => write!(f, "{}", link.narrowed()),
            Self::LinkDns { name, nameserver } => write!(
                f,
                "resolvectl dns {name} {nameserver}\nresolvectl domain {name} ~.\nresolvectl default-route {name} yes\n\
                 resolvectl dnssec {name} no\nresolvectl dnsovertls {name} no\nresolvectl flush-caches"
            ),
        }
    }
}

impl Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vanishes { name } => write!(f, "vanishes with {name}"),
            Self::Link { name, mtu, up } => {
                write!(f, "ip link set dev {name} mtu {mtu} {}", if *up { "up" } else { "down" })
            }
            Self::Address { name, net } => {
                write!(f, "{} address del {net} dev {name}", ip(Family::of_net(*net)))
            }
            Self::Group { name, group } => write!(f, "ip link set dev {name} group {group}"),
            Self::Route(route) => write!(f, "{} route del {}", ip(Family::of_net(route.dst)), Words(route)),
            Self::Rule(rule) => write!(f, "{} rule del {}", ip(rule.family), Words(rule)),
            Self::Cgroup { path } => write!(f, "rmdir /sys/fs/cgroup/{path}, if no program is in it"),
            Self::Nft { name } => write!(f, "nft delete table inet {name}"),
            Self::Sysctl { path, old, new } => write!(f, "sysctl -w {path}={old}, if it is still {new}"),
            Self::ResolvConf(file) => {
                write!(f, "{}: {}, if it is still ours", file.path.display(), file.before)
            }
            Self::LinkDomains(link) => write!(f, "{link}, if it still is as above"),
            Self::LinkDns { name } => write!(f, "resolvectl revert {name}\nresolvectl flush-caches"),
        }
    }
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip -6",
    }
}

/// The arguments of `ip route add` and `ip rule add`.
struct Words<'a, T>(&'a T);

impl Display for Words<'_, RouteSpec> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteSpec { table, dst, dev, gateway, src, metric, congestion, .. } = self.0;
        match self.0.kind() {
            RouteKind::Throw => f.write_str("throw ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Local => f.write_str("local ")?,
            _ => {}
        }
        if dst.prefix_len() == 0 {
            f.write_str("default")?
        } else {
            write!(f, "{dst}")?
        }
        match gateway {
            Some(gateway) if gateway.is_ipv6() != dst.addr().is_ipv6() => write!(f, " via inet6 {gateway}")?,
            Some(gateway) => write!(f, " via {gateway}")?,
            None => {}
        }
        if let Some(dev) = dev {
            write!(f, " dev {dev}")?;
        }
        if gateway.is_some() {
            f.write_str(" onlink")?;
        }
        if let Some(src) = src {
            write!(f, " src {src}")?;
        }
        write!(f, " table {table}")?;
        if *metric != 0 {
            write!(f, " metric {metric}")?;
        }
        if let Some(congestion) = congestion {
            write!(f, " congctl {congestion}")?;
        }
        write!(f, " proto {PROTOCOL}")
    }
}

impl Display for Words<'_, Rule> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.0;
        write!(f, "priority {}", rule.priority)?;
        if rule.invert {
            f.write_str(" not")?;
        }
        if let Some(net) = rule.src {
            write!(f, " from {net}")?;
        }
        if let Some(iif) = &rule.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some((mark, mask)) = rule.fwmark {
            write!(f, " fwmark {mark}")?;
            if mask != u32::MAX {
                write!(f, "/{mask:#x}")?;
            }
        }
        if let Some((first, last)) = rule.uids {
            write!(f, " uidrange {first}-{last}")?;
        }
        if let Some((first, last)) = rule.sports {
            write!(f, " sport {first}-{last}")?;
        }
        match rule.ip_protocol {
            Some(6) => f.write_str(" ipproto tcp")?,
            Some(17) => f.write_str(" ipproto udp")?,
            Some(n) => write!(f, " ipproto {n}")?,
            None => {}
        }
        match rule.dports {
            Some((first, last)) if first == last => write!(f, " dport {first}")?,
            Some((first, last)) => write!(f, " dport {first}-{last}")?,
            None => {}
        }
        match rule.action {
            RuleAction::Lookup(table) => write!(f, " lookup {table}")?,
            RuleAction::Goto(priority) => write!(f, " goto {priority}")?,
            RuleAction::Nop => f.write_str(" nop")?,
            RuleAction::Blackhole => f.write_str(" blackhole")?,
            RuleAction::Unreachable => f.write_str(" unreachable")?,
            RuleAction::Prohibit => f.write_str(" prohibit")?,
            RuleAction::Other(n) => write!(f, " type {n}")?,
        }
        if let Some(length) = rule.suppress_prefixlength {
            write!(f, " suppress_prefixlength {length}")?;
        }
        if let Some(group) = rule.suppress_ifgroup {
            write!(f, " suppress_ifgroup {group}")?;
        }
        write!(f, " protocol {PROTOCOL}")
    }
}

/// Puts `text` behind `lead`, its further lines indented as far.
pub(crate) fn indented(out: &mut String, lead: &str, text: &dyn Display) {
    for (n, line) in text.to_string().lines().enumerate() {
        let lead = if n == 0 { lead.to_owned() } else { " ".repeat(lead.len()) };
        // Writing to a String does not fail.
        let _ = writeln!(out, "{lead}{line}");
    }
}
