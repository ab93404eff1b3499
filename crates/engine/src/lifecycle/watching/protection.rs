//! What protections need as the host, and what our sockets connect to, change.

use std::net::IpAddr;

use oneway_egress::Strategy;
use oneway_route::{Family, Plan, Protect};

use super::Watcher;
use crate::assemble;
use crate::lifecycle::protection;

/// Servers that are known at a time. Those of before keep their routes for the flows that they have; beyond this, flows to
/// those that no name leads to any more are reset.
const MOST: usize = 256;

impl Watcher {
    /// Makes no sockets of these families, and leaves none alive, while the addresses that tell ours are changed for others.
    pub(super) fn close_sources(&mut self, families: &[Family]) {
        let (strategy, _) = self.watched.strategy();
        let Strategy::SourceRule(mut rule) = strategy else { return };
        if families.is_empty() {
            return;
        }
        for family in families {
            match family {
                Family::V4 => rule.sources.v4 = None,
                Family::V6 => rule.sources.v6 = None,
            }
        }
        if let Err(error) = self.egress.set_strategy(Strategy::SourceRule(rule)) {
            self.failed("cannot stop making sockets", &error);
        }
        let count = self.egress.reset(|own, peer| families.contains(&Family::of(own)) && !peer.is_loopback());
        self.watched.reset(count);
        self.end_sessions();
    }

    /// Protects new sockets as a plan that is real says.
    pub(super) fn protect_as(&mut self, plan: &Plan) {
        let now = match plan.protect {
            Protect::SourceRule => protection::source_rule(plan).map(Strategy::SourceRule),
            protect if protect.is_host_route() => protection::host_route(plan).map(Strategy::HostRoute),
            _ => None,
        };
        let Some(now) = now.filter(|now| *now != *self.egress.strategy()) else { return };
        if let Err(error) = self.egress.set_strategy(now.clone()) {
            return self.failed("cannot protect sockets in the new way", &error);
        }
        tracing::info!("new sockets are protected by {now}");
        self.watched
            .set_strategy(now, "chosen again as the host, or what is connected to, has changed".to_owned());
    }

    /// The servers that our own sockets connect to now.
    fn servers(&self) -> Vec<IpAddr> {
        assemble::servers(&self.shared.dispatch.load(), &self.dns_servers)
    }

    /// Whether there are servers without a host route, where that is what protects.
    pub(super) fn unknown_servers(&self) -> bool {
        self.request.protect.is_host_route()
            && self.servers().iter().any(|server| !self.request.servers.contains(server))
    }

    /// Takes note of new servers for the next plan.
    pub(super) fn meet_servers(&mut self) {
        if !self.unknown_servers() {
            return;
        }
        let now = self.servers();
        let mut all = self.request.servers.clone();
        all.extend(now.iter().copied());
        all.sort();
        all.dedup();
        if all.len() > MOST {
            let gone = |peer: IpAddr| self.request.servers.contains(&peer) && !now.contains(&peer);
            if let Strategy::HostRoute(mut rule) = (*self.egress.strategy()).clone() {
                // First nothing goes there any more, then their routes go.
                rule.servers =
                    std::sync::Arc::new(rule.servers.iter().copied().filter(|s| now.contains(s)).collect());
                if let Err(error) = self.egress.set_strategy(Strategy::HostRoute(rule)) {
                    return self.failed("cannot forget servers of before", &error);
                }
            }
            let count = self.egress.reset(|_, peer| gone(peer));
            self.watched.reset(count);
            all = now;
        }
        tracing::info!(servers = all.len(), "the servers that need a host route have changed");
        self.request.servers = all;
    }
}
