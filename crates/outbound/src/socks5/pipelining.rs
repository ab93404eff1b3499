//! Whether a SOCKS5 proxy takes the request together with the greeting, which saves one round trip of every
//! connection through it.
//!
//! RFC 1928 does not forbid it, and a server that reads its input as the stream that it is does not notice. Some read a
//! greeting with one call and throw away what came behind it; they would never answer the request. So it is tried
//! first, on a connection on which nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use oneway_egress::Egress;
use tokio::time::timeout;

use super::Socks5;
use crate::proxy::Proxy;
use crate::{DialError, ProxyFault};

/// Connections through a proxy before it is tried: for a few it is not worth one more.
const ENOUGH: u32 = 64;

/// How long a proxy may take for an answer that asks nobody else.
const PATIENCE: Duration = Duration::from_secs(5);

const UNKNOWN: u8 = 0;
const ASKING: u8 = 1;
const YES: u8 = 2;
const NO: u8 = 3;

/// What is known of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Pipelining {
    state: AtomicU8,
    /// Connections that the proxy has made while nothing was known.
    seen: AtomicU32,
}

impl Pipelining {
    /// It was seen to take both together.
    pub(crate) fn is_known_to_work(&self) -> bool {
        self.state.load(Relaxed) == YES
    }

    /// Another server answers now, or the same one otherwise than before: what was seen does not count any more.
    pub(crate) fn forget(&self) {
        self.seen.store(0, Relaxed);
        self.state.store(UNKNOWN, Relaxed);
    }

    /// Counts a connection. Whether it is time to try, which is said to one caller only.
    fn is_due(&self) -> bool {
        self.state.load(Relaxed) == UNKNOWN
            && self.seen.fetch_add(1, Relaxed) >= ENOUGH
            && self.state.compare_exchange(UNKNOWN, ASKING, Relaxed, Relaxed).is_ok()
    }

    /// What a trial showed; nothing, if the proxy was forgotten meanwhile.
    fn learn(&self, state: u8) {
        let _ = self.state.compare_exchange(ASKING, state, Relaxed, Relaxed);
    }
}

/// Notes that the proxy has made a connection. After enough of them it is tried in the background, if it is not known yet.
pub(crate) fn learn(proxy: &Arc<Proxy>, egress: &Arc<Egress>) {
    if proxy.may_pipeline() && proxy.pipelining().is_due() {
        let (proxy, egress) = (Arc::clone(proxy), Arc::clone(egress));
        tokio::spawn(async move { proxy.pipelining().learn(ask(&proxy, &egress).await) });
    }
}

/// Asks for something that no proxy does. The refusal shows that it has read the request.
async fn ask(proxy: &Proxy, egress: &Egress) -> u8 {
    let mut machine = Socks5::nothing();
    match timeout(PATIENCE, proxy.dial_pipelined(egress, &mut machine)).await {
        Ok(Ok(_) | Err(DialError::Proxy { fault: ProxyFault::Refused { .. }, .. })) => YES,
        // It could not be asked.
        Ok(Err(DialError::ProxyDown { .. } | DialError::ProxySilent { .. } | DialError::Resolve { .. })) => {
            UNKNOWN
        }
        Ok(Err(_)) | Err(_) => NO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_tries_and_only_what_it_saw_counts() {
        let known = Pipelining::default();
        let is_due = |known: &Pipelining| (0..=ENOUGH).any(|_| known.is_due());
        assert!((0..ENOUGH).all(|_| !known.is_due()), "too few");
        assert!(known.is_due());
        assert!(!known.is_due(), "somebody tries already");
        assert!(!known.is_known_to_work());
        known.learn(YES);
        assert!(known.is_known_to_work() && !known.is_due());
        known.forget();
        assert!(!known.is_known_to_work());
        assert!(is_due(&known));
        known.forget();
        known.learn(YES);
        assert!(!known.is_known_to_work(), "that was another server");
        assert!(is_due(&known));
        known.learn(NO);
        assert!(!known.is_due() && !known.is_known_to_work());
    }
}
