//! Another configuration for an engine that runs.
//!
//! Everything is read, compiled and looked up first. Then one pointer is replaced, and what the new configuration does not
//! allow is reset. Outbounds that are defined as before stay what they are, with their connections.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::PoisonError;

use oneway_flow::{FlowInfo, Network, Target};
use oneway_outbound::Resolve;

use super::{Engine, select_again, warn_of_circles};
use crate::assemble;
use crate::config::{Config, ConfigError};
use crate::dispatch::{Dispatch, Subject};
use crate::error::EngineError;
use crate::reloaded::Reloaded;

impl Engine {
    /// Puts another configuration into force: its outbounds, groups, rules, rule sets, databases, and programs that are left
    /// out by name. Flows stay where they are if their outbound is defined as before and the rules do not block them;
    /// all others are reset.
    ///
    /// # Errors
    /// Nothing is changed then. [`EngineError::Config`] with everything that is wrong; [`EngineError::Restart`] if a setting
    /// differs that cannot change while it runs; [`EngineError::Proxy`] if a new proxy's name cannot be resolved.
    pub fn reload(&self, config: &Config) -> Result<Reloaded, EngineError> {
        // One at a time: each goes on from the one before.
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let resolver = Arc::clone(&self.resolver) as Arc<dyn Resolve>;
        let (dispatch, warnings) = assemble::dispatch(config, &resolver)?;
        let fixed = fixed(&current, config);
        if !fixed.is_empty() {
            return Err(EngineError::Restart { settings: fixed.join(", ") });
        }
        let before = self.shared.dispatch.load_full();
        let dispatch = Arc::new(dispatch.in_place_of(&before));
        resolve_new(&dispatch, &before)?;
        select_again(&dispatch, &self.selected);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        if self.is_capturing_here() {
            warn_of_circles(&dispatch, &self.about.exclusions);
        }
        let mut done = compare(&dispatch, &before, &warnings);

        self.shared.dispatch.store(Arc::clone(&dispatch));
        self.shared.replaced.send_replace(());
        done.reset = self.reset_disallowed(&dispatch);
        self.wake_watch();
        *current = config.clone();
        self.about.reloads.note();
        tracing::info!(
            outbounds = done.outbounds,
            changed = ?done.changed,
            removed = ?done.removed,
            reset = done.reset,
            "the configuration was read again"
        );
        Ok(done)
    }

    /// Resets the flows that a table does not let stay. Returns how many.
    fn reset_disallowed(&self, dispatch: &Dispatch) -> usize {
        let shared = &self.shared;
        let stays = |flow: &FlowInfo| {
            let ip = flow.target.addr.ip();
            let host = flow.target.host.clone().or_else(|| shared.dns.asked_name(ip));
            let judged = Target { addr: flow.target.addr, host };
            let (network, source, is_fake) = (flow.network, flow.source, shared.dns.is_fake(ip));
            let subject = Subject { network, source, target: &judged, is_fake, dscp: 0 };
            dispatch.lets_stay(&flow.outbound, &subject)
        };
        let mut doomed = HashSet::new();
        for flow in shared.flows.list() {
            // What is answered here leaves by no outbound.
            let answered = shared.dns.hijacks(flow.target.addr).is_some();
            if !answered && !stays(&flow) {
                doomed.insert(flow.id);
            }
        }
        let count = doomed.len();
        shared.udp.end(|session| doomed.contains(&session.flow()));
        if shared.flows.list().iter().any(|flow| flow.network == Network::Icmp && doomed.contains(&flow.id)) {
            shared.echo.forget();
        }
        self.orders.send_modify(|orders| orders.doomed = Arc::new(doomed));
        count
    }
}

/// Finds the addresses of proxies that were not there before.
fn resolve_new(dispatch: &Dispatch, before: &Dispatch) -> Result<(), EngineError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(EngineError::Worker)?;
    runtime.block_on(async {
        for entry in dispatch.entries().iter().filter(|entry| !before.has(entry)) {
            entry.outbound.resolve().await?;
        }
        Ok(())
    })
}

fn compare(now: &Dispatch, before: &Dispatch, warnings: &[ConfigError]) -> Reloaded {
    let name = |entry: &Arc<crate::dispatch::Entry>| entry.name.to_string();
    let is_group = |entry: &crate::dispatch::Entry| entry.group.is_some();
    let named = |table: &Dispatch, name: &str| {
        table.entries().iter().any(|entry| *entry.name == *name && is_group(entry))
    };
    let changed = now
        .entries()
        .iter()
        .filter(|entry| !before.has(entry) && (!is_group(entry) || !named(before, &entry.name)));
    let removed =
        before.entries().iter().filter(|entry| !now.entries().iter().any(|other| other.name == entry.name));
    Reloaded {
        outbounds: now.entries().len(),
        changed: changed.map(name).collect(),
        removed: removed.map(name).collect(),
        reset: 0,
        warnings: warnings.iter().map(ToString::to_string).collect(),
    }
}

/// The settings that differ and cannot change while an engine runs: the host was changed for them, threads were started
/// for them, or answers were given by them.
fn fixed(now: &Config, wanted: &Config) -> Vec<&'static str> {
    let (a, b) = (&now.capture, &wanted.capture);
    let all = [
        ("capture.mode", a.mode != b.mode),
        ("capture.stack", a.stack != b.stack),
        ("capture.include", a.include != b.include),
        ("capture.exclude", a.exclude != b.exclude),
        ("capture.exclude-uid", a.exclude_uid != b.exclude_uid),
        ("capture.exclude-cgroup", a.exclude_cgroup != b.exclude_cgroup),
        ("capture.forwarded", a.forwarded != b.forwarded),
        ("capture.ipv6", a.ipv6 != b.ipv6),
        ("capture.strict", a.strict != b.strict),
        ("tun", now.tun != wanted.tun),
        ("egress", now.egress != wanted.egress),
        ("dns", now.dns != wanted.dns),
        ("limits", now.limits != wanted.limits),
        ("control", now.control != wanted.control),
        ("log", now.log != wanted.log),
        ("--without-guard", now.without != wanted.without),
    ];
    all.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_change_is_named() {
        let now = Config::default();
        assert_eq!(fixed(&now, &now), [""; 0]);
        let mut wanted = now.clone();
        wanted.rules.final_outbound = "block".to_owned();
        assert_eq!(fixed(&now, &wanted), [""; 0]);
        wanted.capture.strict = !now.capture.strict;
        wanted.tun.mtu = "1400".parse().ok();
        assert_eq!(fixed(&now, &wanted), ["capture.strict", "tun"]);
    }
}
