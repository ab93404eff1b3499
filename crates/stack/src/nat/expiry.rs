//! When the name of a closed connection may be given to another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Conn;

/// Closed connections in the order in which they fall due.
///
/// Each waits [`Expiry::SETTLE`] first: by then the usual ending (both FINs, the last ACK) has passed, and the entry
/// goes. What has not ended by then waits [`Expiry::LINGER`] more, and again for as long as the kernel still delivers
/// what was written before its socket was closed; that it gives up on a client that takes nothing is the kernel's to
/// say (`tcp_orphan_retries`). Both waits are constant, so two queues keep the order without sorting.
#[derive(Debug)]
pub(super) struct Expiry<T> {
    settling: VecDeque<(Instant, Arc<Conn<T>>)>,
    lingering: VecDeque<(Instant, Arc<Conn<T>>)>,
}

impl<T> Default for Expiry<T> {
    fn default() -> Self {
        Self { settling: VecDeque::new(), lingering: VecDeque::new() }
    }
}

impl<T> Expiry<T> {
    /// Time for the last segments of an ordinary ending, retransmissions included.
    pub(super) const SETTLE: Duration = Duration::from_secs(2);
    /// `TCP_TIMEWAIT_LEN` of Linux (`include/net/tcp.h`): so long its TCP may still answer.
    pub(super) const LINGER: Duration = Duration::from_secs(60);

    pub(super) fn push(&mut self, now: Instant, conn: Arc<Conn<T>>) {
        self.settling.push_back((now + Self::SETTLE, conn));
    }

    /// The next connection whose name is free at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Arc<Conn<T>>> {
        while let Some((_, conn)) = self.settling.pop_front_if(|(due, _)| *due <= now) {
            if conn.is_finished() {
                return Some(conn);
            }
            // What was said until now is no sign of what is still to come.
            conn.take_heard();
            self.lingering.push_back((now + Self::LINGER, conn));
        }
        while let Some((_, conn)) = self.lingering.pop_front_if(|(due, _)| *due <= now) {
            if conn.is_finished() || !conn.take_heard() {
                return Some(conn);
            }
            self.lingering.push_back((now + Self::LINGER, conn));
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        self.settling.len() + self.lingering.len()
    }
}
