//! The table that hands this host's own TCP and UDP to our transparent sockets, as data.
//!
//! As with [`redirect`](super::redirect) the rules and routes have decided what is captured: what leads into the capture
//! device. It gets a mark by which the route is looked up again and leads to loopback (`local default dev lo`), and is
//! handed to a socket of ours as it comes in there (`TPROXY`), with both addresses as they were. Without the device the
//! table does nothing.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::{Chain, Direction, Expr, Hook, HookPriority, TCP, UDP, display};
use crate::id::{Family, Mark};

/// The table, of family `inet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TproxyTable {
    /// Its name.
    pub name: String,
    /// The capture device.
    pub tun: String,
    /// Our bit: what is led past the device after its route was first looked up still bears the device's name here.
    pub mark: Mark,
    /// The bit by which packets are led to loopback.
    pub divert: Mark,
    /// The port of our sockets on `127.0.0.1` and `::1`.
    pub port: u16,
}

impl TproxyTable {
    /// Its chains: `output`, `prerouting`.
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let marked = |protocol| {
            vec![
                Expr::OifName(self.tun.clone()),
                Expr::Protocol(protocol),
                Expr::MetaMarkIs(Mark(0), self.mark.0),
                Expr::MetaMarkAdd(self.divert),
                Expr::CtMarkAdd(self.divert),
            ]
        };
        // Others give each packet that comes in the mark of its connection, wg-quick every datagram: ours was lost, and with
        // it the way to loopback. So the connection has it, and gives it back. Its answers must not have it: with
        // `src_valid_mark` the way back to whoever they are from would be one to loopback, and they would be dropped.
        let begun = vec![
            Expr::IifName("lo".to_owned()),
            Expr::CtDirection(Direction::Original),
            Expr::CtMarkHas(self.divert),
            Expr::MetaMarkAdd(self.divert),
        ];
        let answers = vec![
            Expr::IifNameNot("lo".to_owned()),
            Expr::MetaMarkHas(self.divert),
            Expr::MetaMarkRemove(self.divert),
        ];
        let taken = |(family, protocol)| {
            vec![
                Expr::IifName("lo".to_owned()),
                Expr::Family(family),
                Expr::Protocol(protocol),
                Expr::MetaMarkHas(self.divert),
                Expr::Tproxy(family, self.port),
            ]
        };
        let both = Family::ALL.into_iter().flat_map(|family| [(family, TCP), (family, UDP)]);
        vec![
            Chain {
                name: "output",
                hook: Hook::Output,
                kind: "route",
                priority: HookPriority::BehindMangle,
                rules: [TCP, UDP].map(marked).into(),
            },
            Chain {
                name: "prerouting",
                hook: Hook::Prerouting,
                kind: "filter",
                priority: HookPriority::BehindMangle,
                rules: [begun, answers].into_iter().chain(both.map(taken)).collect(),
            },
        ]
    }
}

impl Display for TproxyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(&self.name, &self.chains(), f)
    }
}
