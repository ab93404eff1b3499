//! Datagrams that wait for what the rules ask of them: whose they are, or where their name is.
//!
//! A connection's SYN waits anyway; a datagram of a client of whom the rules ask more than the packet says is
//! kept here for as long as the answer takes, and then goes its way as if it had just come.

use std::net::SocketAddr;
use std::rc::Rc;

use hashbrown::HashMap;
use oneway_flow::Inbound;
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
}

impl Worker {
    /// Sends on what was kept, as if it had just come.
    pub(super) fn go_on(self: &Rc<Self>, kept: Vec<Kept>) {
        for Kept { header, packet, inbound } in kept {
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
        let keep = || Kept { header: *header, packet: packet.into(), inbound: subject.inbound };
        let mut asking = self.asking.borrow_mut();
        let waiting = asking.len();
        if let Some(kept) = asking.get_mut(&subject.source) {
            if kept.len() < DATAGRAMS {
                kept.push(keep());
            } else {
                self.shared.stats.udp_refused.add();
            }
            return;
        }
        if waiting >= CLIENTS {
            return self.shared.stats.udp_refused.add();
        }
        asking.insert(subject.source, vec![keep()]);
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
