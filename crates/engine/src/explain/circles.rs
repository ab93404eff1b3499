//! Proxies that are programs of this host: what they send on is captured and comes to them again, unless they are excluded.

use std::net::SocketAddr;

use crate::circle;
use crate::control::LoopFree;
use crate::dispatch::Dispatch;
use crate::exclude::Exclusions;

/// What is to be said about each outbound whose proxy is on this host.
pub(crate) fn circles(dispatch: &Dispatch, exclusions: &Exclusions) -> Vec<(u32, LoopFree, String)> {
    let local = dispatch.local().into_iter();
    local
        .filter_map(|(id, at)| by_local_proxy(at, exclusions).map(|(verdict, why)| (id, verdict, why)))
        .collect()
}

/// What is to be said about a proxy at an address of this host; `None` if its program is excluded.
pub(super) fn by_local_proxy(at: SocketAddr, exclusions: &Exclusions) -> Option<(LoopFree, String)> {
    let Some(listener) = oneway_flow::listener(at) else {
        let why = format!(
            "the proxy {at} is a program of this host that does not run yet, and what it sends would be captured and \
             come back to it; start it as `oneway exclude -- PROGRAM …`, and then look again"
        );
        return Some((LoopFree::NotProven, why));
    };
    if exclusions.cover(&listener) {
        return None;
    }
    let (verdict, unless) = match listener.process {
        Some(_) => (LoopFree::Loops, ""),
        // Its name and its control group are nobody's business but root's.
        None if exclusions.any() => (LoopFree::NotProven, "unless it is one of those that are excluded, "),
        None => (LoopFree::Loops, ""),
    };
    let why = format!(
        "the proxy {at} is {} of this host, and {unless}what it sends is captured and would be sent to it again; to mend \
         it, {}",
        circle::program(&listener),
        circle::fix(&listener)
    );
    Some((verdict, why))
}
