//! Networks that came after us and overlap ours: a LAN that this host has joined, another VPN.
//!
//! The device's networks and the fake addresses were free when they were chosen. Moving them would reset every flow; so it
//! is said what is out of reach meanwhile, and what helps.

use oneway_route::{Snapshot, collisions};

use super::Watcher;

impl Watcher {
    /// Says what is new, and what is over.
    pub(super) fn meet_newcomers(&mut self, snapshot: &Snapshot) {
        let found = collisions(snapshot, &self.tun.1, &self.forbidden);
        if found == self.colliding {
            return;
        }
        for (net, theirs) in found.iter().filter(|found| !self.colliding.contains(found)) {
            tracing::warn!(
                %net,
                %theirs,
                "a network has come that overlaps ours, and is out of reach of captured programs; start again with other networks (--tun-address, dns.fake-ip)"
            );
        }
        for (net, theirs) in self.colliding.iter().filter(|known| !found.contains(known)) {
            tracing::info!(%net, %theirs, "the network that overlapped ours is gone");
        }
        self.watched.set_overlaps(found.iter().map(|(net, theirs)| format!("{net} and {theirs}")).collect());
        self.colliding = found;
    }
}
