//! The table that refuses what would escape the capture, as data.
//!
//! Rules and routes do not see all: a socket that is bound to a device is not led by routes of another one, and IPv4
//! takes every destination for on-link where such a socket finds no route (`ip_route_output_key_hash_rcu`,
//! net/ipv4/route.c). And whoever deletes our rules would let everything out. So what is about to leave is looked at
//! once more, after the routes.

use std::fmt::{self, Display};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Chain, Expr, Hook, TCP, UDP, display};
use crate::error::RouteError;
use crate::id::{Family, Mark};

/// The port of DNS.
pub(crate) const DNS: u16 = 53;

/// The table, of family `inet`. What it refuses gets a reset or ICMP at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefuseTable {
    /// Its name.
    pub name: String,
    /// Our bit: our own sockets, answers to what came in, excluded control groups.
    pub mark: Mark,
    /// The capture device.
    pub tun: String,
    /// Whether what this host forwards is captured as well.
    pub forwarded: bool,
    /// Marks with their masks by which other programs steer or exempt their own traffic.
    pub foreign: Vec<(Mark, u32)>,
    /// Users whose traffic is not captured.
    pub users: Vec<u32>,
    /// What is excluded, DNS and all.
    pub excluded: Vec<IpNet>,
    /// What is not captured but for DNS: on-link networks, multicast and the like.
    pub direct: Vec<IpNet>,
    /// What is captured.
    pub captured: Vec<IpNet>,
}

/// A packet that is about to leave.
#[derive(Debug, Clone, Copy)]
pub struct Leaving<'a> {
    /// The device.
    pub device: &'a str,
    /// Its destination.
    pub dst: IpAddr,
    /// Its mark.
    pub mark: u32,
    /// Who sends it.
    pub user: u32,
    /// Whether it is a DNS query: UDP or TCP to port 53.
    pub dns: bool,
}

impl RefuseTable {
    /// Whether it refuses a packet of this host.
    pub fn refuses(&self, packet: &Leaving<'_>) -> bool {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&packet.dst));
        let has = |(mark, mask): (Mark, u32)| packet.mark & mask == mark.0 & mask;
        let exempt = packet.device == "lo"
            || packet.device == self.tun
            || has((self.mark, self.mark.0))
            || self.foreign.iter().any(|mark| has(*mark))
            || self.users.contains(&packet.user)
            || within(&self.excluded);
        !exempt && within(&self.captured) && (packet.dns || !within(&self.direct))
    }

    /// Whether it is on this host, as it was made.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_there(&self) -> Result<bool, RouteError> {
        crate::os::is_there(&self.name, &self.chains())
    }

    /// Its chains: `output`, and `forward` where that is captured.
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let accept = |matches: Expr| vec![matches, Expr::Accept];
        let mut rules = vec![
            accept(Expr::OifName("lo".to_owned())),
            accept(Expr::OifName(self.tun.clone())),
            accept(Expr::MetaMarkIs(self.mark, self.mark.0)),
        ];
        rules.extend(self.foreign.iter().map(|(mark, mask)| accept(Expr::MetaMarkIs(*mark, *mask))));
        rules.extend(self.users.iter().map(|user| accept(Expr::Uid(*user))));
        rules.extend(self.excluded.iter().flat_map(|net| to(*net).map(accept)));
        for net in &self.captured {
            rules.extend(to(*net).map(|net| vec![net, Expr::Dport(UDP, DNS), Expr::Reject]));
            rules.extend(to(*net).map(|net| vec![net, Expr::Dport(TCP, DNS), Expr::Reset]));
        }
        rules.extend(self.direct.iter().flat_map(|net| to(*net).map(accept)));
        for net in &self.captured {
            // A reset: of ICMP a program learns with the next SYN only, as its socket is busy with this one.
            rules.extend(to(*net).map(|net| vec![net, Expr::Protocol(TCP), Expr::Reset]));
            rules.extend(to(*net).map(|net| vec![net, Expr::Reject]));
        }
        let forward = self.forwarded.then(|| Chain::filter("forward", Hook::Forward, rules.clone()));
        [Some(Chain::filter("output", Hook::Output, rules)), forward].into_iter().flatten().collect()
    }
}

/// The match for a destination.
fn to(net: IpNet) -> Option<Expr> {
    Some(match net.prefix_len() {
        0 => Expr::Family(Family::of_net(net)),
        _ => Expr::Daddr(net),
    })
}

impl Display for RefuseTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(&self.name, &self.chains(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RefuseTable {
        RefuseTable {
            name: "oneway_strict".into(),
            mark: Mark(0x1000_0000),
            tun: "oneway0".into(),
            forwarded: false,
            foreign: vec![(Mark(0x40), 0xff)],
            users: vec![1234],
            excluded: vec!["10.0.0.0/8".parse().unwrap()],
            direct: vec!["192.0.2.0/24".parse().unwrap()],
            captured: vec!["0.0.0.0/0".parse().unwrap()],
        }
    }

    #[test]
    fn refuses_what_would_escape_and_nothing_else() {
        let of = |dst: &str| Leaving {
            device: "eth0",
            dst: dst.parse().unwrap(),
            mark: 0,
            user: 1000,
            dns: false,
        };
        let refused = |packet: &Leaving<'_>| table().refuses(packet);
        assert!(refused(&of("203.0.113.1")));
        assert!(!refused(&of("192.0.2.9")), "on-link");
        assert!(refused(&Leaving { dns: true, ..of("192.0.2.9") }), "a resolver there");
        assert!(!refused(&Leaving { dns: true, ..of("10.1.1.1") }), "one that is excluded");
        assert!(!refused(&of("2001:db8::1")), "a family that is not captured");
        assert!(!refused(&Leaving { mark: 0x1000_0000, dns: true, ..of("203.0.113.1") }), "our own");
        assert!(!refused(&Leaving { mark: 0x140, ..of("203.0.113.1") }), "another tunnel's");
        assert!(refused(&Leaving { mark: 0x41, ..of("203.0.113.1") }));
        assert!(!refused(&Leaving { user: 1234, ..of("203.0.113.1") }));
        assert!(!refused(&Leaving { device: "oneway0", ..of("203.0.113.1") }));
    }
}
