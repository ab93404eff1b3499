//! Keeps the addresses of proxies that are given by name: asked for again when they expire, and when the proxy fails.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneway_outbound::Proxy;
use tokio::task::JoinSet;

use super::known;
use crate::dispatch::{Dispatch, Entry};
use crate::worker::Shared;

/// Between two questions about a name, however short-lived its addresses are and however many dials fail.
const LEAST: Duration = Duration::from_secs(1);
/// A list in a file does not expire; it is looked at now and then.
const FILE: Duration = Duration::from_secs(60);
const MOST: Duration = Duration::from_secs(3600);

/// Keeps the addresses of all of them, by `tasks`. On one worker is enough.
pub(crate) fn keep(shared: &Arc<Shared>, dispatch: &Arc<Dispatch>, tasks: &mut JoinSet<()>) {
    for entry in dispatch.entries() {
        if let Some(proxy) = entry.outbound.proxy()
            && proxy.config().host.parse::<IpAddr>().is_err()
        {
            tasks.spawn_local(keep_one(Arc::clone(shared), Arc::clone(entry), Arc::clone(proxy)));
        }
    }
}

async fn keep_one(shared: Arc<Shared>, entry: Arc<Entry>, proxy: Arc<Proxy>) {
    let config = proxy.config();
    let mut pause = LEAST;
    // The system has just resolved it, without saying for how long that holds.
    let mut fresh = false;
    loop {
        let begin = Instant::now();
        let in_file = known(&config.host);
        let found = if in_file.is_empty() {
            let client = shared.dns.client();
            if fresh { client.resolve_again(&config.host).await } else { client.resolve(&config.host).await }
        } else {
            Ok(oneway_dns::Resolved { addresses: in_file, ttl: FILE })
        };
        let wait = match found {
            Ok(found) => {
                pause = LEAST;
                let addrs = found.addresses.iter().map(|ip| SocketAddr::new(*ip, config.port)).collect();
                replace(&proxy, addrs);
                found.ttl
            }
            Err(error) => {
                // Those of before may still be right, and are all that there is.
                tracing::debug!(proxy = %proxy.label(), %error, "its name cannot be resolved again");
                pause = (pause * 2).min(MOST);
                pause
            }
        };
        fresh = tokio::select! {
            () = tokio::time::sleep(wait.clamp(LEAST, MOST)) => false,
            () = entry.down.notified() => true,
        };
        tokio::time::sleep(LEAST.saturating_sub(begin.elapsed())).await;
    }
}

/// Replaces the addresses if they have changed. Servers answer in ever another order, which changes nothing.
fn replace(proxy: &Proxy, addrs: Vec<SocketAddr>) {
    let sorted = |addrs: &[SocketAddr]| {
        let mut addrs = addrs.to_vec();
        addrs.sort();
        addrs
    };
    if sorted(&addrs) != sorted(&proxy.addrs()) {
        tracing::info!(proxy = %proxy.label(), ?addrs, "the proxy's name has other addresses now");
        proxy.set_addrs(addrs);
    }
}
