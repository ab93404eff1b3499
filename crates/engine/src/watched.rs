//! What the watch over the host has seen and done, for `status`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use oneway_egress::Strategy;
use oneway_route::{RefuseTable, Uplinks};
use parking_lot::Mutex;

use crate::control::GuardStatus;

/// Changes that are remembered by name.
const LATEST: usize = 16;

/// What the kernel said about our own sockets when it was asked last.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) proven: bool,
    /// It said that they would come back.
    pub(crate) loops: bool,
    pub(crate) why: String,
}

/// The state that the watch keeps up to date.
#[derive(Debug)]
pub(crate) struct Watched(Mutex<Now>);

#[derive(Debug)]
struct Now {
    uplinks: Uplinks,
    strategy: Strategy,
    strategy_why: String,
    proof: Proof,
    /// What is refused instead of let out, with `--strict`.
    refusals: Option<RefuseTable>,
    /// What is done about the host's resolver settings.
    resolver: Option<String>,
    latest: VecDeque<String>,
    counts: GuardStatus,
}

impl Watched {
    pub(crate) fn new(uplinks: Uplinks, strategy: Strategy, strategy_why: String, proof: Proof) -> Self {
        Self(Mutex::new(Now {
            uplinks,
            strategy,
            strategy_why,
            proof,
            refusals: None,
            resolver: None,
            latest: VecDeque::new(),
            counts: GuardStatus::default(),
        }))
    }

    pub(crate) fn uplinks(&self) -> Uplinks {
        self.0.lock().uplinks.clone()
    }

    pub(crate) fn set_uplinks(&self, uplinks: Uplinks) {
        self.0.lock().uplinks = uplinks;
    }

    /// The strategy, and why it was chosen.
    pub(crate) fn strategy(&self) -> (Strategy, String) {
        let now = self.0.lock();
        (now.strategy.clone(), now.strategy_why.clone())
    }

    pub(crate) fn set_strategy(&self, strategy: Strategy, why: String) {
        let mut now = self.0.lock();
        now.strategy = strategy;
        now.strategy_why = why;
    }

    pub(crate) fn proof(&self) -> Proof {
        self.0.lock().proof.clone()
    }

    pub(crate) fn set_proof(&self, proof: Proof) {
        self.0.lock().proof = proof;
    }

    pub(crate) fn refusals(&self) -> Option<RefuseTable> {
        self.0.lock().refusals.clone()
    }

    pub(crate) fn set_refusals(&self, refusals: Option<RefuseTable>) {
        self.0.lock().refusals = refusals;
    }

    pub(crate) fn resolver(&self) -> Option<String> {
        self.0.lock().resolver.clone()
    }

    pub(crate) fn set_resolver(&self, resolver: Option<String>) {
        self.0.lock().resolver = resolver;
    }

    /// Changes of ours were gone and are made again.
    pub(crate) fn restored(&self, what: Vec<String>) {
        let mut now = self.0.lock();
        now.counts.restored += what.len() as u64;
        for change in what {
            now.latest.retain(|known| *known != change);
            now.latest.push_front(change);
        }
        now.latest.truncate(LATEST);
    }

    /// The plan has followed the host.
    pub(crate) fn moved(&self) {
        self.0.lock().counts.moved += 1;
    }

    /// So many flows were reset.
    pub(crate) fn reset(&self, flows: usize) {
        self.0.lock().counts.flows_reset += flows as u64;
    }

    /// More was written to the TUN than what was read from it explains.
    pub(crate) fn alarm(&self) {
        self.0.lock().counts.alarms += 1;
    }

    /// Why something that the capture needs is not there.
    pub(crate) fn missing(&self) -> Option<String> {
        self.0.lock().counts.missing.clone()
    }

    pub(crate) fn set_missing(&self, why: Option<String>) {
        self.0.lock().counts.missing = why;
    }

    /// Networks of ours that others have too.
    pub(crate) fn set_overlaps(&self, overlaps: Vec<String>) {
        self.0.lock().counts.overlaps = overlaps;
    }

    /// All of it but what the egress knows.
    pub(crate) fn status(&self) -> GuardStatus {
        let now = self.0.lock();
        GuardStatus { latest: now.latest.iter().cloned().collect(), ..now.counts.clone() }
    }
}

/// Says what repeats once a minute.
#[derive(Debug, Default)]
pub(crate) struct OncePerMinute(Option<Instant>);

impl OncePerMinute {
    /// Whether it may be said now.
    pub(crate) fn may(&mut self, now: Instant) -> bool {
        let silent = self.0.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(60));
        if silent {
            self.0 = Some(now);
        }
        silent
    }
}

/// Says the same thing once a minute, with how often it has happened since.
#[derive(Debug, Default)]
pub(crate) struct EachOncePerMinute(HashMap<String, (Instant, u64)>);

/// Different things that are remembered. At the limit all are forgotten, and said again.
const THINGS: usize = 256;

impl EachOncePerMinute {
    /// How often it has happened since it was last said, this time included; none if that is not a minute ago.
    pub(crate) fn note(&mut self, what: &str, now: Instant) -> Option<u64> {
        if let Some((at, times)) = self.0.get_mut(what) {
            *times += 1;
            if now.saturating_duration_since(*at) < Duration::from_secs(60) {
                return None;
            }
            *at = now;
            return Some(std::mem::take(times));
        }
        if self.0.len() >= THINGS {
            self.0.clear();
        }
        self.0.insert(what.to_owned(), (now, 0));
        Some(1)
    }
}

/// Counts rounds of restoring, to tell a fight from an accident.
#[derive(Debug)]
pub(crate) struct Rounds {
    at: VecDeque<Instant>,
    within: Duration,
}

/// So many rounds within a second are a fight, and are the most that there are.
const FIGHT: usize = 5;

impl Default for Rounds {
    fn default() -> Self {
        Self { at: VecDeque::new(), within: Duration::from_secs(1) }
    }
}

impl Rounds {
    /// For what is looked at once a second, however often it is removed.
    pub(crate) fn of_ticks() -> Self {
        Self { within: Duration::from_secs(15), ..Self::default() }
    }

    /// There was one; whether somebody is fighting us.
    pub(crate) fn note(&mut self, now: Instant) -> bool {
        self.at.push_back(now);
        while self.at.front().is_some_and(|at| now.saturating_duration_since(*at) > self.within) {
            self.at.pop_front();
        }
        self.at.len() >= FIGHT
    }

    /// When there may be another.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        match self.at.len().checked_sub(FIGHT).and_then(|n| self.at.get(n)) {
            Some(at) => (*at + self.within).max(now),
            None => now,
        }
    }
}

/// Packets within a second that are no reason to be alarmed.
const QUIET: u64 = 100;
/// Segments that one acknowledgment may stand for, and more: receivers hold some back, and join others.
const PER_PACKET: u64 = 64;

/// Whether so many packets were written to the TUN in a second that those read from it, and the datagrams that were
/// returned, do not explain them.
pub(crate) fn amplified(read: u64, written: u64, returned_datagrams: u64) -> bool {
    written.saturating_sub(returned_datagrams) > PER_PACKET * (read + QUIET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_rounds_a_second_and_no_more() {
        let start = Instant::now();
        let (mut rounds, mut now, mut fights, mut count) = (Rounds::default(), start, 0, 0);
        while now < start + Duration::from_secs(10) {
            now = rounds.next(now);
            fights += usize::from(rounds.note(now));
            count += 1;
            now += Duration::from_millis(1);
        }
        assert!((50..=55).contains(&count), "{count}");
        assert!(fights > 40, "{fights}");
        // Now and then is no fight.
        let mut rounds = Rounds::default();
        for n in 0..100 {
            let now = start + Duration::from_millis(300 * n);
            assert_eq!(rounds.next(now), now);
            assert!(!rounds.note(now));
        }
    }

    #[test]
    fn each_thing_is_said_once_a_minute_with_its_number() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut said = EachOncePerMinute::default();
        let times = [0, 2, 59, 60, 61, 119, 120, 300].map(|second| said.note("a rule", at(second)));
        assert_eq!(times, [Some(1), None, None, Some(3), None, None, Some(3), Some(1)]);
        assert_eq!(said.note("a route", at(300)), Some(1));
        for number in 0..1000 {
            said.note(&number.to_string(), at(300));
        }
        assert!(said.0.len() <= THINGS);
    }

    #[test]
    fn once_per_minute() {
        let start = Instant::now();
        let mut said = OncePerMinute::default();
        let count = (0..180).filter(|n| said.may(start + Duration::from_secs(*n))).count();
        assert_eq!(count, 3);
    }

    #[test]
    fn downloads_are_no_amplification() {
        assert!(!amplified(0, 100, 0));
        assert!(!amplified(50_000, 2_000_000, 0), "an acknowledgment for 40 segments");
        assert!(!amplified(10, 100_000, 99_990), "a stream of datagrams");
        assert!(amplified(10, 100_000, 0));
    }

    #[test]
    fn what_was_restored_is_named_once() {
        let proof = Proof { proven: true, loops: false, why: String::new() };
        let watched = Watched::new(Uplinks::default(), Strategy::unbound(), String::new(), proof);
        for n in 0..100 {
            watched.restored(vec![format!("{}", n % 20), "always".into()]);
        }
        let status = watched.status();
        assert_eq!((status.restored, status.latest.len()), (200, LATEST));
        assert_eq!(status.latest.first().map(String::as_str), Some("always"));
        assert_eq!(status.latest.iter().filter(|name| *name == "always").count(), 1);
    }
}
