//! This host's resolver settings: whether its programs have to be told to ask here, and where.

use std::net::SocketAddr;

use ipnet::IpNet;
use oneway_route::Resolver;

use super::{PORT, upstreams};
use crate::config::{Config, DnsConfig, DnsMode, HostResolver};
use crate::error::EngineError;

/// Where queries are answered that programs of this host are told to ask here.
pub(crate) fn answers_at(config: &Config, tun_addresses: &[IpNet]) -> Option<SocketAddr> {
    let is_answered = config.dns.mode != DnsMode::Off && config.dns.resolver != HostResolver::Off;
    let at = is_answered.then(|| oneway_route::nameserver(tun_addresses)).flatten()?;
    Some(SocketAddr::new(at, PORT))
}

/// The settings, for the plan to decide about; none where they are left alone.
///
/// # Errors
/// [`EngineError::Route`] when they cannot be read, and have to be changed.
pub(crate) fn host_resolver(config: &DnsConfig) -> Result<Option<Resolver>, EngineError> {
    let always = config.resolver == HostResolver::Always;
    if config.mode == DnsMode::Off || config.resolver == HostResolver::Off {
        return Ok(None);
    }
    match Resolver::look() {
        Ok(resolver) => Ok(Some(Resolver { upstream: is_anybody_else_known(config), always, ..resolver })),
        Err(error) if always => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "whether what programs ask goes past the capture is not known");
            Ok(None)
        }
    }
}

/// Whether we can ask anybody but a program of this host, which may ask us in turn.
fn is_anybody_else_known(config: &DnsConfig) -> bool {
    let (upstreams, _) = upstreams(config, None, None);
    upstreams.iter().any(|upstream| upstream.addr().is_none_or(|at| !at.ip().is_loopback()))
}
