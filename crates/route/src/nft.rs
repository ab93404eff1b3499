//! Our nftables tables, as data. The first carries our mark between the packets of one connection; those that are there
//! with `--strict`, `--capture redirect` and `--capture tproxy` only are in [`refuse`], [`redirect`] and [`tproxy`].
//!
//! What the first is for: a connection that began on an uplink (an SSH session, a DNAT to a container) is
//! answered by the host, and the answers must not be captured; and a strict `rp_filter` must see our
//! mark on the replies to our own sockets, or it drops them. Connection tracking remembers which connections those are,
//! or, where that is enough, sockets and sets do ([`answers`]).

pub(crate) mod answers;
mod redirect;
mod refuse;
mod tproxy;

use std::fmt::{self, Display};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::id::{Family, Mark};

pub(crate) use answers::Peers;
pub use redirect::RedirectTable;
pub(crate) use refuse::DNS;
pub use refuse::{Leaving, RefuseTable};
pub use tproxy::TproxyTable;

/// `IPPROTO_ICMP`
pub(crate) const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`
pub(crate) const ICMPV6: u8 = 58;
/// `IPPROTO_TCP`
pub(crate) const TCP: u8 = 6;
/// `IPPROTO_UDP`
pub(crate) const UDP: u8 = 17;

/// The table, of family `inet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftTable {
    /// Its name.
    pub name: String,
    /// Our bit, in packet marks and connection marks alike.
    pub mark: Mark,
    /// The capture device.
    pub tun: String,
    /// Where connections begin that are to be answered past the capture device.
    pub inbound: Inbound,
    /// What remembers them.
    #[serde(default)]
    pub memory: Memory,
    /// The TCP ports that others are connected to since before this table: if such a connection is first seen
    /// when this host speaks, connection tracking takes it for one that this host began.
    pub serving: Vec<u16>,
    /// Whether what the capture device says to clients must not be led on: there are no clients but of this host, and one whose
    /// address is gone would be looked for by the uplinks.
    #[serde(default)]
    pub ends_here: bool,
    /// Whether connections of this host that leave by another device than the capture device get the
    /// mark, because our own sockets do not set it.
    pub mark_bypassing: bool,
    /// Control groups whose programs are not captured.
    #[serde(default)]
    pub excluded: Vec<Cgroup>,
    /// The only user who may begin connections with the mark: whose our own sockets are. `None` is everybody. A socket that
    /// was accepted has the mark of what came in, and may be connected to elsewhere once it is disconnected (connect(2),
    /// `AF_UNSPEC`): what it begins then is as new as any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
}

/// Which devices' incoming connections are answered by the host's own routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inbound {
    /// Those of all devices but the capture device and loopback: forwarded traffic is not captured.
    Anywhere,
    /// Those of these devices, the uplinks: traffic that comes in elsewhere is to be captured.
    On(Vec<String>),
}

/// What remembers which packets are answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// Connection tracking: whatever the rest of the table asks for.
    #[default]
    Tracking,
    /// Accepted sockets by their mark, and sets of who is served (`nft/answers.rs`): with [`Inbound::Anywhere`], our mark on
    /// our own sockets, and nothing excluded.
    Sockets,
}

/// A direction of a connection (`enum ip_conntrack_dir`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Original = 0,
    Reply = 1,
}

/// One part of a rule: a match, or at its end a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    IifName(String),
    IifNameNot(String),
    OifNameNot(String),
    CtDirection(Direction),
    MetaMarkHas(Mark),
    CtMarkHas(Mark),
    MetaMarkAdd(Mark),
    MetaMarkRemove(Mark),
    CtMarkAdd(Mark),
    CtMarkRemove(Mark),
    /// Looks for the connection among those of a zone of its own, and answers to it among all.
    CtZone(u16),
    CtStateNew,
    /// No error about another packet.
    CtStateNotRelated,
    /// The first segment of whoever connects.
    TcpBegins,
    TcpWithoutSyn,
    /// The second segment, of whoever is connected to.
    TcpAgrees,
    TcpSport(u16),
    Cgroup(Cgroup),
    OifName(String),
    /// A mark under a mask.
    MetaMarkIs(Mark, u32),
    MetaMarkIsNot(Mark),
    /// The mark, under a mask, of the socket that a packet is for; there is one.
    SocketMarkIs(Mark, u32),
    /// The other end is in a set; `true` as a packet comes in, `false` as one leaves.
    Known(Peers, bool),
    /// Puts the other end into a set, or renews it there; likewise.
    Remember(Peers, bool),
    Uid(u32),
    Family(Family),
    Daddr(IpNet),
    /// A protocol and its destination port.
    Dport(u8, u16),
    Accept,
    Drop,
    /// Answers with ICMP.
    Reject,
    /// Answers with a reset; for TCP.
    Reset,
    /// Sends it to a port of this host.
    Redirect(u16),
    /// A protocol above IP.
    Protocol(u8),
    ProtocolNot(u8),
    /// Hands it to a transparent socket at this port of loopback.
    Tproxy(Family, u16),
}

/// A base chain with policy `accept`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
    /// `route` looks the route up again when a mark has changed.
    pub(crate) kind: &'static str,
    pub(crate) priority: HookPriority,
    pub(crate) rules: Vec<Vec<Expr>>,
}

/// Which packets come by a chain (`enum nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
}

/// When a chain's turn is (`enum nf_ip_hook_priorities`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookPriority {
    /// Before connection tracking.
    Raw = -300,
    /// One before the next: before packet filters' own look at where packets come from (`rpfilter` of iptables and `fib saddr .
    /// mark . iif` of nftables, which are asked there or later), but after connection tracking.
    BeforeMangle = -151,
    /// After connection tracking, before routing.
    Mangle = -150,
    /// One behind that, for what looks at marks that are set there.
    BehindMangle = -149,
    DstNat = -100,
    /// One behind that, for what looks at where packets really go.
    BehindDstNat = -99,
    Filter = 0,
}

impl Chain {
    fn filter(name: &'static str, hook: Hook, rules: Vec<Vec<Expr>>) -> Self {
        Self { name, hook, kind: "filter", priority: HookPriority::Filter, rules }
    }
}

impl NftTable {
    /// Its sets.
    pub(crate) fn sets(&self) -> Vec<Peers> {
        match self.memory {
            Memory::Tracking => Vec::new(),
            Memory::Sockets => Peers::all().collect(),
        }
    }

    /// Its chains: `prerouting`, `output` and others.
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let mut chains = match self.memory {
            Memory::Tracking => self.tracking(),
            Memory::Sockets => answers::chains(self),
        };
        if self.ends_here {
            let rules = vec![vec![Expr::IifName(self.tun.clone()), Expr::Drop]];
            chains.push(Chain::filter("forward", Hook::Forward, rules));
        }
        chains
    }

    /// Takes the mark from connections that begin with it and are not ours. With Multipath TCP nobody is the user.
    fn beginnings(&self) -> Vec<Vec<Expr>> {
        let Some(user) = self.user else { return Vec::new() };
        let begins = [Expr::MetaMarkHas(self.mark), Expr::TcpBegins];
        let mut ours = vec![Expr::Uid(user)];
        if self.memory == Memory::Tracking {
            ours.push(Expr::CtMarkAdd(self.mark));
        }
        ours.push(Expr::Accept);
        vec![[&begins[..], &ours].concat(), [&begins[..], &[Expr::MetaMarkRemove(self.mark)]].concat()]
    }

    fn tracking(&self) -> Vec<Chain> {
        let mark = self.mark;
        let tun = || self.tun.clone();
        let lo = || "lo".to_owned();
        let begun = |from: Vec<Expr>| {
            // By direction and not by `ct state new`: an SSH session may be older than this table. Before the name,
            // as it is the cheaper question and the answer is no for most packets.
            let mut rule = vec![Expr::CtDirection(Direction::Original)];
            rule.extend(from);
            rule.push(Expr::CtMarkAdd(mark));
            rule
        };
        let mut prerouting = match &self.inbound {
            Inbound::Anywhere => vec![begun(vec![Expr::IifNameNot(tun()), Expr::IifNameNot(lo())])],
            Inbound::On(devices) => devices.iter().map(|d| begun(vec![Expr::IifName(d.clone())])).collect(),
        };
        prerouting.push(vec![Expr::CtMarkHas(mark), Expr::MetaMarkAdd(mark)]);
        // With the first look at the routes its source address was chosen, as for what is captured: that of the uplink.
        // The connection is marked too, for what the kernel sends when the program and its socket are gone.
        let exclude = |group: &Cgroup| {
            vec![
                Expr::OifNameNot(lo()),
                Expr::Cgroup(group.clone()),
                Expr::MetaMarkAdd(mark),
                Expr::CtMarkAdd(mark),
            ]
        };
        let mut output = self.beginnings();
        output.extend(self.excluded.iter().map(exclude));
        if self.mark_bypassing {
            // But for what another program has marked, a VPN's own packets: with our bit besides, its rules would not know
            // them any more.
            output.push(begun(vec![
                Expr::MetaMarkIs(Mark(0), u32::MAX),
                Expr::OifNameNot(tun()),
                Expr::OifNameNot(lo()),
            ]));
        } else {
            output.push(vec![Expr::MetaMarkHas(mark), Expr::CtMarkAdd(mark)]);
        }
        // A program that has got the port of a socket of ours, or of an excluded program, which is closed: the connection that is
        // remembered is not its own. Not so what the kernel itself sends for the closed socket, resets and ICMP errors.
        let stranger = |first: &[Expr]| {
            let mut rule = vec![Expr::CtMarkHas(mark), Expr::MetaMarkIs(Mark(0), mark.0)];
            rule.extend_from_slice(first);
            rule.extend([
                Expr::CtDirection(Direction::Original),
                Expr::OifName(tun()),
                Expr::CtMarkRemove(mark),
            ]);
            rule
        };
        output.push(stranger(&[Expr::TcpBegins]));
        output.push(stranger(&[Expr::ProtocolNot(TCP), Expr::CtStateNotRelated]));
        // What this host sends in the direction of answers belongs to a connection begun elsewhere, even if that was
        // before the first chain could mark it. Of datagrams it may be one begun by the device: somebody to whom a
        // program has sent nothing yet, and the program's answer is to be captured. The next datagram from
        // elsewhere marks those that are older than the table.
        output.push(vec![
            Expr::Protocol(TCP),
            Expr::CtDirection(Direction::Reply),
            Expr::OifNameNot(lo()),
            Expr::MetaMarkAdd(mark),
        ]);
        output.extend(self.serving.iter().map(|port| {
            // A first packet without SYN: the connection was there before it was tracked.
            vec![
                Expr::OifNameNot(lo()),
                Expr::TcpSport(*port),
                Expr::TcpWithoutSyn,
                Expr::CtStateNew,
                Expr::CtMarkAdd(mark),
            ]
        }));
        output.push(vec![Expr::CtMarkHas(mark), Expr::MetaMarkAdd(mark)]);
        vec![
            Chain {
                name: "prerouting",
                hook: Hook::Prerouting,
                kind: "filter",
                priority: HookPriority::BeforeMangle,
                rules: prerouting,
            },
            Chain {
                name: "output",
                hook: Hook::Output,
                kind: "route",
                priority: HookPriority::Mangle,
                rules: output,
            },
        ]
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IifName(name) => write!(f, "iifname \"{name}\""),
            Self::IifNameNot(name) => write!(f, "iifname != \"{name}\""),
            Self::OifNameNot(name) => write!(f, "oifname != \"{name}\""),
            Self::CtDirection(Direction::Original) => f.write_str("ct direction original"),
            Self::CtDirection(Direction::Reply) => f.write_str("ct direction reply"),
            Self::MetaMarkHas(Mark(m)) => write!(f, "meta mark & 0x{m:08x} == 0x{m:08x}"),
            Self::CtMarkHas(Mark(m)) => write!(f, "ct mark & 0x{m:08x} == 0x{m:08x}"),
            Self::MetaMarkAdd(Mark(m)) => write!(f, "meta mark set meta mark | 0x{m:08x}"),
            Self::MetaMarkRemove(Mark(m)) => write!(f, "meta mark set meta mark & 0x{:08x}", !m),
            Self::CtStateNew => f.write_str("ct state new"),
            Self::CtStateNotRelated => f.write_str("ct state ! related"),
            Self::TcpBegins => f.write_str("tcp flags syn / fin,syn,rst,ack"),
            Self::TcpWithoutSyn => f.write_str("tcp flags ! syn"),
            Self::TcpAgrees => f.write_str("tcp flags syn,ack / syn,ack"),
            Self::TcpSport(port) => write!(f, "tcp sport {port}"),
            Self::Cgroup(group) => write!(f, "socket cgroupv2 level {} {:?}", group.level, group.path),
            Self::CtMarkAdd(Mark(m)) => write!(f, "ct mark set ct mark | 0x{m:08x}"),
            Self::CtMarkRemove(Mark(m)) => write!(f, "ct mark set ct mark & 0x{:08x}", !m),
            Self::CtZone(zone) => write!(f, "ct original zone set {zone}"),
            Self::OifName(name) => write!(f, "oifname \"{name}\""),
            // Of the whole mark nft says no mask.
            Self::MetaMarkIs(Mark(m), u32::MAX) => write!(f, "meta mark {m:#010x}"),
            Self::MetaMarkIs(Mark(m), mask) => {
                write!(f, "meta mark & 0x{mask:08x} == 0x{:08x}", m & mask)
            }
            Self::MetaMarkIsNot(Mark(m)) => write!(f, "meta mark != {m:#010x}"),
            Self::SocketMarkIs(Mark(m), mask) => {
                write!(f, "socket mark & 0x{mask:08x} == 0x{:08x}", m & mask)
            }
            Self::Known(peers, entering) => write!(f, "{} @{}", peers.key(*entering), peers.name()),
            Self::Remember(peers, entering) => {
                let kept = answers::Kept(peers.kept(*entering));
                write!(f, "update @{} {{ {} timeout {kept} }}", peers.name(), peers.key(*entering))
            }
            Self::Uid(uid) => write!(f, "meta skuid {uid}"),
            Self::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Self::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
            Self::Daddr(net @ IpNet::V4(_)) => write!(f, "ip daddr {net}"),
            Self::Daddr(net @ IpNet::V6(_)) => write!(f, "ip6 daddr {net}"),
            Self::Dport(TCP, port) => write!(f, "tcp dport {port}"),
            Self::Dport(UDP, port) => write!(f, "udp dport {port}"),
            Self::Dport(protocol, port) => write!(f, "meta l4proto {protocol} th dport {port}"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject => f.write_str("reject with icmpx admin-prohibited"),
            Self::Reset => f.write_str("reject with tcp reset"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Protocol(TCP) => f.write_str("meta l4proto tcp"),
            Self::Protocol(UDP) => f.write_str("meta l4proto udp"),
            Self::Protocol(ICMP) => f.write_str("meta l4proto icmp"),
            Self::Protocol(ICMPV6) => f.write_str("meta l4proto ipv6-icmp"),
            Self::Protocol(number) => write!(f, "meta l4proto {number}"),
            Self::ProtocolNot(TCP) => f.write_str("meta l4proto != tcp"),
            Self::ProtocolNot(number) => write!(f, "meta l4proto != {number}"),
            Self::Tproxy(Family::V4, port) => write!(f, "tproxy ip to 127.0.0.1:{port}"),
            Self::Tproxy(Family::V6, port) => write!(f, "tproxy ip6 to [::1]:{port}"),
        }
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Forward => "forward",
            Self::Output => "output",
        })
    }
}

impl Display for HookPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::BeforeMangle => "mangle - 1",
            Self::Mangle => "mangle",
            Self::BehindMangle => "-149",
            Self::DstNat => "-100",
            Self::BehindDstNat => "dstnat + 1",
            Self::Filter => "filter",
        })
    }
}

impl Display for NftTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display_with(&self.name, &self.sets(), &self.chains(), f)
    }
}

/// A table in the words of `nft`.
fn display(name: &str, chains: &[Chain], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    display_with(name, &[], chains, f)
}

fn display_with(name: &str, sets: &[Peers], chains: &[Chain], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "nft table inet {name} {{")?;
    sets.iter().try_for_each(|set| write!(f, "{set}"))?;
    for Chain { name, hook, kind, priority, rules } in chains {
        writeln!(f, "    chain {name} {{")?;
        writeln!(f, "        type {kind} hook {hook} priority {priority}; policy accept;")?;
        for rule in rules {
            let words: Vec<_> = rule.iter().map(Expr::to_string).collect();
            writeln!(f, "        {}", words.join(" "))?;
        }
        writeln!(f, "    }}")?;
    }
    write!(f, "}}")
}
