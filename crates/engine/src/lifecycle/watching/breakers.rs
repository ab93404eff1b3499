//! Closing the breakers again: when the kernel says so, and a canary has not come back.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use oneway_egress::{Finding, Quarantined};
use oneway_route::Family;

use super::{Watcher, far};

/// What goes into the TUN is read from it at once; this is long enough for a worker that is busy.
const FLIGHT: Duration = Duration::from_millis(100);

impl Watcher {
    /// Tries the breakers whose time has come; all of them if `all`, because the host has changed.
    pub(super) fn breakers(&mut self, all: bool) {
        let now = Instant::now();
        let open = self.egress.quarantined(now);
        if open.is_empty() {
            return;
        }
        if self.said.returned.may(now) {
            let where_: Vec<String> = open.iter().map(|(which, _)| name(*which)).collect();
            tracing::warn!(
                "packets of our own come back from the TUN; nothing more is sent to {} until that is over",
                where_.join(", ")
            );
        }
        let tried: Vec<Quarantined> =
            open.into_iter().filter(|(_, due)| all || *due).map(|(which, _)| which).collect();
        let mut flying = Vec::new();
        for which in tried {
            let dst = address(which);
            let loops = match which {
                Quarantined::Destination(dst) => self.loops(dst),
                Quarantined::Family(family) => self.all_loop(family),
            };
            if loops {
                self.egress.keep_breaker_open(which, now);
                self.widen(which, dst, now);
                continue;
            }
            match self.egress.send_canary(which, dst) {
                Ok(canary) => flying.push((which, canary)),
                // There is no way out at all now, and so none that loops.
                Err(oneway_egress::EgressError::Connect(_)) => flying.push((which, None)),
                Err(error) => {
                    self.failed("cannot send a canary", &error);
                    self.egress.keep_breaker_open(which, now);
                }
            }
        }
        if flying.iter().any(|(_, canary)| canary.is_some()) {
            thread::sleep(FLIGHT);
        }
        for (which, canary) in flying {
            let now = Instant::now();
            if canary.is_some_and(|canary| self.egress.came_back(&canary)) {
                self.egress.keep_breaker_open(which, now);
            } else {
                tracing::info!(
                    "{} is open again: neither the kernel nor a canary says that it loops",
                    name(which)
                );
                self.egress.close_breaker(which, now);
            }
        }
    }

    fn loops(&self, dst: IpAddr) -> bool {
        let verdicts = self.egress.prove(self.egress.routes(), self.tun.0, &[dst]);
        verdicts.iter().any(|verdict| verdict.finding == Finding::Loops)
    }

    /// If everything of its family loops, nothing is sent to any of it.
    fn widen(&self, which: Quarantined, dst: IpAddr, now: Instant) {
        let family = Family::of(dst);
        if matches!(which, Quarantined::Destination(_)) && self.all_loop(family) {
            self.egress.quarantine_family(family, now);
        }
    }
}

fn address(which: Quarantined) -> IpAddr {
    match which {
        Quarantined::Destination(dst) => dst,
        Quarantined::Family(family) => far(family),
    }
}

/// In words.
pub(in crate::lifecycle) fn name(which: Quarantined) -> String {
    match which {
        Quarantined::Destination(dst) => dst.to_string(),
        Quarantined::Family(family) => format!("any {family} address"),
    }
}
