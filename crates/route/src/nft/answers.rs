//! What of the first table tells answers from what begins here without connection tracking, which on a busy host costs
//! each packet and each connection more than all else that this program asks of the kernel, and can be full.
//!
//! A connection is remembered by its own socket: what comes in by another device than the capture device gets our mark,
//! and what is accepted keeps it (`net.ipv4.tcp_fwmark_accept`, `inet_request_mark` in include/net/inet_sock.h), so that
//! all that the socket sends has it. What the kernel itself answers, resets, ICMP errors and echoes, has the mark of what
//! it answers (`fwmark_reflect`). No packet of a connection is looked up anywhere.
//!
//! Three things are not in a socket, and are remembered in sets: which conversations by datagrams began elsewhere, and which
//! here, so that who is only answered does not seem to ask; who was connected before the switches were set; and who is
//! connected to a socket that bears a mark of its own, which the kernel does not replace.

use std::fmt::{self, Display};

use super::{Chain, Expr, Hook, HookPriority, ICMP, ICMPV6, NftTable, TCP, UDP};
use crate::id::{Family, Mark};

/// As long as connection tracking remembers a conversation by datagrams (`UDP_CT_REPLIED`,
/// net/netfilter/nf_conntrack_proto_udp.c), in seconds.
const DATAGRAMS: u32 = 120;
/// And what nobody has answered (`UDP_CT_UNREPLIED`).
const UNANSWERED: u32 = 30;
/// And an idle connection (`TCP_CONNTRACK_ESTABLISHED`, net/netfilter/nf_conntrack_proto_tcp.c).
const CONNECTIONS: u32 = 5 * 24 * 3_600;

/// A set of other ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peers {
    pub(crate) began: Began,
    pub(crate) carried: Carried,
    pub(crate) family: Family,
}

/// Who spoke first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Began {
    /// The other end: it is answered past the capture device. Who does not fit in is captured.
    There,
    /// This host.
    Here,
}

/// By what: which also says what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Carried {
    /// Address and port of the other end, port of this one.
    Tcp,
    /// Likewise.
    Udp,
    /// The address of the other end and the protocol.
    Other,
}

impl Peers {
    /// As many as it holds.
    pub(crate) const MOST: u32 = 1 << 18;

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let kinds = [
            (Began::There, Carried::Tcp),
            (Began::There, Carried::Udp),
            (Began::Here, Carried::Udp),
            (Began::There, Carried::Other),
            (Began::Here, Carried::Other),
        ];
        kinds.into_iter().flat_map(|(began, carried)| Self::both(began, carried))
    }

    /// Of both families.
    pub(crate) fn both(began: Began, carried: Carried) -> [Self; 2] {
        Family::ALL.map(|family| Self { began, carried, family })
    }

    pub(crate) fn name(self) -> &'static str {
        match (self.began, self.carried, self.family) {
            (Began::There, Carried::Tcp, Family::V4) => "tcp4",
            (Began::There, Carried::Tcp, Family::V6) => "tcp6",
            (Began::There, Carried::Udp, Family::V4) => "udp4",
            (Began::There, Carried::Udp, Family::V6) => "udp6",
            (Began::There, Carried::Other, Family::V4) => "other4",
            (Began::There, Carried::Other, Family::V6) => "other6",
            (Began::Here, Carried::Tcp, Family::V4) => "own_tcp4",
            (Began::Here, Carried::Tcp, Family::V6) => "own_tcp6",
            (Began::Here, Carried::Udp, Family::V4) => "own_udp4",
            (Began::Here, Carried::Udp, Family::V6) => "own_udp6",
            (Began::Here, Carried::Other, Family::V4) => "own_other4",
            (Began::Here, Carried::Other, Family::V6) => "own_other6",
        }
    }

    /// How long, in seconds, since it was last renewed by a packet that came in, or that left. What this host began is
    /// renewed by what comes in alone: there is one look-up less for each captured packet, and the next one puts it in again.
    pub(crate) fn kept(self, entering: bool) -> u32 {
        match (self.began, self.carried) {
            (_, Carried::Tcp) => CONNECTIONS,
            (Began::Here, Carried::Udp | Carried::Other) if !entering => UNANSWERED,
            (_, Carried::Udp | Carried::Other) => DATAGRAMS,
        }
    }

    /// What is looked up of a packet that leaves, or with `entering` of one that comes in.
    pub(crate) fn key(self, entering: bool) -> String {
        let ip = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let (theirs, their_port, our_port) =
            if entering { ("saddr", "sport", "dport") } else { ("daddr", "dport", "sport") };
        match self.carried {
            Carried::Tcp => format!("{ip} {theirs} . tcp {their_port} . tcp {our_port}"),
            Carried::Udp => format!("{ip} {theirs} . udp {their_port} . udp {our_port}"),
            Carried::Other => format!("{ip} {theirs} . meta l4proto"),
        }
    }

    /// A rule about packets that have such a key.
    fn rule(self, rest: &[Expr]) -> Vec<Expr> {
        let mut rule = match self.carried {
            Carried::Tcp => vec![Expr::Protocol(TCP)],
            Carried::Udp => vec![Expr::Protocol(UDP)],
            Carried::Other => Vec::new(),
        };
        rule.push(Expr::Family(self.family));
        rule.extend_from_slice(rest);
        rule
    }
}

impl Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let rest = match self.carried {
            Carried::Tcp | Carried::Udp => "inet_service . inet_service",
            Carried::Other => "inet_proto",
        };
        writeln!(f, "    set {} {{", self.name())?;
        writeln!(f, "        type {address} . {rest}")?;
        writeln!(f, "        size {}", Self::MOST)?;
        writeln!(f, "        flags dynamic,timeout")?;
        writeln!(f, "        timeout {}", Kept(self.kept(true)))?;
        writeln!(f, "    }}")
    }
}

/// A time in the words of `nft`, in seconds.
pub(super) struct Kept(pub(super) u32);

impl Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds % 86_400 == 0 => write!(f, "{}d", seconds / 86_400),
            seconds if seconds % 60 == 0 => write!(f, "{}m", seconds / 60),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

/// The chains of a table with sets: `early`, `prerouting`, `output`.
pub(super) fn chains(table: &NftTable) -> Vec<Chain> {
    vec![
        Chain {
            name: "early",
            hook: Hook::Prerouting,
            kind: "filter",
            priority: HookPriority::BeforeMangle,
            rules: vec![vec![
                Expr::IifNameNot(table.tun.clone()),
                Expr::IifNameNot("lo".to_owned()),
                Expr::MetaMarkAdd(table.mark),
            ]],
        },
        // Behind what others do to destinations: a server may be asked at another port than its own. The mark is set once
        // more, as others restore theirs in between.
        Chain {
            name: "prerouting",
            hook: Hook::Prerouting,
            kind: "filter",
            priority: HookPriority::BehindDstNat,
            rules: prerouting(table),
        },
        Chain {
            name: "output",
            hook: Hook::Output,
            kind: "route",
            priority: HookPriority::Mangle,
            rules: output(table),
        },
    ]
}

fn accept(matches: Expr) -> Vec<Expr> {
    vec![matches, Expr::Accept]
}

fn prerouting(table: &NftTable) -> Vec<Vec<Expr>> {
    let mark = table.mark;
    let mut rules = vec![
        accept(Expr::IifName(table.tun.clone())),
        accept(Expr::IifName("lo".to_owned())),
        vec![Expr::MetaMarkAdd(mark)],
        accept(Expr::Protocol(TCP)),
        // To a socket of ours: what that sends has the mark. To no socket, and there is nobody to answer.
        vec![Expr::Protocol(UDP), Expr::SocketMarkIs(mark, mark.0), Expr::Accept],
    ];
    for (carried, first) in
        [(Carried::Udp, &[Expr::SocketMarkIs(Mark(0), mark.0)][..]), (Carried::Other, &[])]
    {
        for here in Peers::both(Began::Here, carried) {
            let known = [Expr::Known(here, true), Expr::Remember(here, true), Expr::Accept];
            rules.push(here.rule(&[first, &known].concat()));
        }
        for there in Peers::both(Began::There, carried) {
            rules.push(there.rule(&[first, &[Expr::Remember(there, true)]].concat()));
        }
        if carried == Carried::Udp {
            rules.extend([UDP, ICMP, ICMPV6].map(|protocol| accept(Expr::Protocol(protocol))));
        }
    }
    rules
}

fn output(table: &NftTable) -> Vec<Vec<Expr>> {
    let mark = table.mark;
    let mut rules = table.beginnings();
    // What leaves past the capture device already needs none of it, but for who spoke first.
    rules.extend([accept(Expr::MetaMarkHas(mark)), accept(Expr::OifName("lo".to_owned()))]);
    let marked = Expr::MetaMarkIsNot(Mark(0));
    if table.serving.is_empty() {
        // Nobody was connected before: only sockets with marks of their own have to be looked up.
        rules.push(vec![Expr::Protocol(TCP), Expr::MetaMarkIs(Mark(0), u32::MAX), Expr::Accept]);
    }
    let answered = |there: Peers| {
        let known =
            [Expr::Known(there, false), Expr::Remember(there, false), Expr::MetaMarkAdd(mark), Expr::Accept];
        there.rule(&known)
    };
    for carried in [Carried::Udp, Carried::Tcp, Carried::Other] {
        match carried {
            Carried::Tcp => {
                rules.extend(Peers::both(Began::There, carried).map(|peers| {
                    peers.rule(&[marked.clone(), Expr::TcpAgrees, Expr::Remember(peers, false)])
                }))
            }
            Carried::Udp | Carried::Other => rules.extend(
                Peers::both(Began::Here, carried)
                    .map(|peers| peers.rule(&[Expr::Known(peers, false), Expr::Accept])),
            ),
        }
        rules.extend(Peers::both(Began::There, carried).map(answered));
        match carried {
            Carried::Tcp => rules.push(accept(Expr::Protocol(TCP))),
            Carried::Udp => {
                rules.extend(
                    Peers::both(Began::Here, carried)
                        .map(|peers| peers.rule(&[Expr::Remember(peers, false)])),
                );
                rules.push(accept(Expr::Protocol(UDP)));
                rules.extend([ICMP, ICMPV6].map(|protocol| accept(Expr::Protocol(protocol))));
            }
            Carried::Other => rules.extend(
                Peers::both(Began::Here, carried).map(|peers| peers.rule(&[Expr::Remember(peers, false)])),
            ),
        }
    }
    rules
}
