//! Outbounds that choose among others: which member a flow takes.
//!
//! A choice is made for each new flow, from what is known by then; flows that exist stay where they are. What is known
//! comes from two sides: from checks ([`check`]), and from the flows themselves, which notice first that a proxy is gone
//! ([`Entry::observe`](crate::dispatch::Entry::observe)).

#[cfg(target_os = "linux")]
pub(crate) mod check;
mod found;
pub(crate) mod selected;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use self::found::Found;
use crate::config::{Balance, CheckSpec, GroupKind};

/// Nothing is known of a member yet.
const UNKNOWN: u32 = 0;
/// Its last check failed.
const FAILED: u32 = u32::MAX;

/// A group at run time.
#[derive(Debug)]
pub(crate) struct Group {
    /// No other group's, but for those that it stands in place of after another configuration.
    line: AtomicU32,
    kind: GroupKind,
    check: CheckSpec,
    members: Vec<Member>,
    /// The place of the member that was selected, or that is the fastest.
    chosen: AtomicUsize,
    /// The next one's turn.
    turn: AtomicUsize,
    /// Since the checks last looked.
    used: AtomicBool,
    /// What was found out by trying.
    found: Found,
}

#[derive(Debug)]
struct Member {
    /// Its number among all outbounds.
    id: u32,
    /// The microseconds of its last check, or one of the two words above.
    delay: AtomicU32,
}

/// What flows are told apart by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Of where the flow goes, by name if it has one.
    pub(crate) target: u64,
    /// Of all names that one can register together, as `www.example.co.uk` and `login.example.co.uk`.
    pub(crate) site: u64,
    /// Given if all flows of one source must leave together, as the datagrams of one socket must.
    pub(crate) source: Option<u64>,
}

impl Key {
    pub(crate) fn to_address(ip: IpAddr, source: Option<u64>) -> Self {
        let target = number_of(ip);
        Self { target, site: target, source }
    }

    pub(crate) fn to_host(host: &str, source: Option<u64>) -> Self {
        let site = psl::domain_str(host).unwrap_or(host);
        Self { target: number_of(host), site: number_of(site), source }
    }
}

/// A number that stands for a thing, the same in every run of one version.
pub(crate) fn number_of(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

impl Group {
    /// A group of the outbounds of these numbers, at least one.
    pub(crate) fn new(kind: GroupKind, check: CheckSpec, members: Vec<u32>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let member = |id| Member { id, delay: AtomicU32::new(UNKNOWN) };
        Self {
            line: AtomicU32::new(NEXT.fetch_add(1, Relaxed)),
            kind,
            found: Found::new(check.interval),
            check,
            members: members.into_iter().map(member).collect(),
            chosen: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            used: AtomicBool::new(false),
        }
    }

    /// The numbers of its members, in the order of the configuration.
    pub(crate) fn members(&self) -> impl ExactSizeIterator<Item = u32> {
        self.members.iter().map(|member| member.id)
    }

    /// What it is known by, also when another configuration makes it anew.
    pub(crate) fn line(&self) -> u32 {
        self.line.load(Relaxed)
    }

    /// The number of the member that a flow takes. `carries` says whether an outbound is of any use to it, and `works`
    /// whether it is now, as far as is known. Where members go round, nobody's turn is over by that.
    pub(crate) fn pick(&self, key: Key, works: impl Fn(u32) -> bool, carries: impl Fn(u32) -> bool) -> u32 {
        self.is_used();
        self.choose(key, self.turn.load(Relaxed), works, carries)
    }

    /// The same for a flow that is dialled, so that it is the next one's turn.
    pub(crate) fn pick_in_turn(
        &self,
        key: Key,
        works: impl Fn(u32) -> bool,
        carries: impl Fn(u32) -> bool,
    ) -> u32 {
        self.is_used();
        self.choose(key, self.turn.fetch_add(1, Relaxed), works, carries)
    }

    /// A flow takes one of its members.
    pub(crate) fn is_used(&self) {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    fn choose(
        &self,
        key: Key,
        turn: usize,
        works: impl Fn(u32) -> bool,
        carries: impl Fn(u32) -> bool,
    ) -> u32 {
        let working = |at: &usize| self.passed(*at) && works(self.id(*at));
        let all = 0..self.members.len();
        let at = match self.kind {
            GroupKind::Select => Some(self.chosen.load(Relaxed)),
            GroupKind::Fallback => all.clone().find(working),
            GroupKind::UrlTest { .. } => {
                let chosen = self.chosen.load(Relaxed);
                if working(&chosen) {
                    Some(chosen)
                } else {
                    all.clone().filter(working).min_by_key(|at| self.rank(*at))
                }
            }
            GroupKind::LoadBalance(Balance::ConsistentHash) => {
                // A site that is reached from several addresses at once takes that for a theft of its cookies.
                // Rendezvous hashing: when a member fails, only its own flows move.
                all.clone().filter(working).max_by_key(|at| number_of((key.site, self.id(*at))))
            }
            GroupKind::LoadBalance(Balance::RoundRobin) => {
                let count = all.clone().filter(working).count();
                let turn = key.source.map_or(turn, |source| source as usize);
                all.clone().filter(working).nth(turn.checked_rem(count).unwrap_or(0))
            }
            GroupKind::Probe => {
                let found = self.found.get(key.target).filter(working);
                found.or_else(|| all.clone().find(working))
            }
        };
        // If nothing works, the first that would be of use says why; if none would, the first refuses.
        let at = at.or_else(|| all.clone().find(|at| carries(self.id(*at))));
        self.id(at.unwrap_or(0))
    }

    /// Whether it finds out by trying.
    pub(crate) fn is_probe(&self) -> bool {
        self.kind == GroupKind::Probe
    }

    /// The places and numbers of its members in the order in which they are tried for a destination.
    pub(crate) fn order(&self, target: u64) -> Vec<(usize, u32)> {
        let mut order: Vec<_> = self.members().enumerate().collect();
        if let Some(found) = self.found.get(target).filter(|found| *found < order.len()) {
            let first = order.remove(found);
            order.insert(0, first);
        }
        order
    }

    /// How long a member may take to connect.
    pub(crate) fn patience(&self) -> Duration {
        self.check.timeout
    }

    /// Remembers that the member at `at` reached a destination.
    pub(crate) fn reached(&self, target: u64, at: usize) {
        self.found.note(target, at);
    }

    /// Whether a flow to some destination would take this member now.
    pub(crate) fn takes(&self, id: u32, works: impl Fn(u32) -> bool) -> bool {
        match self.kind {
            GroupKind::LoadBalance(_) if self.works(&works) => self.passes(id) && works(id),
            _ => self.choose(Key { target: 0, site: 0, source: None }, 0, &works, |_| true) == id,
        }
    }

    /// Whether the last check of a member has not failed.
    pub(crate) fn passes(&self, id: u32) -> bool {
        self.members.iter().position(|member| member.id == id).is_some_and(|at| self.passed(at))
    }

    /// Whether any member that a flow may take is of any use to it.
    pub(crate) fn carries(&self, carries: impl Fn(u32) -> bool) -> bool {
        self.takeable().any(|at| carries(self.id(at)))
    }

    /// Whether any member that a flow may take works, as far as is known.
    pub(crate) fn works(&self, works: impl Fn(u32) -> bool) -> bool {
        self.takeable().any(|at| self.passed(at) && works(self.id(at)))
    }

    /// The places of the members that a flow may take, whatever works.
    fn takeable(&self) -> std::ops::Range<usize> {
        match self.kind {
            GroupKind::Select => {
                let chosen = self.chosen.load(Relaxed);
                chosen..chosen + 1
            }
            _ => 0..self.members.len(),
        }
    }

    /// Makes a member the one that is taken; false if it is none, or nothing can be selected here.
    pub(crate) fn select(&self, id: u32) -> bool {
        let at = self.members.iter().position(|member| member.id == id);
        match at {
            Some(at) if self.kind == GroupKind::Select => {
                self.chosen.store(at, Relaxed);
                true
            }
            _ => false,
        }
    }

    /// Takes over what another group knows of the members that it has in common with this one: `is_same` is asked about a
    /// number of this group and one of the other.
    pub(crate) fn go_on_from(&self, other: &Self, is_same: impl Fn(u32, u32) -> bool) {
        self.line.store(other.line(), Relaxed);
        let chosen = other.id(other.chosen.load(Relaxed));
        for (at, member) in self.members.iter().enumerate() {
            let Some(same) = other.members.iter().find(|old| is_same(member.id, old.id)) else { continue };
            member.delay.store(same.delay.load(Relaxed), Relaxed);
            if same.id == chosen {
                self.chosen.store(at, Relaxed);
            }
        }
        self.used.store(other.used.load(Relaxed), Relaxed);
    }

    /// Notes how the check of the member at `at` went.
    fn note(&self, at: usize, took: Option<Duration>) {
        let micros =
            |took: Duration| u32::try_from(took.as_micros()).unwrap_or(FAILED - 1).clamp(1, FAILED - 1);
        if let Some(member) = self.members.get(at) {
            member.delay.store(took.map_or(FAILED, micros), Relaxed);
        }
    }

    /// After a round of checks: whether another member is to be taken.
    fn choose_fastest(&self) {
        let GroupKind::UrlTest { tolerance } = self.kind else { return };
        let chosen = self.chosen.load(Relaxed);
        let Some(best) = (0..self.members.len()).min_by_key(|at| self.rank(*at)) else { return };
        let tolerance = u32::try_from(tolerance.as_micros()).unwrap_or(u32::MAX);
        if !self.passed(chosen) || self.rank(best).saturating_add(tolerance) < self.rank(chosen) {
            self.chosen.store(best, Relaxed);
        }
    }

    /// How long the last check of a member took; `None` if it failed or there was none.
    pub(crate) fn delay(&self, id: u32) -> Option<Duration> {
        let member = self.members.iter().find(|member| member.id == id)?;
        match member.delay.load(Relaxed) {
            UNKNOWN | FAILED => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }

    fn passed(&self, at: usize) -> bool {
        self.members.get(at).is_some_and(|member| member.delay.load(Relaxed) != FAILED)
    }

    /// The shorter the better; what was never checked comes behind what was.
    fn rank(&self, at: usize) -> u32 {
        match self.members.get(at).map_or(FAILED, |member| member.delay.load(Relaxed)) {
            UNKNOWN => FAILED - 1,
            delay => delay,
        }
    }

    fn id(&self, at: usize) -> u32 {
        self.members.get(at).or(self.members.first()).map_or(0, |member| member.id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const IDS: [u32; 3] = [7, 8, 9];

    fn group(kind: GroupKind) -> Group {
        Group::new(kind, CheckSpec::default(), IDS.to_vec())
    }

    fn key(target: u64) -> Key {
        Key { target: number_of(target), site: number_of(target), source: None }
    }

    /// The member of a flow that any of them carries.
    fn pick(group: &Group, key: Key, works: impl Fn(u32) -> bool) -> u32 {
        group.pick(key, works, |_| true)
    }

    fn ms(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn fallback_takes_the_first_that_works() {
        let group = group(GroupKind::Fallback);
        assert_eq!(pick(&group, key(1), |_| true), 7);
        assert_eq!(pick(&group, key(1), |id| id != 7), 8);
        group.note(1, None);
        assert_eq!(pick(&group, key(1), |id| id != 7), 9);
        group.note(1, ms(1));
        assert_eq!(pick(&group, key(1), |id| id != 7), 8);
        assert_eq!(pick(&group, key(1), |_| false), 7, "the first tells why nothing works");
        assert!(group.works(|id| id == 9) && !group.works(|_| false));
    }

    #[test]
    fn where_nothing_works_the_first_of_use_is_taken() {
        for kind in [
            GroupKind::Fallback,
            GroupKind::UrlTest { tolerance: Duration::ZERO },
            GroupKind::LoadBalance(Balance::ConsistentHash),
            GroupKind::LoadBalance(Balance::RoundRobin),
            GroupKind::Probe,
        ] {
            let group = group(kind);
            assert_eq!(group.pick(key(1), |_| false, |id| id != 7), 8, "{kind:?}");
            assert_eq!(group.pick(key(1), |_| false, |_| false), 7, "{kind:?}: nobody carries it");
            assert_eq!(group.pick(key(1), |id| id == 9, |id| id != 7), 9, "{kind:?}");
        }
    }

    #[test]
    fn the_fastest_keeps_its_place_unless_another_is_clearly_faster() {
        let group = group(GroupKind::UrlTest { tolerance: Duration::from_millis(20) });
        let checked = |delays: [Option<Duration>; 3]| {
            delays.into_iter().enumerate().for_each(|(at, took)| group.note(at, took));
            group.choose_fastest();
            pick(&group, key(1), |_| true)
        };
        assert_eq!(pick(&group, key(1), |_| true), 7, "before any check");
        assert_eq!(checked([ms(100), ms(50), ms(90)]), 8);
        assert_eq!(checked([ms(31), ms(50), ms(90)]), 8, "19 ms are chance");
        assert_eq!(checked([ms(29), ms(50), ms(90)]), 7, "21 ms are not");
        assert_eq!(checked([None, ms(50), ms(90)]), 8);
        assert_eq!(pick(&group, key(1), |id| id != 8), 9, "a dial has failed since");
        assert_eq!(checked([None, None, None]), 7, "nothing works");
        assert_eq!(checked([None, None, ms(4000)]), 9);
    }

    #[test]
    fn what_reached_a_destination_is_tried_first() {
        let group = group(GroupKind::Probe);
        assert_eq!(pick(&group, key(1), |_| true), 7);
        assert_eq!(group.order(key(1).target), [(0, 7), (1, 8), (2, 9)]);
        group.reached(key(1).target, 2);
        assert_eq!(group.order(key(1).target), [(2, 9), (0, 7), (1, 8)]);
        assert_eq!((pick(&group, key(1), |_| true), pick(&group, key(2), |_| true)), (9, 7));
        assert_eq!(pick(&group, key(1), |id| id != 9), 7, "its proxy is down");
    }

    #[test]
    fn a_selection_stands_whatever_works() {
        let group = group(GroupKind::Select);
        assert_eq!(pick(&group, key(1), |_| true), 7);
        assert!(group.select(9));
        assert_eq!(pick(&group, key(1), |_| false), 9);
        assert!(!group.select(6));
        assert_eq!(pick(&group, key(1), |_| true), 9);
        assert!(!self::group(GroupKind::Fallback).select(9));
        // To a group that it is a member of, the others are of no use.
        assert!(group.works(|id| id == 9) && !group.works(|id| id != 9));
        assert!(group.carries(|id| id == 9) && !group.carries(|id| id != 9));
    }

    #[test]
    fn one_destination_stays_with_one_member_and_only_those_of_a_failed_one_move() {
        let group = group(GroupKind::LoadBalance(Balance::ConsistentHash));
        let all = |works: &dyn Fn(u32) -> bool| -> BTreeMap<u64, u32> {
            (0..300).map(|target| (target, pick(&group, key(target), works))).collect()
        };
        let before = all(&|_| true);
        assert_eq!(before, all(&|_| true));
        for id in IDS {
            let share = before.values().filter(|member| **member == id).count();
            assert!((60..140).contains(&share), "{id} has {share} of 300");
        }
        for (target, member) in all(&|id| id != 8) {
            let was = before[&target];
            assert!(member == was || was == 8 && member != 8, "{target} went from {was} to {member}");
        }
    }

    #[test]
    fn the_names_of_one_site_stay_with_one_member() {
        let group = group(GroupKind::LoadBalance(Balance::ConsistentHash));
        let taken = |host: &str| pick(&group, Key::to_host(host, None), |_| true);
        for site in ["a.example", "a.co.uk", "a.github.io", "xn--55qx5d.cn"] {
            for n in 0..20 {
                assert_eq!(taken(&format!("n{n}.x.{site}")), taken(site), "n{n} of {site}");
            }
        }
        // What is registered under these is not of one site.
        for suffix in ["co.uk", "github.io", "com", "example"] {
            let members: BTreeSet<u32> = (0..40).map(|n| taken(&format!("n{n}.{suffix}"))).collect();
            assert_eq!(members.len(), IDS.len(), "{suffix}");
        }
        // Who reaches a name that has been tried says nothing of another one.
        assert_ne!(Key::to_host("a.x.example", None).target, Key::to_host("b.x.example", None).target);
        assert_ne!(Key::to_host("localhost", None).site, Key::to_host("printer", None).site);
    }

    #[test]
    fn turns_go_round_those_that_work() {
        let group = group(GroupKind::LoadBalance(Balance::RoundRobin));
        let looked = || pick(&group, key(1), |id| id != 8);
        let next = |_| {
            assert_eq!(looked(), looked(), "who only looks takes no turn");
            let taken = (looked(), group.pick_in_turn(key(1), |id| id != 8, |_| true));
            assert_eq!(taken.0, taken.1);
            taken.1
        };
        let taken: Vec<u32> = (0..6).map(next).collect();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 2);
        assert!(taken.windows(2).all(|pair| pair[0] != pair[1]), "{taken:?}");
        // The datagrams of one socket stay together.
        let socket = Key { target: 1, site: 1, source: Some(number_of("192.0.2.1:5")) };
        let first = pick(&group, socket, |_| true);
        assert!(
            (0..10).all(|target| pick(&group, Key { target, site: target, ..socket }, |_| true) == first)
        );
    }
}
