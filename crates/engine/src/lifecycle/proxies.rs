//! What our own sockets connect to.

use std::io;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use oneway_outbound::{DialError, Outbound, Resolve};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::assemble;
use crate::blocking::wait_for;
use crate::cancel::Cancel;
use crate::circle;
use crate::config::{Config, DnsUpstream, Protect};
use crate::dispatch::{Dispatch, Entry};
use crate::dns;
use crate::error::EngineError;
use crate::exclude::Exclusions;
use crate::lifecycle::protection;

/// How long it may take to find all proxies.
const PATIENCE: Duration = Duration::from_secs(5);

/// All that our own sockets connect to, where the protection is about that; names are looked up if they may be.
pub(crate) fn servers(
    config: &Config,
    dispatch: &Dispatch,
    look_up: bool,
) -> Result<Vec<IpAddr>, EngineError> {
    if !are_needed(config) {
        return Ok(Vec::new());
    }
    if look_up {
        self::look_up(dispatch.entries(), &assemble::system_resolver(), true, &Cancel::default())?;
    }
    Ok(assemble::servers(dispatch, &dns::server_addresses(&config.dns)))
}

/// Finds the addresses of one outbound's proxy by the system's resolver, if it has one.
pub(crate) fn resolve(outbound: &Outbound) -> Result<Result<(), DialError>, EngineError> {
    wait_for(async || outbound.resolve().await.map(drop))
}

/// Whether nothing can be planned without the addresses of the proxies: the routes to them are the protection.
pub(super) fn are_needed(config: &Config) -> bool {
    matches!(config.egress.protect, Protect::HostRoute | Protect::HostRouteHalves)
}

/// Whether the system's resolver is asked for them, before there is any socket of ours: where they are needed for that, and
/// where nobody else is named whom to ask. It may know names that the servers of the system do not.
pub(super) fn are_asked_of_system(config: &Config) -> bool {
    let system = |upstream: &DnsUpstream| matches!(upstream, DnsUpstream::System);
    let nobody_named = config.dns.upstream.iter().all(system) && config.dns.domains.is_empty();
    are_needed(config) || nobody_named && !protection::is_elsewhere(config)
}

/// Finds the addresses of these outbounds' proxies, all at the same time. One that is not found is down, and looked for again:
/// the others are no worse for it. Says which ones those are; that is an error if they are `needed`.
///
/// # Errors
/// [`EngineError::Cancelled`] as soon as that is wanted.
pub(super) fn look_up(
    entries: &[Arc<Entry>],
    by: &Arc<dyn Resolve>,
    needed: bool,
    cancel: &Cancel,
) -> Result<Vec<String>, EngineError> {
    let found = async || {
        let end = Instant::now() + PATIENCE;
        let mut looking = JoinSet::new();
        for entry in entries {
            let (entry, by) = (Arc::clone(entry), Arc::clone(by));
            looking.spawn(async move {
                let Some(proxy) = entry.outbound.proxy() else { return Ok(None) };
                let found = match timeout_at(end, proxy.resolve_by(&*by)).await {
                    Ok(found) => found,
                    Err(_) => Err(DialError::Resolve {
                        proxy: Arc::clone(proxy.label()),
                        source: io::Error::new(io::ErrorKind::TimedOut, "nobody has answered"),
                    }),
                };
                match found {
                    Ok(_) => Ok(None),
                    Err(error) if needed => Err(error),
                    Err(error) => {
                        entry.observe(Some(&error));
                        Ok(Some(format!("outbound {:?} is down: {error}", entry.name)))
                    }
                }
            });
        }
        let mut lost = Vec::new();
        while let Some(looked) = looking.join_next().await {
            match looked {
                Ok(looked) => lost.extend(looked?),
                Err(error) => resume_unwind(error.into_panic()),
            }
        }
        lost.sort();
        Ok(lost)
    };
    wait_for(async || {
        tokio::select! {
            found = found() => found,
            () = cancel.cancelled() => Err(EngineError::Cancelled),
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use oneway_outbound::{Resolve, Resolving};

    use super::*;
    use crate::config::Options;

    /// A resolver whose servers are all silent.
    struct Silent;

    impl Resolve for Silent {
        fn resolve<'a>(&'a self, _: &'a str, _: u16) -> Resolving<'a> {
            Box::pin(async {
                // As the system's resolver does it: on a thread that nothing ends.
                let asking = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(20)));
                asking.await?;
                Ok(Vec::new())
            })
        }
    }

    #[test]
    fn a_start_is_called_off_while_it_looks_up_names() {
        let options =
            Options { proxy: Some("socks5://proxy.example:1080".parse().unwrap()), ..Options::default() };
        let config = Config::load(None, options).unwrap().config;
        let silent = Arc::new(Silent) as Arc<dyn Resolve>;
        let (dispatch, _) = assemble::dispatch(&config, &silent).unwrap();
        let cancel = Cancel::default();
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let found = scope.spawn(|| look_up(dispatch.entries(), &silent, true, &cancel));
            cancel.cancel();
            assert!(matches!(found.join().unwrap(), Err(EngineError::Cancelled)));
        });
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}
