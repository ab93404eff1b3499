//! From a target to an outbound, and how well each outbound does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oneway_flow::{Network, Target};
use oneway_outbound::{DialError, Outbound, ProxyFault};
use oneway_rule::RuleSet;
use parking_lot::Mutex;

/// The rules and what they choose from.
#[derive(Debug)]
pub(crate) struct Dispatch {
    rules: RuleSet,
    /// What `flows` shows for each rule, then for the final choice.
    labels: Vec<Arc<str>>,
    last_label: Arc<str>,
    entries: Vec<Entry>,
}

/// An outbound and its name.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Arc<str>,
    /// Its type, as in the configuration.
    pub(crate) kind: &'static str,
    /// The proxy server as `host:port`, if it has one.
    pub(crate) server: Option<String>,
    pub(crate) outbound: Outbound,
    health: Mutex<Health>,
}

/// What the last attempts said about an outbound.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// None until it was tried.
    pub(crate) up: Option<bool>,
    pub(crate) last_error: Option<String>,
    pub(crate) since: Option<Instant>,
    /// When it was last said to be down, and whether that still stands in the log.
    said: Option<Instant>,
    said_down: bool,
}

/// A proxy that fails every other time would fill the log.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What the rules chose for a target.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    pub(crate) id: u32,
    pub(crate) entry: &'a Entry,
    pub(crate) rule: Arc<str>,
}

impl Dispatch {
    /// `labels` are the rules' own texts, in their order.
    pub(crate) fn new(rules: RuleSet, labels: Vec<Arc<str>>, last: &str, entries: Vec<Entry>) -> Self {
        Self { rules, labels, last_label: last.into(), entries }
    }

    /// The outbound for a target. The rules were compiled against this table, so that every number in them is here.
    #[expect(clippy::indexing_slicing, reason = "the rules' numbers come from this very table")]
    pub(crate) fn choose(&self, network: Network, target: &Target) -> Choice<'_> {
        let decision = self.rules.decide(network, target);
        let rule = decision.rule.and_then(|n| self.labels.get(n)).unwrap_or(&self.last_label);
        let id = decision.outbound.0;
        Choice { id, entry: &self.entries[id as usize], rule: Arc::clone(rule) }
    }

    /// The outbound of a number that [`Dispatch::choose`] gave.
    #[expect(clippy::indexing_slicing, reason = "the number comes from this very table")]
    pub(crate) fn by_id(&self, id: u32) -> &Entry {
        &self.entries[id as usize]
    }

    /// How many outbounds there are.
    pub(crate) fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    /// All outbounds.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Entry {
    pub(crate) fn new(name: &str, kind: &'static str, server: Option<String>, outbound: Outbound) -> Self {
        Self { name: name.into(), kind, server, outbound, health: Mutex::default() }
    }

    /// Whether packets leave as they are, without a proxy.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.outbound, Outbound::Direct)
    }

    /// Notes how an attempt went: `None` is success. A destination's failure says nothing about the outbound.
    pub(crate) fn observe(&self, error: Option<&DialError>) {
        let up = match error {
            None => true,
            Some(error) if is_proxy_failure(error) => false,
            Some(_) if !self.is_direct() => true,
            Some(_) => return,
        };
        let mut health = self.health.lock();
        if health.up != Some(up) {
            match error.filter(|_| !up) {
                Some(error) if health.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) => {
                    tracing::warn!(outbound = %self.name, %error, "outbound is down");
                    health.said = Some(Instant::now());
                    health.said_down = true;
                }
                None if health.said_down => {
                    tracing::info!(outbound = %self.name, "outbound is up again");
                    health.said_down = false;
                }
                _ => {}
            }
            health.since = Some(Instant::now());
            health.up = Some(up);
        }
        if !up {
            health.last_error = error.map(ToString::to_string);
        }
    }

    /// What the last attempts said.
    pub(crate) fn health(&self) -> Health {
        self.health.lock().clone()
    }
}

/// Whether an error is the proxy's own, and not its answer about one destination.
fn is_proxy_failure(error: &DialError) -> bool {
    match error {
        DialError::Resolve { .. }
        | DialError::ProxyDown { .. }
        | DialError::ProxySilent { .. }
        | DialError::ProxyBroke { .. }
        | DialError::HandshakeTimeout { requested: false, .. } => true,
        DialError::Proxy { fault, .. } => !matches!(fault, ProxyFault::Refused { .. } | ProxyFault::NoIpv6),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::*;

    /// What the log says.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_outbound_that_fails_every_other_time_does_not_fill_the_log() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let entry = Entry::new("far", "socks5", None, Outbound::Block);
            let error =
                DialError::ProxyBroke { proxy: "p".into(), source: io::ErrorKind::ConnectionReset.into() };
            for _ in 0..100 {
                entry.observe(Some(&error));
                assert_eq!(entry.health().up, Some(false));
                entry.observe(None);
                assert_eq!(entry.health().up, Some(true));
            }
        });
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("outbound is down") && lines[1].contains("outbound is up again"), "{text}");
    }
}
