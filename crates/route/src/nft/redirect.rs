//! The table that has this host's own TCP end in our listeners, as data.
//!
//! Which connections are captured the rules and routes have decided before: those that lead into the capture device. What
//! is bound for there is sent to a port of the loopback address instead (`REDIRECT`), by connection tracking, so that
//! existing connections go on as they are. Without the device, after a crash for example, the table does nothing.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::{Chain, Expr, Hook, HookPriority, TCP, display};
use crate::id::Mark;

/// The table, of family `inet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectTable {
    /// Its name.
    pub name: String,
    /// The capture device.
    pub tun: String,
    /// Our bit: what is led past the device after its route was first looked up still bears the device's name here.
    pub mark: Mark,
    /// The port that our listeners have on `127.0.0.1` and `::1`.
    pub port: u16,
    /// Whether connections of our own are tracked in a zone of their own. A program's connection that was reset is remembered for
    /// ten seconds with where it was redirected to, and the kernel gives us its port: our own would be redirected, too, and a
    /// program's past us by what remains of ours.
    #[serde(default)]
    pub apart: bool,
}

/// The zone: any that others do not use.
const ZONE: u16 = 0x6f77;

impl RedirectTable {
    /// Its chains: `zone`, `output`.
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let redirect = vec![
            Expr::OifName(self.tun.clone()),
            Expr::Protocol(TCP),
            Expr::MetaMarkIs(Mark(0), self.mark.0),
            Expr::Redirect(self.port),
        ];
        let output = Chain {
            name: "output",
            hook: Hook::Output,
            kind: "nat",
            priority: HookPriority::DstNat,
            rules: vec![redirect],
        };
        let zone = Chain {
            name: "zone",
            hook: Hook::Output,
            kind: "filter",
            priority: HookPriority::Raw,
            rules: vec![vec![Expr::Protocol(TCP), Expr::MetaMarkHas(self.mark), Expr::CtZone(ZONE)]],
        };
        self.apart.then_some(zone).into_iter().chain([output]).collect()
    }
}

impl Display for RedirectTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(&self.name, &self.chains(), f)
    }
}
