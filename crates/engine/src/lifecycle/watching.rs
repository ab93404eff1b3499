//! The watch over the host while traffic is captured: what is ours stays, what depends on the uplinks follows them, and
//! what would loop is stopped.
//!
//! ```text
//! netlink ─▶ settle ─▶ plan again ─▶ put back what is gone ─▶ ask the kernel ─▶ breakers
//! ```

mod breakers;
mod device;
mod elsewhere;
mod newcomers;
mod protection;
mod tracking;
mod uplinks;
mod wanted;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use oneway_egress::{Egress, Finding, Namespace};
use oneway_route::{
    Applied, Captured, Changes, Family, IfIndex, Monitor, NftSupport, PutBack, Request, RouteError,
    Safeguard, Snapshot, Waker, Watched as Which, foreign_ways, no_hook, plan_again,
};
use parking_lot::Mutex;

use super::end::{self, End};
use super::home::Home;
use super::host::{Host, Pending};
use crate::assemble;
use crate::config::CgroupPath;
use crate::error::EngineError;
use crate::exclude::{self, Exclusions};
use crate::watched::{EachOncePerMinute, OncePerMinute, Proof, Rounds, Watched, amplified};
use crate::worker::Shared;
use device::Device;
use elsewhere::Elsewhere;
use uplinks::Outline;

pub(super) use breakers::name;
use wanted::Wishes;
pub(super) use wanted::{Asked, Wanted};

/// A change seldom comes alone: the host is looked at when it was quiet for so long …
const QUIET: Duration = Duration::from_millis(30);
/// … or this long after the first.
const SETTLE: Duration = Duration::from_millis(150);
/// What the kernel does not tell is looked at so often.
const TICK: Duration = Duration::from_secs(1);
/// A look may take this part of the time at most, should others change the host without end.
const SHARE: u32 = 10;
/// When something failed.
const RETRY: Duration = Duration::from_millis(500);

/// What the watch works on.
pub(super) struct Parts {
    pub(super) host: Pending<Captured>,
    /// What was planned from; with a device that was handed over, what would have been.
    pub(super) request: Request,
    pub(super) nft: NftSupport,
    /// The DNS servers that our own questions may go to.
    pub(super) dns_servers: Vec<IpAddr>,
    /// Where our own sockets are made, if not here.
    pub(super) namespace: Option<Arc<Namespace>>,
    pub(super) tun: (IfIndex, String),
    pub(super) families: Vec<Family>,
    /// What nothing is ever sent to.
    pub(super) forbidden: Vec<IpNet>,
    pub(super) shared: Arc<Shared>,
    pub(super) watched: Arc<Watched>,
    /// Control groups that are excluded, as they were given.
    pub(super) groups: Vec<CgroupPath>,
    pub(super) exclusions: Exclusions,
    /// What ends with it, should it panic.
    pub(super) end: Arc<End>,
}

/// The running watch.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    /// Nothing is to be undone.
    leave: Arc<AtomicBool>,
    waker: Waker,
    host: Arc<Mutex<Option<Host<Captured>>>>,
    wishes: Wishes,
    thread: Option<JoinHandle<()>>,
    /// How undoing went; false where nothing was undone.
    undone: Receiver<Result<bool, RouteError>>,
}

impl Watch {
    /// Begins. What cannot be watched is undone.
    pub(super) fn start(parts: Parts) -> Result<Self, EngineError> {
        let Parts {
            host,
            request,
            nft,
            dns_servers,
            namespace,
            tun,
            families,
            forbidden,
            shared,
            watched,
            groups,
            exclusions,
            end,
        } = parts;
        let (host, monitor) = host.with(Monitor::open().map_err(EngineError::from))?;
        let far: Vec<IpAddr> = families.iter().map(|family| far(*family)).collect();
        let mut samples = host.made().map(Host::samples).unwrap_or_default();
        samples.extend(&far);
        let (waker, stop) = (monitor.waker(), Arc::new(AtomicBool::new(false)));
        let elsewhere = namespace.map(|namespace| Elsewhere::watch(namespace, waker.clone())).transpose();
        let (host, elsewhere) = host.with(elsewhere)?;
        let host = Arc::new(Mutex::new(host.hand_over()));
        let wishes = Wishes::default();
        let alarm = waker.clone();
        shared.egress.on_return(move || alarm.wake());
        let watcher = Watcher {
            monitor,
            wishes: Arc::clone(&wishes),
            stop: Arc::clone(&stop),
            host: Arc::clone(&host),
            request,
            nft,
            dns_servers,
            elsewhere,
            tun,
            forbidden,
            foreign: Vec::new(),
            colliding: Vec::new(),
            far,
            families,
            samples,
            egress: Arc::clone(&shared.egress),
            shared,
            watched,
            groups,
            exclusions,
            outline: Outline::default(),
            home: Outline::default(),
            patience: None,
            took: Duration::ZERO,
            hurried: None,
            rounds: Rounds::default(),
            tick_rounds: Rounds::of_ticks(),
            said: Said::default(),
            traffic: (0, 0, 0),
            end: Arc::clone(&end),
        };
        let (told, undone) = channel();
        let captured = Arc::clone(&host);
        let leave = Arc::new(AtomicBool::new(false));
        let to_leave = Arc::clone(&leave);
        let spawned = end::spawn("oneway-guard".to_owned(), end, move || {
            watcher.run();
            // This thread is in the namespace that was captured, as it was started there; whoever stops it need not be.
            if let Some(host) = captured.lock().take() {
                // Who waits for this thread reads it when it has ended.
                let _ = told.send(undo(host, to_leave.load(Ordering::Acquire)));
            }
            Ok(())
        });
        match spawned {
            Ok(thread) => Ok(Self { stop, leave, waker, host, wishes, thread: Some(thread), undone }),
            Err(error) => {
                let error = EngineError::Worker(error);
                Err(match host.lock().take() {
                    Some(host) => Pending::from(host).undo_because(error),
                    None => error,
                })
            }
        }
    }

    /// Asks for what another configuration wants of the host.
    pub(super) fn ask(&self, wanted: Wanted) -> Asked {
        let asked = Asked::of(wanted, &self.wishes);
        self.waker.wake();
        asked
    }

    /// Ends it and undoes what was changed, or leaves it as a crash does.
    ///
    /// # Errors
    /// The first change that could not be undone; all others are undone. [`EngineError::LeftShut`].
    pub(super) fn end(mut self, home: &Home, leave: bool) -> Result<(), EngineError> {
        self.leave.store(leave, Ordering::Release);
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // What panics is caught inside it.
            let _ = thread.join();
        }
        let undone = match self.undone.try_recv() {
            Ok(undone) => undone,
            // It had panicked. What it watched over is still to be undone.
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                let host = self.host.lock().take();
                host.map_or(Ok(Ok(true)), |host| home.run(|| undo(host, leave)))?
            }
        };
        match undone.map_err(|undo| EngineError::NotUndone { because: None, undo })? {
            true => Ok(()),
            false => Err(EngineError::LeftShut),
        }
    }
}

/// Undoes what was changed, or leaves it: false.
fn undo(host: Host<Captured>, leave: bool) -> Result<bool, RouteError> {
    match host {
        Host::Ours(_) if leave => Ok(false),
        host => host.undo().map(|()| true),
    }
}

/// Others' rules are looked at without waiting for more, once a second. A VPN makes them before it routes anything into its
/// device, and makes its handshake for the first packet that it gets: that has to leave past the capture, as the next try is
/// five seconds later (`REKEY_TIMEOUT`, drivers/net/wireguard/messages.h). `took`: the look before; `ago`: the last in a hurry.
fn hurries(changes: Changes, took: Duration, ago: Option<Duration>) -> bool {
    changes.rules && took * SHARE < TICK && ago.is_none_or(|ago| ago >= TICK)
}

/// TEST-NET-3 and the documentation prefix: nobody is there, and no host has a route of its own for them.
pub(super) fn far(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([203, 0, 113, 1]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    }
}

/// What repeats is said once a minute.
#[derive(Debug, Default)]
struct Said {
    failed: OncePerMinute,
    fight: OncePerMinute,
    restored: EachOncePerMinute,
    renamed: OncePerMinute,
    returned: OncePerMinute,
    amplified: OncePerMinute,
    tracking: OncePerMinute,
}

struct Watcher {
    monitor: Monitor,
    wishes: Wishes,
    stop: Arc<AtomicBool>,
    host: Arc<Mutex<Option<Host<Captured>>>>,
    request: Request,
    nft: NftSupport,
    dns_servers: Vec<IpAddr>,
    /// The namespace that our own sockets are made in, if it is another one.
    elsewhere: Option<Elsewhere>,
    tun: (IfIndex, String),
    families: Vec<Family>,
    far: Vec<IpAddr>,
    forbidden: Vec<IpNet>,
    /// Destinations that others' routes lead into the TUN.
    foreign: Vec<IpNet>,
    /// Networks of ours that others have too, and what of theirs.
    colliding: Vec<(IpNet, String)>,
    /// Addresses that stand for all of their families. They are asked about, and nothing is sent there.
    samples: Vec<IpAddr>,
    egress: Arc<Egress>,
    shared: Arc<Shared>,
    watched: Arc<Watched>,
    groups: Vec<CgroupPath>,
    exclusions: Exclusions,
    /// The host's links, addresses and default routes at the last look.
    outline: Outline,
    /// The same of this namespace, if our own sockets are of another one.
    home: Outline,
    /// When flows are given up that could have come back by themselves.
    patience: Option<Instant>,
    /// How long the last look took.
    took: Duration,
    /// When the host was looked at without waiting for more to change.
    hurried: Option<Instant>,
    rounds: Rounds,
    /// The same of what is looked at by the clock.
    tick_rounds: Rounds,
    said: Said,
    /// Packets read, written, and datagrams among the written ones at the last tick.
    traffic: (u64, u64, u64),
    end: Arc<End>,
}

impl Watcher {
    fn run(mut self) {
        // The host may have changed between the plan and now.
        let mut pending = Changes { lost: true, ..Changes::default() };
        let mut not_before = Instant::now();
        let mut tick = Instant::now() + TICK;
        while !self.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            let mut next = tick;
            if pending.any() {
                next = next.min(not_before);
            }
            if let Some(at) = [self.egress.next_try(), self.patience].into_iter().flatten().min() {
                next = next.min(at);
            }
            let changes = self.wait(next.saturating_duration_since(now));
            let at_once = self.hurries(changes);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            pending.add(changes);
            self.grant();
            let now = Instant::now();
            let mut looked = false;
            if pending.any() && (now >= not_before || at_once) {
                looked = true;
                let again = self.look(std::mem::take(&mut pending));
                let took = now.elapsed();
                self.took = took;
                if at_once {
                    self.hurried = Some(Instant::now());
                }
                // What is looked at while it is half-made is looked at again when it is made.
                let (share, retry) = if at_once { (1, QUIET) } else { (SHARE, RETRY) };
                not_before = self.rounds.next(Instant::now() + took * share);
                if again {
                    pending.lost = true;
                    not_before = not_before.max(Instant::now() + retry);
                }
            }
            // Something came back that did not before: perhaps something of ours is gone.
            pending.lost |= changes.woken;
            self.breakers(looked);
            if self.patience.is_some_and(|at| at <= Instant::now()) {
                self.patience = None;
                self.reset_stale(true, false);
            }
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                self.tick();
                // A proxy's name may have got other addresses.
                pending.lost |= self.unknown_servers();
            }
        }
    }

    /// Waits for a change, and then until there are no more.
    fn wait(&mut self, at_most: Duration) -> Changes {
        let mut changes = self.wait_once(at_most);
        if changes.any() && !self.hurries(changes) {
            let deadline = Instant::now() + SETTLE;
            while Instant::now() < deadline && !self.stop.load(Ordering::Acquire) {
                let more = self.wait_once(QUIET);
                changes.add(more);
                if !more.any() || self.hurries(changes) {
                    break;
                }
            }
        }
        changes
    }

    /// Whether the host is looked at without waiting for more to change, and without the pause after the look before.
    fn hurries(&self, changes: Changes) -> bool {
        hurries(changes, self.took, self.hurried.map(|at| at.elapsed()))
    }

    fn wait_once(&mut self, at_most: Duration) -> Changes {
        match self.monitor.wait(at_most) {
            Ok(changes) => changes,
            Err(error) => {
                self.failed("cannot hear of changes to this host, and looks for itself", &error);
                // Without this a broken socket would keep a processor busy.
                thread::sleep(RETRY);
                Changes { lost: true, ..Changes::default() }
            }
        }
    }

    /// Looks at the host and mends what is ours. True if it is to be done again.
    fn look(&mut self, changes: Changes) -> bool {
        let shared_host = Arc::clone(&self.host);
        let mut host = shared_host.lock();
        let Some(host) = &mut *host else { return false };
        if changes.routing() {
            match self.keep_device(matches!(host, Host::Ours(_)) && !self.left_out(Safeguard::Drift)) {
                Device::Here => {}
                Device::Misnamed => return true,
                Device::Gone => return false,
            }
        }
        let mut again = false;
        match host {
            Host::Ours(applied) if !self.left_out(Safeguard::Drift) => {
                if self.regroup() || changes.routing() {
                    again |= self.follow(applied);
                }
                again |= self.put_back(applied, Which::All);
            }
            Host::Ours(_) | Host::Theirs => {
                if changes.routing() {
                    match Snapshot::take_again(NftSupport::Unknown) {
                        Ok(snapshot) => {
                            self.forbid_foreign_ways(&snapshot);
                            self.meet_newcomers(&snapshot);
                            let pinned = self.request.interface.as_deref();
                            let uplinks = match self.left_out(Safeguard::Uplink) {
                                true => oneway_route::find_uplinks_unguarded(&snapshot),
                                false => oneway_route::find_uplinks(&snapshot, &self.tun.1, pinned),
                            };
                            self.uplinks(snapshot, uplinks);
                        }
                        Err(error) => {
                            self.failed("cannot look at this host", &error);
                            again = true;
                        }
                    }
                }
            }
        }
        if changes.routing() {
            self.ask_again();
        }
        again
    }

    /// Looks for the control groups that are excluded; whether they are others than before.
    fn regroup(&mut self) -> bool {
        let found = exclude::groups_again(&self.groups, self.nft, &self.request.exclude_cgroups);
        if found == self.request.exclude_cgroups {
            return false;
        }
        self.exclusions.set_groups(found.clone());
        self.request.exclude_cgroups = found;
        true
    }

    /// Makes the plan one for the host as it is now.
    fn follow(&mut self, applied: &mut Applied<Captured>) -> bool {
        let snapshot = match Snapshot::take_again(self.nft) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.failed("cannot look at this host", &error);
                return true;
            }
        };
        if snapshot.link(&self.tun.1).is_none() {
            // That has just happened, so that another look is due.
            return false;
        }
        self.shared.dispatch.load().circles().set_own(super::own_addresses(&snapshot));
        self.forbid_foreign_ways(&snapshot);
        self.meet_newcomers(&snapshot);
        self.meet_servers();
        let plan = match plan_again(&self.request, applied.plan(), &snapshot) {
            Ok(plan) => plan,
            Err(error) => {
                self.failed("cannot follow this host's changes, and keeps what there is", &error);
                return false;
            }
        };
        let uplinks = match self.left_out(Safeguard::Uplink) {
            true => oneway_route::find_uplinks_unguarded(&snapshot),
            false => plan.uplinks.clone(),
        };
        self.close_sources(&applied.changed_sources(&plan));
        let outcome = applied.change_to(plan, &mut no_hook);
        if outcome.is_ok() {
            self.protect_as(applied.plan());
            self.watched.set_refusals(applied.plan().refusals().cloned());
            self.watched.set_resolver(applied.plan().resolver_words());
        }
        self.uplinks(snapshot, uplinks);
        match outcome {
            Ok(done) if done.is_empty() => false,
            Ok(done) => {
                tracing::info!(changes = ?done, "followed the changes to this host");
                self.watched.moved();
                false
            }
            Err(error) => {
                self.failed("cannot follow this host's changes", &error);
                true
            }
        }
    }

    /// Forbids what somebody else's routes lead into the TUN: our own sockets would follow them, past every rule. OpenVPN
    /// makes one to its server when it is started while everything is captured.
    fn forbid_foreign_ways(&mut self, snapshot: &Snapshot) {
        // A default route says nothing of who takes it: a rule may lead one destination to it. The breakers find out.
        let mut foreign = foreign_ways(snapshot, self.tun.0);
        foreign.retain(|net| net.prefix_len() > 0);
        if foreign == self.foreign {
            return;
        }
        for net in foreign.iter().filter(|net| !self.foreign.contains(net)) {
            tracing::warn!(%net, "a route of another program leads into the TUN; nothing is sent there until it is gone");
        }
        self.egress.set_forbidden(self.forbidden.iter().chain(&foreign).copied().collect());
        self.foreign = foreign;
    }

    /// Makes again what others have undone.
    fn put_back(&mut self, applied: &mut Applied<Captured>, which: Which) -> bool {
        let PutBack { done, failed } = applied.put_back(which);
        if !done.is_empty() {
            self.note_restored(done, which);
        }
        match failed {
            // That has just happened to its device, so that another look is due.
            Some(RouteError::NoDevice { .. }) => false,
            Some(error) => {
                self.failed("cannot put back what somebody has removed", &error);
                self.watched.set_missing(Some(error.to_string()));
                true
            }
            None => {
                if which == Which::All {
                    self.watched.set_missing(None);
                }
                false
            }
        }
    }

    /// Says what is made again, and that it is a fight if it is.
    fn note_restored(&mut self, done: Vec<String>, which: Which) {
        let now = Instant::now();
        let rounds = match which {
            Which::All => &mut self.rounds,
            Which::Switches => &mut self.tick_rounds,
        };
        if rounds.note(now) {
            if self.said.fight.may(now) {
                tracing::warn!(what = ?done, "somebody keeps removing what is needed here; putting it back at most five times a second");
            }
        } else if let Some(times) = self.said.restored.note(&done.join("; "), now) {
            tracing::info!(what = ?done, times, "put back what somebody had removed");
        }
        self.watched.restored(done);
    }

    /// Whether a guard is left out on purpose.
    fn left_out(&self, guard: Safeguard) -> bool {
        self.egress.left_out().has(guard)
    }

    /// Asks the kernel where our own sockets' packets would go, and sends none where they would come back.
    fn ask_again(&mut self) {
        if self.left_out(Safeguard::Proof) {
            return;
        }
        let mut destinations = assemble::servers(&self.shared.dispatch.load(), &[]);
        destinations.extend(&self.far);
        let verdicts = self.egress.prove(self.egress.routes(), self.tun.0, &destinations);
        let looping = verdicts.iter().find(|verdict| verdict.finding == Finding::Loops);
        let unproven = verdicts.iter().find(|verdict| !verdict.loop_free);
        let proof = match looping.or(unproven) {
            Some(verdict) => Proof {
                proven: false,
                loops: looping.is_some(),
                why: format!("{}: {}", verdict.dst, verdict.why),
            },
            None => Proof {
                proven: true,
                loops: false,
                why: format!("{} destinations asked of the kernel after the last change", verdicts.len()),
            },
        };
        self.watched.set_proof(proof);
        if looping.is_some() {
            let looping = self.families.iter().filter(|family| self.all_loop(**family));
            looping.for_each(|family| self.egress.quarantine_family(*family, Instant::now()));
        }
    }

    /// Whether the kernel says of everything of a family that it would come back, and not of some destinations alone.
    fn all_loop(&self, family: Family) -> bool {
        let samples: Vec<IpAddr> =
            self.samples.iter().copied().filter(|dst| Family::of(*dst) == family).collect();
        let verdicts = self.egress.prove(self.egress.routes(), self.tun.0, &samples);
        !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.finding == Finding::Loops)
    }

    /// What nobody tells.
    fn tick(&mut self) {
        let shared_host = Arc::clone(&self.host);
        self.egress.protect_at_last();
        self.follow_dns();
        if let Some(Host::Ours(applied)) = &mut *shared_host.lock()
            && !self.left_out(Safeguard::Drift)
        {
            self.put_back(applied, Which::Switches);
            if self.regroup() {
                self.follow(applied);
            }
        }
        self.look_at_tracking();
        let stats = self.shared.stats.snapshot();
        let traffic = (stats.tun_read, stats.tun_written, stats.udp_down + stats.echo_down);
        let before = std::mem::replace(&mut self.traffic, traffic);
        let (read, written) = (traffic.0 - before.0, traffic.1 - before.1);
        if amplified(read, written, traffic.2 - before.2) {
            self.watched.alarm();
            if self.said.amplified.may(Instant::now()) {
                tracing::warn!(
                    read,
                    written,
                    "far more packets were written to the TUN in a second than were read from it"
                );
            }
        }
    }

    /// Has the servers asked that the system names now. They may see other names.
    fn follow_dns(&mut self) {
        let shared = Arc::clone(&self.shared);
        // Those that need a host route get it first.
        let may = |servers| {
            self.dns_servers = servers;
            !self.unknown_servers()
        };
        if shared.dns.follow(&shared.egress, may) {
            shared.dispatch.load().addresses().forget();
        }
    }

    fn failed(&mut self, what: &str, error: &dyn std::fmt::Display) {
        if self.said.failed.may(Instant::now()) {
            tracing::warn!(%error, "{what}");
        } else {
            tracing::debug!(%error, "{what}");
        }
    }
}
