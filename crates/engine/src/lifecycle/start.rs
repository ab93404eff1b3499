//! A start, step by step: what is known before, a guarded way out, the workers, the capture. What fails is undone.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ipnet::IpNet;
use oneway_capture::shortcut::Shortcuts;
use oneway_capture::tun::Queue;
use oneway_egress::Strategy;
use oneway_flow::Network;
use oneway_outbound::Resolve;
use oneway_route::{Family, IfIndex, Snapshot};
use oneway_stack::tcp;
use tokio::sync::{mpsc, watch};

use super::descriptors::descriptors;
use super::device::{self, Device, Place};
use super::end::End;
use super::guarded::{Guarded, Listeners, forbidden, protect, prove};
use super::home::Home;
use super::host::Host;
use super::ports::ports;
use super::proxies::{are_asked_of_system, are_needed, look_up, servers, warn_of_circles};
use super::shared::{Stacks, shared};
use super::threads::Threads;
use super::watching::{self, Watch};
use super::{About, Engine, Reloads, Running, let_in, own_addresses, select_again};
use crate::assemble;
use crate::cancel::Cancel;
use crate::config::{Config, StackKind};
use crate::control::{InstanceLock, StatePaths};
use crate::dispatch::{Dispatch, inbound_of_own};
use crate::dns::{self, ByRules, Dns, ProxyResolver};
use crate::error::EngineError;
use crate::exclude::Exclusions;
use crate::group::selected::Selected;
use crate::limits::Limits;
use crate::watched::{Proof, Watched};
use crate::worker::{Handed, Orders, Owners, Parts, Shared};

/// Makes an engine around the device that `open` makes ready, which is told what our own sockets connect to. Who holds the
/// lock captures this host's own traffic.
pub(super) fn start(
    config: &Config,
    lock: Option<InstanceLock>,
    cancel: &Cancel,
    open: impl FnOnce(&[IpAddr]) -> Result<Device, EngineError>,
) -> Result<Engine, EngineError> {
    let home = Home::here()?;
    let captured_here = lock.is_some();
    let (mut known, selected) = Known::of(config, captured_here, cancel)?;
    let (resolver, journal) = (Arc::clone(&known.resolver), known.paths.journal.clone());
    let Device {
        tun,
        host,
        addresses,
        strategy,
        strategy_why,
        families,
        uplinks,
        request,
        nft,
        namespace,
        mut place,
        handed,
    } = open(&servers(config, &known.dispatch, false)?)?;
    if let Place::Apart { table, .. } = &mut place
        && let Some(table) = table.take()
    {
        known.dispatch = known.dispatch.of_namespace(table);
    }
    if config.without.any() {
        tracing::error!(
            "SABOTAGED: this instance runs without its guard {}, to show what that is for; nothing is proven of it",
            config.without
        );
    }
    tracing::info!("our own sockets are protected by {strategy}: {strategy_why}");
    let name = tun.name().to_owned();
    tracing::debug!(tun = name, offload = ?tun.offload(), "device is open");
    // A device of another namespace has a name that means something else here.
    let shortcuts = match captured_here {
        true => device::shortcuts(config, &tun, known.limits.tcp_connections),
        false => None,
    };
    let queues = tun.into_queues();

    let around =
        Around { config, cancel, captured_here, name: &name, addresses: &addresses, families: &families };
    let (host, ready) = host.with(around.ready(known, &queues, shortcuts, place, &strategy))?;
    let Ready { shared, listeners, mailboxes, proxies, mut proof, index } = ready;
    let host = host.verify(&proxies)?;

    let (orders, receiver) = watch::channel(Orders::default());
    let end = Arc::new(End::default());
    let mut threads = Threads::under(orders.clone());
    let workers = workers(queues, listeners, handed.of_workers, mailboxes, &shared, &receiver);
    let (host, ()) = host.with(threads.start_all(workers, &name, &end))?;

    let may = if cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) };
    let (host, ()) = host.with(may)?;
    let host = host.capture(&proxies)?;
    if let Some(checks) = host.made().and_then(Host::checks) {
        proof.why =
            format!("{}; {checks} destinations asked of the kernel with the rules in place", proof.why);
    }
    let exclusions = Exclusions::new(&config.capture, request.exclude_cgroups.clone());
    shared.dispatch.load().circles().set_exclusions(exclusions.clone());
    if captured_here {
        warn_of_circles(&shared.dispatch.load(), &exclusions);
    }
    let watched = Arc::new(Watched::new(uplinks, strategy, strategy_why, proof));
    watched.set_refusals(host.made().and_then(Host::refusals));
    watched.set_resolver(host.made().and_then(Host::resolver));
    let watch = Watch::start(watching::Parts {
        host,
        request,
        nft,
        tun: (index, name.clone()),
        dns_servers: dns::server_addresses(&config.dns),
        namespace,
        families: families.clone(),
        forbidden: forbidden(&addresses, &dns::pools(&config.dns)),
        shared: Arc::clone(&shared),
        watched: Arc::clone(&watched),
        groups: config.capture.exclude_cgroup.clone(),
        exclusions: exclusions.clone(),
        end: Arc::clone(&end),
    })?;
    Ok(Engine {
        about: About {
            started: Instant::now(),
            tun: name,
            stack: shared.stack,
            families,
            exclusions,
            reloads: Reloads::default(),
            strict: config.capture.strict,
            journal,
            capture: config.capture.mode,
            port: handed.port,
            watched,
        },
        shared,
        home,
        orders,
        resolver,
        config: Mutex::new(config.clone()),
        reloading: Mutex::default(),
        running: Mutex::new(Some(Running { threads, watch, lock })),
        stopping: Mutex::default(),
        end,
        selected,
    })
}

/// What is known before anything of the host is touched.
struct Known {
    dispatch: Dispatch,
    /// By whom proxies' names are looked up.
    resolver: Arc<ProxyResolver>,
    limits: Limits,
    paths: StatePaths,
}

impl Known {
    /// Also what was selected in an earlier run, which groups take again.
    fn of(config: &Config, captured_here: bool, cancel: &Cancel) -> Result<(Self, Selected), EngineError> {
        let resolver = Arc::new(ProxyResolver::default());
        let (dispatch, warnings) = assemble::dispatch(config, &(Arc::clone(&resolver) as Arc<dyn Resolve>))?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        // A program that is started apart is its user's own.
        if let Some(why) = dispatch.blind().filter(|_| captured_here) {
            tracing::warn!("{why}");
        }
        let mut limits = Limits::for_descriptors(descriptors()?, config.capture.stack)
            .with(&config.limits)
            .within_ports(ports());
        if config.capture.forwarded {
            limits = limits.for_other_hosts();
        }
        let paths = StatePaths::here()?;
        // Whoever needs no lock has not looked yet who can write there.
        paths.check()?;
        let selected = Selected::open(&paths.journal.with_extension("selected"));
        select_again(&dispatch, &selected);
        if are_asked_of_system(config) {
            let by = Arc::clone(&resolver) as Arc<dyn Resolve>;
            look_up(dispatch.entries(), &by, are_needed(config), cancel)?;
        }
        if captured_here {
            dns::warn_of_routes(&dns::pools(&config.dns), &Snapshot::take()?);
        }
        Ok((Self { dispatch, resolver, limits, paths }, selected))
    }
}

/// What an engine is made around.
struct Around<'a> {
    config: &'a Config,
    cancel: &'a Cancel,
    captured_here: bool,
    /// The device's name.
    name: &'a str,
    addresses: &'a [IpNet],
    families: &'a [Family],
}

/// What is ready before the capture is rehearsed.
struct Ready {
    shared: Arc<Shared>,
    listeners: Listeners,
    mailboxes: Vec<mpsc::Receiver<Vec<u8>>>,
    proxies: Vec<IpAddr>,
    proof: Proof,
    /// The device.
    index: IfIndex,
}

impl Around<'_> {
    /// The protected egress, proven; listeners that are let in; the names, and what the workers share.
    fn ready(
        &self,
        known: Known,
        queues: &[Queue],
        shortcuts: Option<Shortcuts>,
        place: Place,
        strategy: &Strategy,
    ) -> Result<Ready, EngineError> {
        let Self { config, cancel, captured_here, name, addresses, families } = *self;
        let Known { dispatch, resolver, limits, paths } = known;
        let stack = config.capture.stack;
        let pools = dns::pools(&config.dns);
        // Our own stack needs no listener: nothing of the kernel's TCP is involved.
        let listening = if stack == StackKind::System { queues.len() } else { 0 };
        let Guarded { egress, listeners, mtu, index } =
            protect(name, place, listening, addresses, (strategy, config.without), &pools)?;
        let packets = let_in::prove(name, queues, &listeners, addresses)?;

        let fake_ips = paths.journal.with_extension("fake-ip");
        // Nobody of a namespace apart is told of it.
        let answers = dns::answers_at(config, addresses).filter(|_| captured_here);
        let captured = (families, config.capture.forwarded);
        let dns = Dns::new(&config.dns, &egress, captured, &fake_ips, answers)?;
        resolver.hand_over(dns.client());
        dispatch.addresses().ask(dns.client());
        if !are_asked_of_system(config) {
            // Nothing is captured yet, and by now there are sockets that it will not be.
            look_up(dispatch.entries(), &(resolver as Arc<dyn Resolve>), false, cancel)?;
        }
        let proxies = assemble::servers(&dispatch, &[]);
        let proof = prove(&egress, index, &proxies)?;
        if captured_here {
            dispatch.circles().set_own(own_addresses(&Snapshot::take()?));
        }

        let keep_alive = Some(tcp::KeepAlive::default());
        let tcp = tcp::Config { mtu, keep_alive, ..tcp::Config::default() };
        let (owners, mailboxes) = Owners::new(queues.len());
        let stacks = Stacks { stack, tcp, owners, shortcuts };
        let shared = Arc::new(shared(dispatch, dns, egress, limits, addresses, &listeners, stacks));
        (0..packets.read).for_each(|_| shared.stats.tun_read.add());
        (0..packets.written).for_each(|_| shared.stats.tun_written.add());
        if config.capture.strict {
            let inbound = inbound_of_own(config.capture.mode, Network::Tcp);
            let by_rules = ByRules { shared: Arc::downgrade(&shared), inbound };
            shared.dns.client().carry_by(Arc::new(by_rules));
        }
        Ok(Ready { shared, listeners, mailboxes, proxies, proof, index })
    }
}

/// One worker for each queue, with its part of everything.
fn workers(
    queues: Vec<Queue>,
    mut listeners: Listeners,
    mut handed: Vec<Handed>,
    mailboxes: Vec<mpsc::Receiver<Vec<u8>>>,
    shared: &Arc<Shared>,
    orders: &watch::Receiver<Orders>,
) -> impl Iterator<Item = Parts> {
    listeners.resize_with(queues.len(), Vec::new);
    handed.resize_with(queues.len(), Handed::default);
    let parts = queues.into_iter().zip(listeners).zip(handed).zip(mailboxes).enumerate();
    parts.map(|(number, (((queue, listeners), handed), mail))| {
        let (shared, orders) = (Arc::clone(shared), orders.clone());
        Parts { queue, listeners, handed, number, mail, shared, orders }
    })
}
