//! Flows that would go in a circle: the proxy of an outbound is a program of this host, what it sends on is captured, and
//! the rules send that to the proxy again.
//!
//! Nothing of ours comes back in such a circle, so that no mark and no registry sees it. It is told by whose flow it is:
//! that of the process that listens where the outbound connects to, or of one that it has started. A flow is refused
//! before anything is sent for it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oneway_flow::{Listener, Owner};
use parking_lot::{Mutex, RwLock};

use crate::exclude::Exclusions;
use crate::watched::OncePerMinute;

/// How long it holds who listens. A server that was started anew is another process.
const HOLDS: Duration = Duration::from_secs(2);

/// How long it holds that one proxy's program makes use of another outbound.
const USES: Duration = Duration::from_secs(60);

/// Outbounds whose listeners are remembered, by their numbers in the configuration.
#[derive(Debug, Default)]
pub(crate) struct Circles {
    /// The addresses of this host; none where its traffic is not captured.
    own: RwLock<Vec<IpAddr>>,
    exclusions: RwLock<Exclusions>,
    known: Mutex<Known>,
    refused: AtomicU64,
    /// One look at a time, whose answer is everybody's.
    looking: Mutex<()>,
    /// Left out on purpose: every flow may go.
    left_out: bool,
}

#[derive(Debug, Default)]
struct Known {
    listeners: HashMap<u32, Seen>,
    /// Which outbound's program sends by which outbound, and when that was seen last.
    uses: HashMap<(u32, u32), Instant>,
    /// When flows came whose program nobody may see, by outbound and target.
    crowds: HashMap<(u32, String), VecDeque<Instant>>,
    said: HashMap<u32, OncePerMinute>,
}

/// Who listened where an outbound connects to, and when that was looked at.
#[derive(Debug)]
struct Seen {
    at: SocketAddr,
    when: Instant,
    listener: Option<Listener>,
    /// What it sends is not captured.
    excluded: bool,
}

impl Seen {
    fn is_fresh(&self, at: SocketAddr) -> bool {
        self.at == at && self.when.elapsed() < HOLDS
    }
}

/// What is known about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may go.
    Open,
    /// It would come to the program that sends it.
    Closed,
    /// Who listens has to be found first, see [`Circles::look`].
    Unknown,
}

impl Circles {
    /// The same for outbounds of other numbers.
    pub(crate) fn anew(&self) -> Self {
        Self {
            own: RwLock::new(self.own.read().clone()),
            exclusions: RwLock::new(self.exclusions.read().clone()),
            known: Mutex::default(),
            refused: AtomicU64::new(self.refused()),
            looking: Mutex::default(),
            left_out: self.left_out,
        }
    }

    /// The same, or none if they are left out on purpose.
    pub(crate) fn left_out(self, left_out: bool) -> Self {
        Self { left_out, ..self }
    }

    /// Whether they are left out on purpose.
    pub(crate) fn are_left_out(&self) -> bool {
        self.left_out
    }

    /// Replaces the addresses of this host.
    pub(crate) fn set_own(&self, addresses: Vec<IpAddr>) {
        *self.own.write() = addresses;
    }

    /// Whether an address is one of this host, whose traffic is captured. Before [`Circles::set_own`] none is.
    pub(crate) fn is_here(&self, ip: IpAddr) -> bool {
        if self.left_out {
            return false;
        }
        let own = self.own.read();
        !own.is_empty() && (ip.is_loopback() || own.contains(&ip))
    }

    /// Says something about an outbound once a minute.
    pub(crate) fn say(&self, id: u32, line: &str) {
        if self.known.lock().said.entry(id).or_default().may(Instant::now()) {
            tracing::warn!("{line}");
        }
    }

    /// Flows that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Finds who listens where these outbounds connect to. Takes milliseconds.
    pub(crate) fn look(&self, outbounds: &[(u32, SocketAddr)]) {
        for (id, at) in outbounds {
            if self.fresh(*id, *at) {
                continue;
            }
            let _one = self.looking.lock();
            if self.fresh(*id, *at) {
                continue;
            }
            let listener = oneway_flow::listener(*at);
            let excluded = listener.as_ref().is_some_and(|listener| self.exclusions.read().cover(listener));
            let seen = Seen { at: *at, when: Instant::now(), listener, excluded };
            self.known.lock().listeners.insert(*id, seen);
        }
    }

    fn fresh(&self, id: u32, at: SocketAddr) -> bool {
        let known = self.known.lock();
        known.listeners.get(&id).is_some_and(|seen| seen.is_fresh(at))
    }

    /// Whether the program of an outbound's proxy is known to be excluded, so that no flow here is its own.
    pub(crate) fn is_excluded(&self, id: u32, at: SocketAddr) -> bool {
        let known = self.known.lock();
        known.listeners.get(&id).is_some_and(|seen| seen.excluded && seen.is_fresh(at))
    }

    /// Replaces what is known of the programs that are excluded.
    pub(crate) fn set_exclusions(&self, exclusions: Exclusions) {
        *self.exclusions.write() = exclusions;
    }

    /// Whether a flow of `owner` to `target` may be sent by the outbound `id`. `local` are the outbounds whose proxies are
    /// on this host, `id` among them; each has been looked for.
    pub(crate) fn judge(
        &self,
        id: u32,
        name: &str,
        local: &[(u32, SocketAddr)],
        owner: &Owner,
        target: &dyn std::fmt::Display,
    ) -> Verdict {
        if local.iter().any(|(id, at)| !self.fresh(*id, *at)) {
            return Verdict::Unknown;
        }
        let now = Instant::now();
        let mut known = self.known.lock();
        let known = &mut *known;
        known.uses.retain(|_, at| now.saturating_duration_since(*at) < USES);
        let mut closed = None;
        for (from, _) in local {
            let Some(Seen { at, listener: Some(listener), .. }) = known.listeners.get(from) else { continue };
            let is_of =
                |(pid, parent): &(u32, u32)| listener.pids.contains(pid) || listener.pids.contains(parent);
            let own = match &*owner.pids {
                [] => is_alike(listener, owner) && crowd(&mut known.crowds, id, target, now),
                pids => pids.iter().any(is_of),
            };
            if !own {
                continue;
            }
            if *from == id || leads(&known.uses, id, *from) {
                closed = Some(line(name, *at, listener, target));
            } else {
                known.uses.insert((*from, id), now);
            }
        }
        let Some(line) = closed else { return Verdict::Open };
        self.refuse(&mut known.said, id, &line);
        Verdict::Closed
    }

    /// A flow that this host forwards for the very machine that it would be sent to.
    pub(crate) fn refuse_forwarded(
        &self,
        id: u32,
        name: &str,
        at: SocketAddr,
        target: &dyn std::fmt::Display,
    ) {
        let line = format!(
            "outbound {name:?} would go in a circle: its proxy {at} is a machine that this host forwards for, and its own \
             connection to {target} was captured and would be sent to it again; it is refused. To mend it, leave out \
             --forwarded, or start the proxy elsewhere"
        );
        self.refuse(&mut self.known.lock().said, id, &line);
    }

    fn refuse(&self, said: &mut HashMap<u32, OncePerMinute>, id: u32, line: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if said.entry(id).or_default().may(Instant::now()) {
            tracing::warn!("{line}");
        }
    }
}

/// Whether a flow may be of a listener whose processes nobody may see: of its user, and made in its control group.
fn is_alike(listener: &Listener, owner: &Owner) -> bool {
    listener.pids.is_empty()
        && owner.uid == Some(listener.uid)
        && owner.cgroup.is_some()
        && owner.cgroup == listener.cgroup_id
}

/// Flows to one target within a second that only a circle makes of programs that look alike.
const CROWD: usize = 32;
/// Targets that are counted at once.
const TARGETS: usize = 256;

/// Counts a flow; whether there are so many of them that they go in a circle.
fn crowd(
    crowds: &mut HashMap<(u32, String), VecDeque<Instant>>,
    id: u32,
    target: &dyn std::fmt::Display,
    now: Instant,
) -> bool {
    let recent = |at: &Instant| now.saturating_duration_since(*at) < Duration::from_secs(1);
    if crowds.len() >= TARGETS {
        crowds.retain(|_, times| times.back().is_some_and(recent));
    }
    if crowds.len() >= TARGETS {
        crowds.clear();
    }
    let times = crowds.entry((id, target.to_string())).or_default();
    times.retain(recent);
    times.push_back(now);
    if times.len() > CROWD {
        times.pop_front();
        return true;
    }
    false
}

/// Whether what is sent by `from` is sent on by way of `to`. There are as many steps as outbounds at most.
fn leads(uses: &HashMap<(u32, u32), Instant>, from: u32, to: u32) -> bool {
    let mut reached = vec![from];
    let mut next = 0;
    while let Some(at) = reached.get(next).copied() {
        if at == to {
            return true;
        }
        let further = uses.keys().filter(|(by, _)| *by == at).map(|(_, on)| *on);
        let further: Vec<u32> = further.filter(|on| !reached.contains(on)).collect();
        reached.extend(further);
        next += 1;
    }
    false
}

fn line(name: &str, at: SocketAddr, listener: &Listener, target: &dyn std::fmt::Display) -> String {
    format!(
        "outbound {name:?} would go in a circle: its proxy {at} is {} of this host, whose own connection to {target} was \
         captured and would be sent to it again; it is refused. To mend it, {}",
        program(listener),
        fix(listener)
    )
}

/// A listener in words.
pub(crate) fn program(listener: &Listener) -> String {
    let pid = listener.pids.first().map(|pid| format!(" {pid}")).unwrap_or_default();
    match &listener.process {
        Some(process) => format!("process{pid} ({})", process.name),
        None => format!("a program of user {}", listener.uid),
    }
}

/// What to do, so that a listener's own traffic is not captured.
pub(crate) fn fix(listener: &Listener) -> String {
    let name = listener.process.as_ref().map_or("PROGRAM", |process| &process.name);
    let user = match listener.uid {
        // Excluding root excludes too much.
        0 => String::new(),
        uid => format!(", give --exclude-uid {uid}"),
    };
    format!("start it as `oneway exclude -- {name} …`{user}, or give --exclude-process {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1080);
    const B: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1081);

    fn circles() -> Circles {
        let circles = Circles::default();
        let seen = |at, pid| {
            let listener = Some(Listener { uid: 7, pids: vec![pid], ..Listener::default() });
            Seen { at, when: Instant::now(), listener, excluded: false }
        };
        circles.known.lock().listeners.extend([(3, seen(A, 100)), (5, seen(B, 200))]);
        circles
    }

    fn of(pid: u32, parent: u32) -> Owner {
        Owner { pids: vec![(pid, parent)], ..Owner::default() }
    }

    #[test]
    fn what_a_proxy_sends_is_not_sent_to_it() {
        let circles = circles();
        let local = [(3, A), (5, B)];
        let judge = |id, owner: &Owner| circles.judge(id, "p", &local, owner, &"t");
        assert_eq!(judge(3, &of(999, 1)), Verdict::Open, "another program");
        assert_eq!(judge(3, &of(100, 1)), Verdict::Closed);
        assert_eq!(judge(3, &of(101, 100)), Verdict::Closed, "a process that it has started");
        assert_eq!(judge(3, &Owner::default()), Verdict::Open, "nobody knows whose it is");
        let either = Owner { pids: vec![(999, 1), (100, 1)], ..Owner::default() };
        assert_eq!(judge(3, &either), Verdict::Closed, "a datagram that it may have sent");
        assert_eq!(circles.refused(), 3);
    }

    #[test]
    fn two_proxies_may_follow_one_another_but_not_each_the_other() {
        let circles = circles();
        let local = [(3, A), (5, B)];
        let judge = |id, pid| circles.judge(id, "p", &local, &of(pid, 1), &"t");
        assert_eq!(judge(5, 100), Verdict::Open, "A sends by B");
        assert_eq!(judge(5, 100), Verdict::Open);
        assert_eq!(judge(3, 200), Verdict::Closed, "B by A would be a circle");
        assert_eq!(judge(5, 100), Verdict::Open);
    }

    #[test]
    fn without_the_right_to_look_a_circle_is_known_by_its_crowd() {
        let circles = Circles::default();
        let listener = Listener { uid: 7, cgroup_id: Some(9), ..Listener::default() };
        let seen = Seen { at: A, when: Instant::now(), listener: Some(listener), excluded: false };
        circles.known.lock().listeners.insert(3, seen);
        let local = [(3, A)];
        let judge = |uid, cgroup, target: &str| {
            let owner = Owner { uid: Some(uid), cgroup: Some(cgroup), ..Owner::default() };
            circles.judge(3, "p", &local, &owner, &target)
        };
        for _ in 0..CROWD {
            assert_eq!(judge(7, 9, "t"), Verdict::Open);
        }
        assert_eq!(judge(7, 9, "t"), Verdict::Closed);
        assert_eq!(judge(7, 9, "t"), Verdict::Closed);
        assert_eq!(judge(7, 9, "u"), Verdict::Open, "another target");
        for _ in 0..2 * CROWD {
            assert_eq!(judge(8, 9, "t"), Verdict::Open, "another user");
            assert_eq!(judge(7, 8, "t"), Verdict::Open, "another control group");
        }
        for target in 0..2 * TARGETS {
            judge(7, 9, &target.to_string());
        }
        assert!(circles.known.lock().crowds.len() <= TARGETS);
    }

    #[test]
    fn who_listens_has_to_be_known() {
        let circles = circles();
        let moved = [(3, B)];
        assert_eq!(circles.judge(3, "p", &moved, &of(100, 1), &"t"), Verdict::Unknown);
        circles.look(&moved);
        assert_eq!(circles.judge(3, "p", &moved, &of(100, 1), &"t"), Verdict::Open, "nobody listens there");
    }
}
