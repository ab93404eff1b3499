//! Datagrams that wait for what the rules ask of them: whose they are, or where their name is.
//!
//! A connection's SYN waits anyway; a datagram of a client of whom the rules ask more than the packet says is
//! kept here for as long as the answer takes, and then goes its way as if it had just come.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use oneway_flow::Inbound;
use oneway_outbound::{Backlog, Room};
use oneway_wire::ip::IpView;
use oneway_wire::virtio::VirtioNetHdr;

use super::Worker;
use crate::dispatch::{Missing, Subject};

/// Clients of one worker that are asked about at once.
const CLIENTS: usize = 256;

/// Datagrams of one client that wait.
const DATAGRAMS: usize = 32;

/// What waits, by client.
pub(super) type Asking = HashMap<SocketAddr, Vec<Kept>>;

/// A datagram as it came.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) header: VirtioNetHdr,
    pub(super) packet: Box<[u8]>,
    pub(super) inbound: Inbound,
    _room: Room,
}

impl Kept {
    /// None if there is no room.
    pub(super) fn new(
        header: &VirtioNetHdr,
        packet: &[u8],
        inbound: Inbound,
        backlog: &Arc<Backlog>,
    ) -> Option<Self> {
        let room = backlog.room(packet.len())?;
        Some(Self { header: *header, packet: packet.into(), inbound, _room: room })
    }
}

impl Worker {
    /// Sends on what was kept, as if it had just come.
    pub(super) fn go_on(self: &Rc<Self>, kept: Vec<Kept>) {
        for Kept { header, packet, inbound, .. } in kept {
            if let Ok(ip) = IpView::parse(&packet) {
                self.udp(&header, &ip, inbound);
            }
        }
    }

    /// Keeps a datagram until that is known. At the limits it is lost, as datagrams may be.
    pub(super) fn ask_about(
        self: &Rc<Self>,
        header: &VirtioNetHdr,
        packet: &[u8],
        subject: &Subject<'_>,
        missing: Missing,
    ) {
        let mut asking = self.asking.borrow_mut();
        let has_room = match asking.get(&subject.source) {
            Some(kept) => kept.len() < DATAGRAMS,
            None => asking.len() < CLIENTS,
        };
        let keep = || Kept::new(header, packet, subject.inbound, self.shared.udp.backlog());
        let Some(kept) = has_room.then(keep).flatten() else {
            return self.shared.stats.udp_refused.add();
        };
        let waiting = asking.entry(subject.source).or_default();
        waiting.push(kept);
        if waiting.len() > 1 {
            return;
        }
        drop(asking);
        let (worker, target) = (Rc::clone(self), subject.target.clone());
        let Subject { network, source, inbound, is_fake, dscp, .. } = *subject;
        tokio::task::spawn_local(async move {
            let subject = Subject { network, source, inbound, target: &target, is_fake, dscp };
            worker.shared.dispatch.load_full().find(&subject, missing).await;
            let kept = worker.asking.borrow_mut().remove(&source).unwrap_or_default();
            worker.go_on(kept);
            // No batch of packets ends here, and the next one may be long in coming.
            worker.end_datagrams();
        });
    }
}
