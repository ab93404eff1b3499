//! What our own sockets connect to.

use std::net::{IpAddr, SocketAddr};

use oneway_outbound::{DialError, Outbound};

use crate::assemble;
use crate::blocking::wait_for;
use crate::circle;
use crate::config::{Config, Protect};
use crate::dispatch::Dispatch;
use crate::dns;
use crate::error::EngineError;
use crate::exclude::Exclusions;

/// All that our own sockets connect to, where the protection is about that; names are looked up if they may be.
pub(crate) fn servers(
    config: &Config,
    dispatch: &Dispatch,
    look_up: bool,
) -> Result<Vec<IpAddr>, EngineError> {
    if !matches!(config.egress.protect, Protect::HostRoute | Protect::HostRouteHalves) {
        return Ok(Vec::new());
    }
    if look_up {
        resolve_proxies(dispatch)?;
    }
    Ok(assemble::servers(dispatch, &dns::server_addresses(&config.dns)))
}

/// Finds the addresses of one outbound's proxy by the system's resolver, if it has one.
pub(crate) fn resolve(outbound: &Outbound) -> Result<Result<(), DialError>, EngineError> {
    wait_for(async || outbound.resolve().await.map(drop))
}

/// Finds the addresses of the proxies by the system's resolver, while nothing is captured yet.
pub(super) fn resolve_proxies(dispatch: &Dispatch) -> Result<Vec<IpAddr>, EngineError> {
    wait_for(async || {
        let mut addresses = Vec::new();
        for entry in dispatch.entries() {
            addresses.extend(entry.outbound.resolve().await?.iter().map(SocketAddr::ip));
        }
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    })?
}

/// Says which outbounds' proxies are programs of this host that are captured themselves. Their flows are refused when they
/// come; a proxy that the rules send out directly is none of them.
pub(super) fn warn_of_circles(dispatch: &Dispatch, exclusions: &Exclusions) {
    for (id, at) in dispatch.local() {
        if let Some(listener) = oneway_flow::listener(at).filter(|listener| !exclusions.cover(listener)) {
            let name = &dispatch.by_id(id).name;
            let line = format!(
                "outbound {name:?} goes in a circle: its proxy {at} is {} of this host and is captured itself; what would \
                 be sent to it again is refused. To mend it, {}",
                circle::program(&listener),
                circle::fix(&listener)
            );
            dispatch.circles().say(id, &line);
        }
    }
}
