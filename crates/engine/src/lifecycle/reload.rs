//! Another configuration for an engine that runs.
//!
//! Everything is read, compiled, looked up and made ready on the host first. Then one pointer is replaced, and what the new
//! configuration does not allow is reset. Outbounds that are defined as before stay what they are, with their connections.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use oneway_dns::Client;
use oneway_egress::Strategy;
use oneway_flow::{Arrival, FlowInfo, Network, Target};
use oneway_outbound::Resolve;

use super::proxies::{are_needed, look_up, warn_of_circles};
use super::watching::Wanted;
use super::{Engine, select_again};
use crate::assemble;
use crate::cancel::Cancel;
use crate::config::{CaptureConfig, Config, ConfigError, DnsConfig, FakeIpConfig};
use crate::dispatch::{Dispatch, Entry, Subject};
use crate::dns::{self, Prepared, ProxyResolver};
use crate::error::EngineError;
use crate::reloaded::Reloaded;

/// How long the host may take to be changed, while others change it too.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long flows are looked into of which the rules ask more than is known. After that what is known has to do.
const LOOKING: Duration = Duration::from_secs(5);

impl Engine {
    /// Puts another configuration into force: its outbounds, groups, rules, rule sets and databases, the DNS servers and the
    /// names that get no fake addresses, and what is captured. Flows stay where they are if their outbound is defined as
    /// before and the rules do not block them; all others are reset.
    ///
    /// # Errors
    /// Nothing is changed then. [`EngineError::Config`] with everything that is wrong; [`EngineError::Restart`] if a setting
    /// differs that cannot change while it runs; [`EngineError::Proxy`] if a new proxy's name cannot be resolved, and needs a host route;
    /// [`EngineError::Plan`] and [`EngineError::Route`] if the host cannot be captured in that way.
    pub fn reload(&self, config: &Config) -> Result<Reloaded, EngineError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        // New proxies' names are asked for by sockets of that namespace, and its programs are looked at.
        self.home.run(|| self.reload_at_home(config))?
    }

    fn reload_at_home(&self, config: &Config) -> Result<Reloaded, EngineError> {
        let resolver = Arc::clone(&self.resolver) as Arc<dyn Resolve>;
        let (dispatch, mut warnings) = assemble::dispatch(config, &resolver)?;
        let blind = dispatch.blind().filter(|_| self.is_capturing_here());
        warnings.extend(blind.map(|why| ConfigError::new(None, why)));
        let now = self.config().clone();
        let fixed = fixed(&now, config);
        if !fixed.is_empty() {
            return Err(EngineError::Restart { settings: fixed.join(", ") });
        }
        let shared = &self.shared;
        let names = (now.dns != config.dns).then(|| shared.dns.prepare(&config.dns, &shared.egress));
        let names = names.transpose()?;
        let before = shared.dispatch.load_full();
        let dispatch = Arc::new(dispatch.in_place_of(&before));
        let by = ProxyResolver::default();
        by.hand_over(&self.asker(names.as_ref()));
        // Who was not found before may be by the servers of now.
        let is_lost = |entry: &Entry| entry.outbound.proxy().is_some_and(|proxy| proxy.addrs().is_empty());
        let new = dispatch.entries().iter().filter(|entry| !before.has(entry) || is_lost(entry));
        let new: Vec<_> = new.cloned().collect();
        let lost =
            look_up(&new, &(Arc::new(by) as Arc<dyn Resolve>), are_needed(config), &Cancel::default())?;
        select_again(&dispatch, &self.selected);
        self.prepare_host(config, &dispatch)?;

        // From here on nothing fails.
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let mut done = compare(&dispatch, &before, &warnings);
        done.warnings.extend(lost);
        if let Some(names) = names {
            shared.dns.set(names, &shared.egress);
            dispatch.addresses().forget();
        }
        self.about.exclusions.set(&config.capture);
        shared.dispatch.store(Arc::clone(&dispatch));
        shared.replaced.send_replace(());
        *self.config() = config.clone();
        done.reset = self.reset_disallowed(&dispatch, &config.capture);
        if self.is_capturing_here() {
            warn_of_circles(&dispatch, &self.about.exclusions);
        }
        self.about.reloads.note();
        tracing::info!(
            outbounds = done.outbounds,
            changed = done.changed.join(", "),
            removed = done.removed.join(", "),
            reset = done.reset,
            "the configuration was read again"
        );
        Ok(done)
    }

    /// Who is asked for the names of new proxies: the servers of the new configuration.
    fn asker(&self, names: Option<&Prepared>) -> Arc<Client> {
        let shared = &self.shared;
        match names {
            // With host routes nothing can be sent to a new server before it has one.
            Some(names) if !matches!(*shared.egress.strategy(), Strategy::HostRoute(_)) => {
                Arc::new(Client::new(Arc::clone(&shared.egress), names.client.clone()))
            }
            _ => Arc::clone(shared.dns.client()),
        }
    }

    /// Lets the watch over the host capture what is to be captured, and make routes to servers that need them.
    fn prepare_host(&self, config: &Config, dispatch: &Dispatch) -> Result<(), EngineError> {
        let dns_servers = dns::server_addresses(&config.dns);
        let servers = assemble::servers(dispatch, &dns_servers);
        let wanted = Wanted::of(config, dns_servers, servers);
        let asked = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.as_ref().map(|running| running.watch.ask(wanted))
        };
        asked.ok_or(EngineError::Reload("oneway is being stopped"))?.wait(PATIENCE)
    }

    /// Resets the flows that a table does not let stay, or that are not captured any more. Returns how many.
    fn reset_disallowed(&self, dispatch: &Dispatch, capture: &CaptureConfig) -> usize {
        let shared = &self.shared;
        let patience = Instant::now() + LOOKING;
        let lets_stay = |outbound: &Arc<str>, subject: &Subject<'_>| match Instant::now() < patience {
            true => dispatch.lets_stay_surely(outbound, subject),
            false => dispatch.lets_stay(outbound, subject),
        };
        let stays = |flow: &FlowInfo| {
            let ip = flow.target.addr.ip();
            let tell = dispatch.sniffs(flow.arrival.network, flow.target.addr.port());
            let host = flow.target.host.clone().or_else(|| shared.dns.name_to_judge(ip, tell));
            let judged = Target { addr: flow.target.addr, host };
            let is_fake = shared.dns.is_fake(ip);
            let Arrival { network, source, inbound, dscp } = flow.arrival;
            let subject = Subject { network, source, inbound, target: &judged, is_fake, dscp };
            (is_fake || is_captured(capture, ip)) && lets_stay(&flow.outbound, &subject)
        };
        let mut doomed = HashSet::new();
        let mut echo = false;
        for flow in shared.flows.list() {
            // What is answered here leaves by no outbound.
            let answered = shared.dns.hijacks(flow.target.addr).is_some();
            if !answered && !stays(&flow) {
                echo |= flow.arrival.network == Network::Icmp;
                doomed.insert(flow.id);
            }
        }
        let count = doomed.len();
        shared.udp.end(|session| doomed.contains(&session.flow()));
        if echo {
            shared.echo.forget();
        }
        self.orders.send_modify(|orders| orders.doomed = Arc::new(doomed));
        count
    }
}

/// Whether what is sent to this address is captured at all, as far as the configuration says.
fn is_captured(capture: &CaptureConfig, ip: IpAddr) -> bool {
    let holds = |prefixes: &[crate::config::Prefix]| prefixes.iter().any(|p| p.net().contains(&ip));
    !holds(&capture.exclude) && (capture.include.is_empty() || holds(&capture.include))
}

fn compare(now: &Dispatch, before: &Dispatch, warnings: &[ConfigError]) -> Reloaded {
    let name = |entry: &Arc<Entry>| entry.name.to_string();
    let named = |table: &Dispatch, name: &str| table.entries().iter().any(|entry| *entry.name == *name);
    // A group is made anew each time.
    let was_group = |name: &str| {
        let group = |entry: &&Arc<Entry>| *entry.name == *name && entry.group.is_some();
        before.entries().iter().any(|entry| group(&entry))
    };
    let stayed = |entry: &Entry| before.has(entry) || entry.group.is_some() && was_group(&entry.name);
    let is_new = |entry: &&Arc<Entry>| !stayed(entry);
    let is_gone = |entry: &&Arc<Entry>| !named(now, &entry.name);
    Reloaded {
        outbounds: now.entries().len(),
        changed: now.entries().iter().filter(is_new).map(name).collect(),
        removed: before.entries().iter().filter(is_gone).map(name).collect(),
        reset: 0,
        warnings: warnings.iter().map(ToString::to_string).collect(),
    }
}

/// The settings that differ and cannot change while an engine runs: the host was changed for them, threads were started
/// for them, or answers were given by them. Each field is named, so that a new one is not forgotten.
fn fixed(now: &Config, wanted: &Config) -> Vec<&'static str> {
    let Config {
        capture,
        tun,
        egress,
        outbounds: _,
        rules: _,
        dns,
        sniff: _,
        confirm,
        limits,
        control,
        log,
        without,
    } = now;
    let CaptureConfig {
        mode,
        stack,
        include: _,
        exclude: _,
        exclude_uid: _,
        exclude_cgroup: _,
        exclude_process: _,
        forwarded,
        ipv6,
        strict,
    } = capture;
    // Another CA, or none, is that of the upstreams, which may change.
    let DnsConfig {
        mode: dns_mode,
        upstream: _,
        domains: _,
        ca: _,
        authorities: _,
        skip_verify: _,
        resolver,
        fake_ip: FakeIpConfig { v4, v6, persist, exclude: _ },
    } = dns;
    let pools = &wanted.dns.fake_ip;
    let all = [
        ("capture.mode", *mode != wanted.capture.mode),
        ("capture.stack", *stack != wanted.capture.stack),
        ("capture.forwarded", *forwarded != wanted.capture.forwarded),
        ("capture.ipv6", *ipv6 != wanted.capture.ipv6),
        ("capture.strict", *strict != wanted.capture.strict),
        ("tun.name", tun.name != wanted.tun.name),
        ("tun.addresses", tun.addresses != wanted.tun.addresses),
        ("tun.mtu", tun.mtu != wanted.tun.mtu),
        ("tun.fd", tun.fd != wanted.tun.fd),
        ("tun.pcap", tun.pcap != wanted.tun.pcap),
        ("tun.fault", tun.fault != wanted.tun.fault),
        ("egress.protect", egress.protect != wanted.egress.protect),
        ("egress.interface", egress.interface != wanted.egress.interface),
        ("egress.mark", egress.mark != wanted.egress.mark),
        ("egress.netns", egress.netns != wanted.egress.netns),
        ("dns.mode", *dns_mode != wanted.dns.mode),
        ("dns.resolver", *resolver != wanted.dns.resolver),
        ("dns.fake-ip", (v4, v6, persist) != (&pools.v4, &pools.v6, &pools.persist)),
        ("limits", *limits != wanted.limits),
        ("confirm", *confirm != wanted.confirm),
        ("control", *control != wanted.control),
        ("log", *log != wanted.log),
        ("--without-guard", *without != wanted.without),
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
        wanted.capture.exclude = vec!["192.0.2.0/24".parse().unwrap()];
        assert_eq!(fixed(&now, &wanted), [""; 0]);
        wanted.capture.strict = !now.capture.strict;
        wanted.tun.mtu = "1400".parse().ok();
        assert_eq!(fixed(&now, &wanted), ["capture.strict", "tun.mtu"]);
        wanted = Config { confirm: Some(60), control: Some("/tmp/other.sock".into()), ..now.clone() };
        wanted.tun.addresses = vec!["192.0.2.1/24".parse().unwrap()];
        wanted.tun.fd = "9".parse().ok();
        wanted.tun.pcap = Some("packets.pcap".into());
        wanted.tun.fault = "loss=1%".parse().ok();
        assert_eq!(
            fixed(&now, &wanted),
            ["tun.addresses", "tun.fd", "tun.pcap", "tun.fault", "confirm", "control"]
        );
    }

    #[test]
    fn what_is_not_captured_any_more_is_known() {
        let mut capture = Config::default().capture;
        let ip = "192.0.2.7".parse().unwrap();
        assert!(is_captured(&capture, ip));
        capture.include = vec!["192.0.2.0/24".parse().unwrap()];
        assert!(is_captured(&capture, ip));
        capture.exclude = vec!["192.0.2.7/32".parse().unwrap()];
        assert!(!is_captured(&capture, ip));
        capture = CaptureConfig {
            exclude: Vec::new(),
            include: vec!["198.51.100.0/24".parse().unwrap()],
            ..capture
        };
        assert!(!is_captured(&capture, ip));
    }
}
