//! Which servers are asked without EDNS.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Programs may choose any server.
const MOST: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// How long a server is asked without: others take its place, and what has dropped its answers may be another router by then.
const HOLDS: Duration = Duration::from_secs(600);

/// The servers that have answered a question without EDNS, and not the same one with it (RFC 6891, 7).
pub(crate) struct Plain(Mutex<LruCache<SocketAddr, Instant>>);

impl Default for Plain {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MOST)))
    }
}

impl Plain {
    /// Whether a server is one of them.
    pub(crate) fn has(&self, server: SocketAddr) -> bool {
        self.0.lock().get(&server).is_some_and(|until| *until > Instant::now())
    }

    /// It is one.
    pub(crate) fn add(&self, server: SocketAddr) {
        self.0.lock().put(server, Instant::now() + HOLDS);
    }
}

/// What servers say to EDNS that were made before it.
pub(crate) fn refuses_edns(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)
}

/// The same question without EDNS, by another number.
pub(crate) fn without_edns(query: &Message) -> Message {
    let mut plain = Message::query();
    plain.metadata.recursion_desired = query.metadata.recursion_desired;
    plain.queries.clone_from(&query.queries);
    plain
}
