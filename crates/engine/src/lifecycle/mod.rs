//! Start and stop: protect, verify, capture, and back.

mod descriptors;
mod device;
mod end;
mod guarded;
mod handed;
mod home;
mod host;
mod let_in;
mod memory;
mod ports;
pub(crate) mod protection;
mod proxies;
mod reload;
mod shared;
mod start;
mod threads;
mod watching;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use oneway_capture::tun::Tun;
use oneway_egress::Quarantined;
use oneway_route::{Family, JournalState, Plan, RouteError, Snapshot};
use tokio::sync::watch;

use crate::assemble;
use crate::cancel::Cancel;
use crate::config::{CaptureMode, Config, StackKind};
use crate::control::{FlowInfo, InstanceLock, StatePaths, Status};
use crate::dispatch::Dispatch;
use crate::dns::ProxyResolver;
use crate::error::EngineError;
use crate::exclude::Exclusions;
use crate::group::selected::Selected;
use crate::stats::StatsSnapshot;
use crate::watched::Watched;
use crate::worker::{Orders, Phase, Shared};
pub(crate) use device::Planned;
use end::End;
use home::Home;
pub(crate) use proxies::{resolve, servers};
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
    stopping: Mutex<Left>,
    end: Arc<End>,
    selected: Selected,
}

/// What of its changes to the host is still made when it is stopped.
#[derive(Debug, Default)]
enum Left {
    #[default]
    Nothing,
    /// Everything, on purpose.
    Shut,
    /// What could not be undone. This journal has it.
    Behind(PathBuf),
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
    /// Where its changes to this host are written down.
    journal: PathBuf,
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
    let lost = lost_switches(&found.switches).map(|words| format!("; {words}")).unwrap_or_default();
    Ok(match (total, found.journal) {
        (0, JournalState::Elsewhere) => {
            format!("nothing to undo; {} is about another network namespace", paths.journal.display())
        }
        (0, _) => "nothing to undo".to_owned(),
        (1, _) => format!("undone: 1 change{lost}"),
        (n, _) => format!("undone: {n} changes{lost}"),
    })
}

/// What a lost journal would have told.
fn lost_switches(switches: &[&str]) -> Option<String> {
    let those = switches.join(" ");
    (!switches.is_empty()).then(|| {
        format!(
            "the journal was lost, and with it what these switches were, which are 1 now: {those}; they do nothing to packets \
             without a mark, and `sysctl -w SWITCH=0` sets one back"
        )
    })
}

impl Engine {
    /// Captures, and returns once traffic is captured. What fails is undone.
    ///
    /// # Errors
    /// The step that failed.
    pub fn start(config: &Config) -> Result<Self, EngineError> {
        Self::start_unless(config, &Cancel::default())
    }

    /// The same, unless it is called off before.
    ///
    /// # Errors
    /// The step that failed; [`EngineError::Cancelled`].
    pub fn start_unless(config: &Config, cancel: &Cancel) -> Result<Self, EngineError> {
        let paths = StatePaths::here()?.with_control(config.control.clone());
        let lock = InstanceLock::acquire(&paths)?;
        start::start(config, Some(lock), cancel, |servers| device::open(config, &paths, servers))
    }

    /// Carries what comes from a device that is in another network namespace. Nothing of this one is changed, so that there
    /// may be many of these, beside one that captures this host's traffic.
    ///
    /// # Errors
    /// The step that failed.
    pub fn start_apart(config: &Config, tun: crate::apart::ApartTun) -> Result<Self, EngineError> {
        start::start(config, None, &Cancel::default(), |_| device::apart(config, tun))
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
    /// when that is done; what could not be undone is tried again, as by [`recover`].
    ///
    /// After a failure with `capture.strict` nothing is undone, as if the process had been killed: what was captured is
    /// refused until [`recover`] or the next [`Self::start`].
    ///
    /// # Errors
    /// The first change that could not be undone; all others are undone. [`EngineError::LeftShut`] where nothing is to be
    /// undone.
    pub fn stop(&self) -> Result<(), EngineError> {
        let mut left = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        // What fails while it stops changes nothing: somebody has asked for the end.
        let leave_shut = self.about.strict && self.end.has_failed();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { threads, watch, lock }) = running else { return self.stop_again(&mut left) };
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
        *left = match &undone {
            Err(EngineError::LeftShut) => Left::Shut,
            // Apart from this host nothing of it was changed.
            Err(_) if lock.is_some() => Left::Behind(self.about.journal.clone()),
            Ok(()) | Err(_) => Left::Nothing,
        };
        let released = lock.map_or(Ok(()), InstanceLock::release).map_err(EngineError::from);
        undone.and(released)
    }

    /// Undoes what is left, if it is to be.
    fn stop_again(&self, left: &mut Left) -> Result<(), EngineError> {
        match left {
            Left::Nothing => Ok(()),
            Left::Shut => Err(EngineError::LeftShut),
            Left::Behind(journal) => match self.home.run(|| oneway_route::recover(journal))? {
                // Another instance has undone it before it began.
                Ok(_) | Err(RouteError::Running { .. }) => {
                    *left = Left::Nothing;
                    Ok(())
                }
                Err(undo) => Err(EngineError::NotUndone { because: None, undo }),
            },
        }
    }

    /// Whether it was stopped and leaves this host shut, as somebody was told.
    fn is_left_shut(&self) -> bool {
        matches!(*self.stopping.lock().unwrap_or_else(PoisonError::into_inner), Left::Shut)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.is_left_shut()
            && let Err(error) = self.stop()
        {
            tracing::error!(%error, "not everything is undone; run `oneway recover`");
        }
    }
}

/// What nothing is sent to, in words.
pub(crate) fn quarantined(which: Quarantined) -> String {
    watching::name(which)
}

/// The addresses of this host by which its programs can be reached.
pub(crate) fn own_addresses(host: &Snapshot) -> Vec<IpAddr> {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    host.addresses.iter().map(|address| address.net.addr()).chain([loopback]).collect()
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

/// The queues that a device is opened with: one for each worker.
pub(crate) fn workers() -> usize {
    /// Beyond that, more workers only share the same memory bus.
    const MOST: usize = 16;
    thread::available_parallelism().map_or(1, usize::from).min(MOST)
}
