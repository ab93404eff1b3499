//! One run of the program in namespaces of its own, and what was seen of it.

use std::thread;
use std::time::{Duration, Instant};

use oneway::config::{Safeguard, Without};
use oneway_lab::program::{Oneway, Program};
use oneway_lab::topology::Simple;
use oneway_lab::{LabError, NetNs, Snapshot, Topology};
use serde::Serialize;
use serde_json::Value;

use super::Scene;
use crate::failure::{FAILED, Failure};

/// This very program, also when its file was replaced meanwhile.
pub(super) const SELF: &str = "/proc/self/exe";
const TUN: &str = "oneway0";
/// What it says when a guard keeps it from starting, and not something that is missing on this machine.
const REFUSALS: [&str; 2] = ["cannot protect outgoing sockets", "cannot start without a loop"];
/// How long a loop is looked at …
const LOOK: Duration = Duration::from_secs(1);
/// … and how many packets it may take before that.
const ENOUGH: u64 = 200_000;
/// How often.
const STEP: Duration = Duration::from_millis(5);
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the kernel sends by itself: neighbour and router discovery, and a few tries again.
const NOISE: u64 = 30;

/// What became of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Seen {
    /// Far more were read from the TUN than were sent into it.
    Loops,
    /// No more than were sent, and tried again.
    Still,
    /// Something in between.
    Unclear,
}

/// What was seen.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// The guards that were left out.
    pub(super) without: String,
    pub(super) seen: Seen,
    /// Packets that programs have sent.
    pub(super) sent: u64,
    /// Packets that were read from the TUN.
    pub(super) packets: u64,
    /// The same in a second.
    pub(super) packets_per_s: u64,
    /// Packets that left by the uplink.
    pub(super) wire: u64,
    /// Part of one processor, in percent.
    pub(super) cpu_percent: u64,
    /// The verdict of `doctor`.
    pub(super) doctor: String,
    /// Why it did not start.
    pub(super) refused: Option<String>,
    /// What is not as before on the host.
    pub(super) left_behind: Option<String>,
}

impl Outcome {
    /// Whether guards were left out, and so nothing may be proven.
    pub(super) fn is_sabotaged(&self) -> bool {
        !self.without.is_empty()
    }
}

/// Plays a scene once.
pub(super) fn run(scene: &Scene, without: &[Safeguard]) -> Result<Outcome, Failure> {
    let lab = Topology::simple()?;
    let props = (scene.prepare)(&lab)?;
    let before = Snapshot::take(&lab.host)?;
    let without: Without = without.iter().copied().collect();
    let mut outcome = Outcome {
        without: without.to_string(),
        seen: Seen::Still,
        sent: 0,
        packets: 0,
        packets_per_s: 0,
        wire: 0,
        cpu_percent: 0,
        doctor: String::new(),
        refused: None,
        left_behind: None,
    };
    match program(&lab.host, "run", scene, without).ready("ready:", PATIENCE).start() {
        Ok(mut oneway) => {
            let used = oneway.cpu_time()?;
            let wire = lab.host.link_counters(Simple::UP1)?.tx_packets;
            let begin = Instant::now();
            let sent = (scene.ignite)(&lab)?;
            let (packets, took) = watch(&lab.host, begin)?;
            outcome.packets = packets;
            outcome.sent = sent + props.as_ref().map_or(0, |prop| prop.sent());
            outcome.packets_per_s = (outcome.packets as f64 / took.as_secs_f64()) as u64;
            outcome.wire = lab.host.link_counters(Simple::UP1)?.tx_packets - wire;
            let used = oneway.cpu_time()? - used;
            outcome.cpu_percent = (used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0) as u64;
            outcome.seen = judge(outcome.packets, outcome.sent);
            outcome.doctor = doctor(&lab.host, scene, without)?;
            (scene.tidy)(&lab)?;
            stop(&mut oneway)?;
        }
        Err(LabError::NotReady { stderr, .. }) => {
            let why = last_line(&stderr);
            if !without.any() || !REFUSALS.iter().any(|refusal| why.contains(refusal)) {
                return Err(Failure::new(FAILED, format_args!("oneway does not start here: {why}")));
            }
            outcome.refused = Some(why);
            outcome.doctor = doctor(&lab.host, scene, without)?;
        }
        Err(error) => return Err(error.into()),
    }
    let diff = before.diff(&Snapshot::take(&lab.host)?);
    outcome.left_behind = (!diff.is_empty()).then_some(diff);
    Ok(outcome)
}

fn program(host: &NetNs, command: &str, scene: &Scene, without: Without) -> Program {
    let guards = Safeguard::ALL.into_iter().filter(|guard| without.has(*guard));
    let guards = guards.flat_map(|guard| ["--without-guard".to_owned(), guard.name().to_owned()]);
    let words = command.split(' ').map(str::to_owned).chain(scene.options.iter().cloned()).chain(guards);
    Program::new(host, SELF, words.collect::<Vec<_>>())
}

/// Counts what is read from the TUN, and for how long. A chain of flows that has come to the limit of how many there may be
/// is over before its time.
fn watch(host: &NetNs, begin: Instant) -> Result<(u64, Duration), LabError> {
    let (mut known, mut last) = (0, begin);
    loop {
        let (packets, now) = (host.link_counters(TUN)?.tx_packets, Instant::now());
        if packets > known {
            (known, last) = (packets, now);
        }
        if now - begin >= LOOK || packets >= ENOUGH {
            let looped = packets > 5 * NOISE;
            return Ok((packets, if looped { last - begin } else { now - begin }));
        }
        thread::sleep(STEP);
    }
}

fn judge(packets: u64, sent: u64) -> Seen {
    if packets > 10 * sent + 5 * NOISE {
        Seen::Loops
    } else if packets <= 2 * sent + NOISE {
        Seen::Still
    } else {
        Seen::Unclear
    }
}

/// What `doctor` says: of the running instance, or of what would run.
fn doctor(host: &NetNs, scene: &Scene, without: Without) -> Result<String, Failure> {
    let mut asked = program(host, "doctor --json", scene, without).start()?;
    let code = asked.wait(PATIENCE)?.code();
    let answer: Value = serde_json::from_str(&asked.stdout()).unwrap_or_default();
    match answer.get("verdict").and_then(Value::as_str) {
        Some(verdict) if (verdict == "proven") == (code == Some(0)) => Ok(verdict.to_owned()),
        _ => {
            let why = last_line(&asked.stderr());
            Err(Failure::new(
                FAILED,
                format_args!("`oneway doctor` ended with {code:?} and no verdict: {why}"),
            ))
        }
    }
}

/// Stops it; a loop must not keep it from that.
fn stop(oneway: &mut Oneway) -> Result<(), Failure> {
    let (status, took) = oneway.stop(PATIENCE)?;
    if status.success() {
        return Ok(());
    }
    let why = last_line(&oneway.stderr());
    Err(Failure::new(FAILED, format_args!("oneway ended with {status} after {took:.1?}: {why}")))
}

fn last_line(stderr: &str) -> String {
    let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}
