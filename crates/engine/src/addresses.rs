//! The addresses of names that rules on addresses ask for.
//!
//! A flow to a fake address has a name alone. A rule on addresses that does not say `no-resolve` wants to know where that is.
//! That is asked for the program's sake, and leaves as the questions of programs do. What was found is kept here, so that a
//! flow need not wait for what another one has waited for.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lru::LruCache;
use oneway_dns::Client;
use parking_lot::Mutex;

use crate::blocking::wait_for;

/// Names that are kept; the one that was asked for longest ago gives way.
const MOST: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// How long a flow waits for its name's address. Without one, the rules on addresses do not match it.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long an answer holds, whatever it says itself: a flow must find what it has waited for.
const LEAST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);

/// What is known of names, and who is asked about others.
#[derive(Debug)]
pub(crate) struct Addresses {
    client: OnceLock<Arc<Client>>,
    known: Mutex<LruCache<Arc<str>, Known>>,
    /// How often everything was forgotten.
    forgotten: AtomicU32,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    until: Instant,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { client: OnceLock::new(), known: Mutex::new(LruCache::new(MOST)), forgotten: AtomicU32::new(0) }
    }
}

impl Addresses {
    /// Lets this client be asked. Without any no name has an address.
    pub(crate) fn ask(&self, client: &Arc<Client>) {
        let _ = self.client.set(Arc::clone(client));
    }

    /// Forgets everything: others are asked from now on.
    pub(crate) fn forget(&self) {
        let mut known = self.known.lock();
        self.forgotten.fetch_add(1, Relaxed);
        known.clear();
    }

    /// The addresses of a name, of both families; none of them if it has none. `None` if they have to be looked for.
    pub(crate) fn known(&self, host: &str) -> Option<Vec<IpAddr>> {
        if self.client.get().is_none() {
            return Some(Vec::new());
        }
        let mut known = self.known.lock();
        let Known { addresses, until } = known.get(host)?;
        if *until <= Instant::now() {
            return None;
        }
        Some(addresses.clone())
    }

    /// Looks for the addresses of a name, so that they are known.
    pub(crate) async fn find(&self, host: &Arc<str>) {
        let Some(client) = self.client.get() else { return };
        let asked = self.forgotten.load(Relaxed);
        let found = tokio::time::timeout(PATIENCE, client.resolve_for_program(host)).await;
        let (addresses, ttl) = match found {
            Ok(Ok(found)) => (found.addresses, found.ttl.clamp(LEAST, LONGEST)),
            Ok(Err(error)) => {
                tracing::debug!(%host, %error, "no address for the rules");
                (Vec::new(), LEAST)
            }
            Err(_) => (Vec::new(), LEAST),
        };
        let found = Known { addresses, until: Instant::now() + ttl };
        let mut known = self.known.lock();
        // What those of before have said is not kept; whoever waits asks again.
        if self.forgotten.load(Relaxed) == asked {
            known.put(Arc::clone(host), found);
        }
    }

    /// The same on a thread that may block, and runs no other tasks.
    pub(crate) fn look(&self, host: &str) -> Vec<IpAddr> {
        if let Some(known) = self.known(host) {
            return known;
        }
        let found = wait_for(async || self.find(&host.into()).await);
        found.ok().and_then(|()| self.known(host)).unwrap_or_default()
    }
}
