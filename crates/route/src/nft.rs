//! Our one nftables table, as data: it carries our mark between the packets of one connection.
//!
//! What it is for: a connection that began on an uplink (an SSH session, a DNAT to a container) is
//! answered by the host, and the answers must not be captured; and a strict `rp_filter` must see our
//! mark on the replies to our own sockets, or it drops them.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::id::Mark;

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
    /// The TCP ports that others are connected to since before this table: if such a connection is first seen
    /// when this host speaks, connection tracking takes it for one that this host began.
    pub serving: Vec<u16>,
    /// Whether connections of this host that leave by another device than the capture device get the
    /// mark, because our own sockets do not set it.
    pub mark_bypassing: bool,
    /// Control groups whose programs are not captured.
    #[serde(default)]
    pub excluded: Vec<Cgroup>,
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
    CtMarkAdd(Mark),
    CtStateNew,
    Tcp,
    TcpWithoutSyn,
    TcpSport(u16),
    Cgroup(Cgroup),
}

/// A base chain at priority `mangle` with policy `accept`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// `route` looks the route up again when a mark has changed.
    pub(crate) kind: &'static str,
    pub(crate) rules: Vec<Vec<Expr>>,
}

impl NftTable {
    /// Its chains: `prerouting`, `output`.
    pub(crate) fn chains(&self) -> [Chain; 2] {
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
        let mut output: Vec<_> = self.excluded.iter().map(exclude).collect();
        if self.mark_bypassing {
            output.push(begun(vec![Expr::OifNameNot(tun()), Expr::OifNameNot(lo())]));
        } else {
            output.push(vec![Expr::MetaMarkHas(mark), Expr::CtMarkAdd(mark)]);
        }
        // What this host sends in the direction of answers belongs to a connection begun elsewhere, even if that was
        // before the first chain could mark it. Of datagrams it may be one begun by the device: somebody to whom a
        // program has sent nothing yet, and the program's answer is to be captured. The next datagram from
        // elsewhere marks those that are older than the table.
        output.push(vec![
            Expr::Tcp,
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
        [
            Chain { name: "prerouting", kind: "filter", rules: prerouting },
            Chain { name: "output", kind: "route", rules: output },
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
            Self::CtStateNew => f.write_str("ct state new"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::TcpWithoutSyn => f.write_str("tcp flags ! syn"),
            Self::TcpSport(port) => write!(f, "tcp sport {port}"),
            Self::Cgroup(group) => write!(f, "socket cgroupv2 level {} {:?}", group.level, group.path),
            Self::CtMarkAdd(Mark(m)) => write!(f, "ct mark set ct mark | 0x{m:08x}"),
        }
    }
}

impl Display for NftTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nft table inet {} {{", self.name)?;
        for chain in self.chains() {
            writeln!(f, "    chain {} {{", chain.name)?;
            writeln!(f, "        type {} hook {} priority mangle; policy accept;", chain.kind, chain.name)?;
            for rule in &chain.rules {
                let words: Vec<_> = rule.iter().map(Expr::to_string).collect();
                writeln!(f, "        {}", words.join(" "))?;
            }
            writeln!(f, "    }}")?;
        }
        write!(f, "}}")
    }
}
