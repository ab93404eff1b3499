//! Datagrams of one program that follow each other, sent on as one where they are alike.

use std::net::SocketAddr;
use std::sync::Arc;

use oneway_flow::Target;

use super::Session;

/// Longer datagrams are not put together: no uplink would take them so (`UDP_SEGMENT` knows no fragments).
const LONGEST: usize = 1472;

/// Datagrams that a kernel takes as one at least (`UDP_MAX_SEGMENTS`), and the bytes of them.
const MOST: usize = 64;
const MOST_BYTES: usize = 65_507;

/// The latest datagram's way, and those that came behind it and go the same.
///
/// The first is sent at once. So nothing waits but what stood in the queue together with another of its kind, and that no
/// longer than for the end of the batch.
#[derive(Debug, Default)]
pub(in crate::worker) struct Outbox {
    /// Where the latest came from, where it goes, and by what.
    latest: Option<(SocketAddr, SocketAddr, Arc<Session>, Target)>,
    /// What is kept: datagrams of `size` bytes, the last of which may be shorter.
    data: Vec<u8>,
    size: usize,
    count: usize,
}

impl Outbox {
    /// Keeps a datagram that goes the way of the latest, if it can be sent as one with those that are kept.
    pub(super) fn append(&mut self, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> bool {
        let goes_there = self.latest.as_ref().is_some_and(|latest| (latest.0, latest.1) == (src, dst));
        if !goes_there || payload.is_empty() || payload.len() > LONGEST {
            return false;
        }
        let alike = self.data.len() == self.count * self.size && payload.len() <= self.size;
        if self.count == 0 {
            self.size = payload.len();
        } else if !alike || self.count == MOST || self.data.len() + payload.len() > MOST_BYTES {
            return false;
        }
        self.data.extend_from_slice(payload);
        self.count += 1;
        true
    }

    /// Notes the way of a datagram that was sent. Nothing is kept any more at this time.
    pub(super) fn note(&mut self, src: SocketAddr, dst: SocketAddr, session: Arc<Session>, target: Target) {
        self.latest = Some((src, dst, session, target));
    }

    /// Gives `send` what is kept, with its way and the length of a datagram.
    pub(super) fn empty(&mut self, send: impl FnOnce(&Session, &Target, &[u8], usize)) {
        if self.count == 0 {
            return;
        }
        if let Some((_, _, session, target)) = &self.latest {
            send(session, target, &self.data, self.size);
        }
        self.data.clear();
        self.count = 0;
    }

    /// Forgets the latest way: its session may be over before there is another datagram.
    pub(super) fn forget(&mut self) {
        self.latest = None;
    }
}
