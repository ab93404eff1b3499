//! Start and stop: protect, verify, capture, and back.

mod device;
mod end;
mod guarded;
mod handed;
mod home;
mod host;
mod let_in;
pub(crate) mod protection;
mod reload;
mod threads;
mod watching;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use oneway_capture::shortcut::Shortcuts;
use oneway_capture::tun::Tun;
use oneway_egress::{Egress, Quarantined};
use oneway_flow::{FlowTable, Network};
use oneway_outbound::{DialError, Outbound, Resolve};
use oneway_route::{Family, JournalState, Plan, Safeguard, Snapshot};
use oneway_stack::fragment::Reassembler;
use oneway_stack::nat::{Nat, NatConfig};
use oneway_stack::tcp::{self, IsnGenerator};
use tokio::sync::watch;

use crate::assemble;
use crate::blocking::wait_for;
use crate::circle;
use crate::config::{CaptureMode, Config, Protect, StackKind};
use crate::control::{FlowInfo, InstanceLock, StatePaths, Status};
use crate::dispatch::{Dispatch, inbound_of_own};
use crate::dns::{self, ByRules, Dns, ProxyResolver};
use crate::error::EngineError;
use crate::exclude::Exclusions;
use crate::group::selected::Selected;
use crate::guard::Guard;
use crate::limits::Limits;
use crate::stats::{Stats, StatsSnapshot};
use crate::watched::Watched;
use crate::worker::{self, Handed, Orders, Owners, Parts, Phase, Shared};
pub(crate) use device::Planned;
use device::{Device, Peers};
use end::End;
use guarded::{Guarded, Listeners, forbidden, protect};
use home::Home;
use host::Host;
use threads::Threads;
use watching::Watch;

/// How long [`Engine::stop`] gives the live flows to hear of it.
const DRAIN: Duration = Duration::from_secs(1);

/// A running capture. Calls block; for how long is on [the front page](crate).
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) about: About,
    /// Where it was started. Who calls it may be elsewhere.
    pub(crate) home: Home,
    orders: watch::Sender<Orders>,
    resolver: Arc<ProxyResolver>,
    /// What is in force.
    config: Mutex<Config>,
    /// One reload at a time: each goes on from the one before.
    reloading: Mutex<()>,
    running: Mutex<Option<Running>>,
    /// Whoever stops it as well waits until it is stopped.
    stopping: Mutex<()>,
    end: Arc<End>,
    selected: Selected,
}

/// What does not change while it runs.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) started: Instant,
    pub(crate) tun: String,
    pub(crate) stack: StackKind,
    pub(crate) families: Vec<Family>,
    pub(crate) exclusions: Exclusions,
    pub(crate) reloads: Reloads,
    /// Whether what cannot be captured is refused.
    pub(crate) strict: bool,
    /// How this host's own traffic comes here.
    pub(crate) capture: CaptureMode,
    /// The port that the packet filter hands it to, if it does.
    pub(crate) port: Option<u16>,
    /// What does change.
    pub(crate) watched: Arc<Watched>,
}

/// How often the configuration was read again, and when last.
#[derive(Debug, Default)]
pub(crate) struct Reloads(Mutex<(u64, Option<Instant>)>);

impl Reloads {
    fn note(&self) {
        let mut reloads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *reloads = (reloads.0 + 1, Some(Instant::now()));
    }

    pub(crate) fn get(&self) -> (u64, Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Running {
    threads: Threads,
    watch: Watch,
    /// None where nothing of this host is captured.
    lock: Option<InstanceLock>,
}

/// What `run` would change on this host, in order. Changes nothing.
///
/// # Errors
/// [`EngineError::Config`], [`EngineError::Unsupported`], [`EngineError::Plan`], [`EngineError::Route`].
pub fn plan(config: &Config) -> Result<Plan, EngineError> {
    let (dispatch, _) = assemble::dispatch(config, &assemble::system_resolver())?;
    let servers = servers(config, &dispatch, true)?;
    let mut planned = planned(config, &Snapshot::take()?, &servers)?;
    planned.plan.notes.push(format!("protection by {}: {}", planned.strategy, planned.why));
    Ok(planned.plan)
}

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

/// The plan for a host that looks like this, and the protection that it counts on.
pub(crate) fn planned(config: &Config, host: &Snapshot, servers: &[IpAddr]) -> Result<Planned, EngineError> {
    let given = config.tun.fd.map(|fd| Tun::name_of_raw_fd(fd.get())).transpose()?;
    device::plan(config, given, host, servers, handed::port(config))
}

/// Undoes what a killed instance left behind in this network namespace; says what that was.
///
/// # Errors
/// [`EngineError::Route`], also while an instance runs here.
pub fn recover(paths: &StatePaths) -> Result<String, EngineError> {
    let found = oneway_route::recover(&paths.journal)?;
    let total = found.undone + found.by_tag;
    Ok(match (total, found.journal) {
        (0, JournalState::Elsewhere) => {
            format!("nothing to undo; {} is about another network namespace", paths.journal.display())
        }
        (0, _) => "nothing to undo".to_owned(),
        (1, _) => "undone: 1 change".to_owned(),
        (n, _) => format!("undone: {n} changes"),
    })
}

impl Engine {
    /// Captures, and returns once traffic is captured. What fails is undone.
    ///
    /// # Errors
    /// The step that failed.
    pub fn start(config: &Config) -> Result<Self, EngineError> {
        let paths = StatePaths::here()?.with_control(config.control.clone());
        let lock = InstanceLock::acquire(&paths)?;
        Self::begin(config, Some(lock), |servers| device::open(config, &paths, servers))
    }

    /// Carries what comes from a device that is in another network namespace. Nothing of this one is changed, so that there
    /// may be many of these, beside one that captures this host's traffic.
    ///
    /// # Errors
    /// The step that failed.
    pub fn start_apart(config: &Config, tun: crate::apart::ApartTun) -> Result<Self, EngineError> {
        Self::begin(config, None, |_| device::apart(config, tun))
    }

    fn begin(
        config: &Config,
        lock: Option<InstanceLock>,
        open: impl FnOnce(&[IpAddr]) -> Result<Device, EngineError>,
    ) -> Result<Self, EngineError> {
        let home = Home::here()?;
        let resolver = Arc::new(ProxyResolver::default());
        let (dispatch, warnings) = assemble::dispatch(config, &(Arc::clone(&resolver) as Arc<dyn Resolve>))?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let descriptors = descriptors()?;
        let limits = Limits::for_descriptors(descriptors, config.capture.stack).with(&config.limits);
        let paths = StatePaths::here()?;
        // Whoever needs no lock has not looked yet who can write there.
        paths.check()?;
        let selected = Selected::open(&paths.journal.with_extension("selected"));
        select_again(&dispatch, &selected);
        // Names that are to be asked for in another namespace are asked for when there are sockets of it.
        let elsewhere = protection::is_elsewhere(config);
        let mut proxies = if elsewhere { Vec::new() } else { resolve_proxies(&dispatch)? };
        let captured_here = lock.is_some();
        if captured_here {
            dns::warn_of_routes(&dns::pools(&config.dns), &Snapshot::take()?);
        }

        let servers = servers(config, &dispatch, false)?;
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
            place,
            handed,
        } = open(&servers)?;
        if config.without.any() {
            tracing::error!(
                "SABOTAGED: this instance runs without its guard {}, to show what that is for; nothing is proven of it",
                config.without
            );
        }
        tracing::info!("our own sockets are protected by {strategy}: {strategy_why}");
        let name = tun.name().to_owned();
        tracing::debug!(tun = name, offload = ?tun.offload(), "device is open");
        let stack = config.capture.stack;
        // A device of another namespace has a name that means something else here.
        let shortcuts = match captured_here {
            true => device::shortcuts(config, &tun, limits.tcp_connections),
            false => None,
        };
        let queues = tun.into_queues();
        // Our own stack needs no listener: nothing of the kernel's TCP is involved.
        let listening = if stack == StackKind::System { queues.len() } else { 0 };
        let Guarded { egress, mut listeners, mut proof, mtu, index } = match protect(
            &name,
            place,
            listening,
            &addresses,
            (&strategy, config.without),
            &proxies,
            &dns::pools(&config.dns),
        ) {
            Ok(parts) => parts,
            Err(error) => return Err(host.undo_because(error)),
        };
        let packets = match let_in::prove(&name, &queues, &listeners, &addresses) {
            Ok(packets) => packets,
            Err(error) => return Err(host.undo_because(error)),
        };
        let fake_ips = paths.journal.with_extension("fake-ip");
        // Nobody of a namespace apart is told of it.
        let answers = dns::answers_at(config, &addresses).filter(|_| captured_here);
        let captured = (families.as_slice(), config.capture.forwarded);
        let dns = match Dns::new(&config.dns, &egress, captured, &fake_ips, answers) {
            Ok(dns) => dns,
            Err(error) => return Err(host.undo_because(error)),
        };
        resolver.hand_over(dns.client());
        dispatch.addresses().ask(dns.client());
        if elsewhere {
            proxies = match resolve_proxies(&dispatch) {
                Ok(proxies) => proxies,
                Err(error) => return Err(host.undo_because(error)),
            };
        }
        if captured_here {
            let own = match Snapshot::take() {
                Ok(own) => own_addresses(&own),
                Err(error) => return Err(host.undo_because(error.into())),
            };
            dispatch.circles().set_own(own);
        }
        let host = host.verify(&proxies)?;
        let forbidden = forbidden(&addresses, &dns::pools(&config.dns));

        let keep_alive = Some(tcp::KeepAlive::default());
        let tcp = tcp::Config { mtu, keep_alive, ..tcp::Config::default() };
        let (owners, mailboxes) = Owners::new(queues.len());
        let stacks = Stacks { stack, tcp, owners, shortcuts };
        let shared = Arc::new(shared(dispatch, dns, egress, limits, &addresses, &listeners, stacks));
        (0..packets.read).for_each(|_| shared.stats.tun_read.add());
        (0..packets.written).for_each(|_| shared.stats.tun_written.add());
        if config.capture.strict {
            let inbound = inbound_of_own(config.capture.mode, Network::Tcp);
            let by_rules = ByRules { shared: Arc::downgrade(&shared), inbound };
            shared.dns.client().carry_by(Arc::new(by_rules));
        }
        listeners.resize_with(queues.len(), Vec::new);
        let (orders, receiver) = watch::channel(Orders::default());
        let end = Arc::new(End::default());
        let mut threads = Threads::under(orders.clone());
        let mut of_workers = handed.of_workers;
        of_workers.resize_with(queues.len(), Handed::default);
        let parts = queues.into_iter().zip(listeners).zip(of_workers).zip(mailboxes);
        for (number, (((queue, listeners), handed), mail)) in parts.enumerate() {
            let (shared, receiver) = (Arc::clone(&shared), receiver.clone());
            let parts = Parts { queue, listeners, handed, number, mail, shared, orders: receiver };
            if let Err(error) = threads.start(parts, name.clone(), Arc::clone(&end)) {
                return Err(host.undo_because(error));
            }
        }
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
        let parts = watching::Parts {
            host,
            request,
            nft,
            tun: (index, name.clone()),
            dns_servers: dns::server_addresses(&config.dns),
            namespace,
            families: families.clone(),
            forbidden,
            shared: Arc::clone(&shared),
            watched: Arc::clone(&watched),
            groups: config.capture.exclude_cgroup.clone(),
            exclusions: exclusions.clone(),
            end: Arc::clone(&end),
        };
        let watch = Watch::start(parts)?;
        let about = About {
            started: Instant::now(),
            tun: name,
            stack,
            families,
            exclusions,
            reloads: Reloads::default(),
            strict: config.capture.strict,
            capture: config.capture.mode,
            port: handed.port,
            watched,
        };
        let running = Mutex::new(Some(Running { threads, watch, lock }));
        let config = Mutex::new(config.clone());
        let (reloading, stopping) = (Mutex::default(), Mutex::default());
        Ok(Self {
            shared,
            about,
            home,
            orders,
            resolver,
            config,
            reloading,
            running,
            stopping,
            end,
            selected,
        })
    }

    /// Lets a group of type `select` take one of its members for new flows, from now on and after a restart.
    ///
    /// # Errors
    /// In words: there is no such group or member, or the choice cannot be kept.
    pub fn select(&self, group: &str, member: &str) -> Result<(), String> {
        self.shared.dispatch.load().select(group, member)?;
        let kept = self.selected.keep(group, member);
        kept.map_err(|error| format!("{member:?} is taken, but will not be after a restart: {error}"))
    }

    /// Whether this host's own traffic is captured, and not that of a namespace apart.
    pub(crate) fn is_capturing_here(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().is_some_and(|running| running.lock.is_some())
    }

    /// The configuration that is in force.
    pub(crate) fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line that says what is captured and how it leaves.
    pub fn ready_line(&self) -> String {
        let About { tun, families, stack, watched, .. } = &self.about;
        let final_outbound = self.config().rules.final_outbound.clone();
        let (strategy, _) = watched.strategy();
        let families: Vec<_> = families.iter().map(ToString::to_string).collect();
        let redirect = match self.about.port {
            Some(port) => format!(" and by {} at port {port}", self.about.capture),
            None => String::new(),
        };
        let strict = if self.about.strict { ", all else refused" } else { "" };
        let verdict = match (self.over(), self.shared.egress.left_out()) {
            (Some(over), _) => format!("not proven, as {over}"),
            (None, without) if without.any() => format!("not proven, SABOTAGED: without its guard {without}"),
            (None, _) => crate::status::verdict(self, &[]).verdict.to_string(),
        };
        let protected = match self.shared.egress.is_apart() {
            true => "in another network namespace".to_owned(),
            false => format!("protected by {strategy}"),
        };
        format!(
            "ready: TCP, UDP and ICMP over {} captured by {tun}{redirect}{strict}, stack {stack}, final {final_outbound}, \
             egress {protected}, loop-free: {verdict}",
            families.join(" and "),
        )
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        crate::status::status(self)
    }

    /// What it has counted since it was started, of which [`Engine::status`] says the most important.
    pub fn stats(&self) -> StatsSnapshot {
        self.shared.stats.snapshot()
    }

    /// The flows that it carries.
    pub fn flows(&self) -> Vec<FlowInfo> {
        crate::status::flows(self)
    }

    /// Blocks until it cannot go on, and says why, to everybody who asks; or until it is stopped: `None`.
    ///
    /// It carries nothing any more then, and its changes to the host are still made: [`Self::stop`] undoes them, unless
    /// `capture.strict` is set.
    pub fn wait_until_failed(&self) -> Option<Arc<EngineError>> {
        self.end.wait()
    }

    /// Why it carries nothing any more, if it does not.
    pub(crate) fn over(&self) -> Option<String> {
        self.end.over()
    }

    /// Resets the live flows, undoes every change to the host, and ends the workers. Stopping twice is harmless, and each returns
    /// when that is done.
    ///
    /// After a failure with `capture.strict` nothing is undone, as if the process had been killed: what was captured is
    /// refused until [`recover`] or the next [`Self::start`].
    ///
    /// # Errors
    /// The first change that could not be undone; all others are undone. [`EngineError::LeftShut`] where nothing is to be
    /// undone.
    pub fn stop(&self) -> Result<(), EngineError> {
        let _one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        // What fails while it stops changes nothing: somebody has asked for the end.
        let leave_shut = self.about.strict && self.end.has_failed();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { threads, watch, lock }) = running else { return Ok(()) };
        // A client is told that its connection is over while its packets still come here; left alone, it would learn
        // it from a server that knows nothing of it, or never.
        threads.order(Phase::Drain);
        let patience = Instant::now() + DRAIN;
        let wait_until = |done: &dyn Fn() -> bool| {
            while !done() && Instant::now() < patience {
                thread::sleep(Duration::from_millis(2));
            }
        };
        wait_until(&|| self.shared.flows.is_empty());
        // The last resets may be in the device still, which loses its routes next.
        threads.order(Phase::Flush);
        wait_until(&|| threads.are_flushed(&self.shared));
        let undone = watch.end(&self.home, leave_shut);
        drop(threads);
        self.end.stop();
        let released = lock.map_or(Ok(()), InstanceLock::release).map_err(EngineError::from);
        undone.and(released)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "not everything is undone; run `oneway recover`");
        }
    }
}

/// What nothing is sent to, in words.
pub(crate) fn quarantined(which: Quarantined) -> String {
    watching::name(which)
}

/// Says which outbounds' proxies are programs of this host that are captured themselves. Their flows are refused when they
/// come; a proxy that the rules send out directly is none of them.
fn warn_of_circles(dispatch: &Dispatch, exclusions: &Exclusions) {
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

/// How many descriptors there are for the engine: the limit, raised to the hard one, without those that are open already.
fn descriptors() -> Result<u64, EngineError> {
    use rustix::io::Errno;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Those of a program that has nothing but an engine inside. `Limits` knows of them.
    const OWN: u64 = 32;
    const LEAST: u64 = Limits::LEAST_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, the lower limit is what counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let there = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    if there < LEAST {
        return Err(EngineError::FewDescriptors { there, open: None, least: LEAST });
    }
    let open = match std::fs::read_dir("/proc/self/fd") {
        Ok(open) => u64::try_from(open.count()).unwrap_or(there),
        // There is not even one to look with.
        Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => there,
        Err(_) => 0,
    };
    let left = there.saturating_sub(open.saturating_sub(OWN));
    if left < LEAST {
        return Err(EngineError::FewDescriptors { there, open: Some(open), least: LEAST - OWN });
    }
    Ok(left)
}

/// Lets groups take what was selected before.
fn select_again(dispatch: &Dispatch, selected: &Selected) {
    for entry in dispatch.entries().iter().filter(|entry| entry.group.is_some()) {
        if let Some(member) = selected.of(&entry.name)
            && let Err(why) = dispatch.select(&entry.name, &member)
        {
            tracing::info!(group = %entry.name, %member, "what was selected before is not taken: {why}");
        }
    }
}

/// Finds the addresses of one outbound's proxy by the system's resolver, if it has one.
pub(crate) fn resolve(outbound: &Outbound) -> Result<Result<(), DialError>, EngineError> {
    wait_for(async || outbound.resolve().await.map(drop))
}

/// Finds the addresses of the proxies by the system's resolver, while nothing is captured yet.
fn resolve_proxies(dispatch: &Dispatch) -> Result<Vec<IpAddr>, EngineError> {
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

/// The addresses of this host by which its programs can be reached.
pub(crate) fn own_addresses(host: &Snapshot) -> Vec<IpAddr> {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    host.addresses.iter().map(|address| address.net.addr()).chain([loopback]).collect()
}

/// What belongs to one of the two stacks.
struct Stacks {
    stack: StackKind,
    tcp: tcp::Config,
    owners: Owners,
    shortcuts: Option<Shortcuts>,
}

fn shared(
    dispatch: Dispatch,
    dns: Dns,
    egress: Arc<Egress>,
    limits: Limits,
    addresses: &[IpNet],
    listeners: &Listeners,
    Stacks { stack, tcp, owners, shortcuts }: Stacks,
) -> Shared {
    let Peers { v4, v6, count } = Peers::of(addresses);
    let without = egress.left_out();
    let answers = dns.answers();
    Shared {
        nat: Nat::new(NatConfig {
            first_peer_v4: v4,
            first_peer_v6: v6,
            peers: count,
            // Closed connections keep their names for a while, at no descriptor's cost.
            max_connections: limits.tcp_connections.saturating_mul(8),
        }),
        shortcuts,
        flows: Arc::new(FlowTable::default()),
        stack,
        tcp: Arc::new(tcp),
        isn: IsnGenerator::new(),
        owners,
        paths: worker::Paths::default(),
        tcp_live: AtomicUsize::new(0),
        epoch: Instant::now(),
        stats: Stats::default(),
        dispatch: ArcSwap::from_pointee(dispatch),
        replaced: watch::Sender::default(),
        dns,
        egress,
        guard: Guard::new(addresses.to_vec()).answering(answers).left_out(without.has(Safeguard::Ingress)),
        dials: worker::Dials::default(),
        udp: worker::Sessions::new(&limits),
        quic: worker::QuicNames::default(),
        echo: worker::EchoSessions::default(),
        flushed: AtomicUsize::new(0),
        fragments: parking_lot::Mutex::new(Reassembler::new(Default::default())),
        not_let_in: parking_lot::Mutex::default(),
        not_recorded: parking_lot::Mutex::default(),
        listeners: listeners.iter().flatten().filter_map(|l| l.local_addr().ok()).collect(),
        router_v4: v4.into(),
        router_v6: v6.into(),
        limits,
    }
}

/// The queues that a device is opened with: one for each worker.
pub(crate) fn workers() -> usize {
    /// Beyond that, more workers only share the same memory bus.
    const MOST: usize = 16;
    thread::available_parallelism().map_or(1, usize::from).min(MOST)
}
