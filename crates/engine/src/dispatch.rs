//! From a flow to an outbound, and how well each outbound does.

mod attempt;
mod datagrams;
mod entry;
mod judge;
mod turn;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use oneway_flow::{Arrival, Inbound, Network, Owners, SocketTable, Target};
use oneway_outbound::Outbound;
use oneway_rule::{Decision, RuleSet};

use crate::addresses::Addresses;
use crate::circle::{Circles, Verdict};
use crate::config::{CaptureMode, ProgramName, SniffConfig, canonical};
use crate::control::MemberStatus;
use crate::group::{Group, Key, number_of};
pub(crate) use entry::Entry;

/// The rules and what they choose from.
#[derive(Debug)]
pub(crate) struct Dispatch {
    rules: RuleSet,
    /// What `flows` shows where no rule matched.
    last_label: Arc<str>,
    entries: Vec<Arc<Entry>>,
    owners: Arc<Owners>,
    circles: Arc<Circles>,
    addresses: Arc<Addresses>,
    /// Programs whose flows leave directly, whatever the rules say. Whose a packet is can be found out only when it is here.
    excluded: Vec<ProgramName>,
    sniff: SniffConfig,
}

/// A flow that asks where to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) network: Network,
    pub(crate) source: SocketAddr,
    pub(crate) inbound: Inbound,
    pub(crate) target: &'a Target,
    /// The target's address only stands for its name: rules on addresses have nothing to look at.
    pub(crate) is_fake: bool,
    /// The differentiated services code point of its packet (RFC 2474).
    pub(crate) dscp: u8,
}

impl Subject<'_> {
    /// How it has come.
    pub(crate) fn arrival(&self) -> Arrival {
        Arrival { network: self.network, source: self.source, inbound: self.inbound, dscp: self.dscp }
    }
}

/// What carries datagrams of a client's socket for a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// The outbound's serial number.
    pub(crate) serial: u32,
    /// Something has come back by it lately.
    pub(crate) is_heard: bool,
}

/// What the rules ask of a flow, and is not known yet. See [`Dispatch::find`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Whose it is.
    Owner { with_process: bool },
    /// The address of its name.
    Address,
}

/// What the rules chose for a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    pub(crate) id: u32,
    pub(crate) entry: &'a Arc<Entry>,
    /// The number of the outbound that the rule names.
    named: u32,
    /// That outbound, if it is a group.
    pub(crate) group: Option<&'a Entry>,
    /// The group on the way that finds out by trying.
    probe: Option<&'a Group>,
    because: Because,
    dispatch: &'a Dispatch,
}

/// What decided about a flow.
#[derive(Clone, Copy, Debug)]
enum Because {
    /// A rule, or none.
    Rule(Decision),
    /// Its program is excluded by name.
    Excluded,
    /// It would go in a circle.
    Circle,
}

impl Choice<'_> {
    /// Whether the rules decided, and nothing that comes before them.
    pub(crate) fn is_by_rule(&self) -> bool {
        matches!(self.because, Because::Rule(_))
    }

    /// What `flows` shows: the rule as it was written, and the one that it led to if it is a `SUB-RULE`.
    pub(crate) fn rule(&self) -> Arc<str> {
        let rule = match self.because {
            Because::Circle => return "in a circle".into(),
            Because::Excluded => return "excluded program".into(),
            Because::Rule(decision) => decision,
        };
        let rules = &self.dispatch.rules;
        let inner = rule.inner.and_then(|(sub, inner)| rules.text_in(sub, inner));
        match (rule.rule.and_then(|rule| rules.text(rule)), inner) {
            (Some(text), Some(inner)) => format!("{text}: {inner}").into(),
            (Some(text), None) => text.into(),
            (None, _) => Arc::clone(&self.dispatch.last_label),
        }
    }
}

impl Dispatch {
    pub(crate) fn new(rules: RuleSet, last: &str, entries: Vec<Entry>) -> Self {
        Self {
            rules,
            last_label: last.into(),
            entries: entries.into_iter().map(Arc::new).collect(),
            owners: Arc::default(),
            circles: Arc::default(),
            addresses: Arc::default(),
            excluded: Vec::new(),
            sniff: SniffConfig::default(),
        }
    }

    /// The same, but that what these programs send leaves directly.
    pub(crate) fn excluding(self, excluded: Vec<ProgramName>) -> Self {
        Self { excluded, ..self }
    }

    /// The same for flows of another network namespace.
    pub(crate) fn of_namespace(self, table: SocketTable) -> Self {
        Self { owners: Arc::new(Owners::of(table)), ..self }
    }

    /// The same, but that names are looked for in the first bytes of flows.
    pub(crate) fn sniffing(self, sniff: SniffConfig) -> Self {
        Self { sniff, ..self }
    }

    /// Why rules on programs, and programs that are excluded, match less than they say of this host's programs, if they do: a rule
    /// that blocks a program must not be taken for one that works.
    pub(crate) fn blind(&self) -> Option<&'static str> {
        let asks = !self.excluded.is_empty() || self.rules.needs().process;
        (asks && !oneway_flow::sees_programs()).then_some(
            "rules on programs and --exclude-process match no program of other users, nor one with more rights, and what they \
             block is not blocked: to see who has a socket takes CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; grant both to whoever \
             runs oneway",
        )
    }

    /// Where names are looked for in the first bytes of flows, if any rule wants to know them.
    pub(crate) fn sniff(&self) -> Option<&SniffConfig> {
        (self.sniff.enable && self.asks_names()).then_some(&self.sniff)
    }

    /// Whether the name is looked for in the first bytes of flows to this port.
    pub(crate) fn sniffs(&self, network: Network, port: u16) -> bool {
        let Some(sniff) = self.sniff() else { return false };
        let [one, other] = match network {
            Network::Tcp => [&sniff.tls[..], &sniff.http[..]],
            Network::Udp => [&sniff.quic[..], &[]],
            Network::Icmp => return false,
        };
        one.iter().chain(other).any(|listed| listed.get() == port)
    }

    /// The same in place of `before`: outbounds that have not changed stay the ones that they are, with all that is known of
    /// them, and so do the selections and checks of groups.
    pub(crate) fn in_place_of(mut self, before: &Self) -> Self {
        for entry in &mut self.entries {
            if let Some(same) = before.entries.iter().find(|old| old.is_like(entry)) {
                *entry = Arc::clone(same);
            }
        }
        for entry in &self.entries {
            let same = |old: &&Arc<Entry>| old.name == entry.name;
            if let (Some(group), Some(old)) =
                (&entry.group, before.entries.iter().find(same).and_then(|old| old.group.as_ref()))
            {
                group.go_on_from(old, |id, old| {
                    let (now, then) = (self.by_id(id), before.by_id(old));
                    // A group is another one each time.
                    Arc::ptr_eq(now, then)
                        || (now.group.is_some() && then.group.is_some() && now.name == then.name)
                });
            }
        }
        Self {
            owners: Arc::clone(&before.owners),
            circles: Arc::new(before.circles.anew()),
            addresses: Arc::clone(&before.addresses),
            ..self
        }
    }

    /// Whether this table still has an outbound that another one had.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        self.entries.iter().any(|own| own.serial == entry.serial)
    }

    /// Whether this table lets a flow stay that another one let leave by `outbound`: it is there, and the rules do not block
    /// the flow, as far as is known without waiting.
    pub(crate) fn lets_stay(&self, outbound: &Arc<str>, subject: &Subject<'_>) -> bool {
        let blocks = |choice: Choice<'_>| matches!(choice.entry.outbound, Outbound::Block);
        self.has_named(outbound) && !self.choose(subject).is_ok_and(blocks)
    }

    /// The same on a thread that may block: finds out what the rules ask for.
    pub(crate) fn lets_stay_surely(&self, outbound: &Arc<str>, subject: &Subject<'_>) -> bool {
        // Each finds out one thing; what is not found by then is gone itself, most likely.
        for _ in 0..3 {
            match self.choose(subject) {
                Err(missing) if self.has_named(outbound) => self.look(subject, missing),
                _ => break,
            }
        }
        self.lets_stay(outbound, subject)
    }

    /// Whether the very outbound that a flow has this name from is here.
    fn has_named(&self, outbound: &Arc<str>) -> bool {
        self.entries.iter().any(|entry| Arc::ptr_eq(&entry.name, outbound))
    }

    /// The outbound for a flow, from what is known without waiting. The rules were compiled against this table, so that
    /// every number in them is here.
    pub(crate) fn choose(&self, subject: &Subject<'_>) -> Result<Choice<'_>, Missing> {
        self.choose_keeping(subject, |_| None)
    }

    /// The same, where a group has its flows stay with the outbound that it `held` before.
    pub(crate) fn choose_keeping(
        &self,
        subject: &Subject<'_>,
        held: impl Fn(&Group) -> Option<Held>,
    ) -> Result<Choice<'_>, Missing> {
        let choice = self.choose_by(
            subject,
            |with_process| self.owner(subject, with_process),
            |host| self.addresses.known(host).ok_or(Missing::Address),
            held,
        )?;
        if self.closes_circle(&choice, subject)? {
            return Ok(self.refusal());
        }
        Ok(choice)
    }

    /// Whether a flow comes from the very proxy that it would be sent to.
    fn closes_circle(&self, choice: &Choice<'_>, subject: &Subject<'_>) -> Result<bool, Missing> {
        let Some(proxy) = choice.entry.outbound.proxy() else { return Ok(false) };
        let addresses = proxy.addrs();
        if !addresses.iter().any(|at| self.circles.is_here(at.ip())) {
            // A proxy in a container of this host, whose traffic is forwarded.
            let own =
                addresses.iter().find(|at| at.ip() == subject.source.ip() && !self.circles.are_left_out());
            return Ok(own.is_some_and(|at| {
                self.circles.refuse_forwarded(choice.id, &choice.entry.name, *at, subject.target);
                true
            }));
        }
        let local = self.local();
        let here = local.iter().find(|(id, _)| *id == choice.id);
        if here.is_some_and(|(id, at)| self.circles.is_excluded(*id, *at)) {
            return Ok(false);
        }
        let owner = self.owner(subject, true)?;
        match self.circles.judge(choice.id, &choice.entry.name, &local, &owner, subject.target) {
            Verdict::Open => Ok(false),
            Verdict::Closed => Ok(true),
            Verdict::Unknown => Err(Missing::Owner { with_process: true }),
        }
    }

    /// The outbounds whose proxies are on this host, and where.
    pub(crate) fn local(&self) -> Vec<(u32, SocketAddr)> {
        let here = |entry: &Arc<Entry>| {
            let addresses = entry.outbound.proxy()?.addrs();
            addresses.iter().copied().find(|at| self.circles.is_here(at.ip()))
        };
        (0_u32..).zip(&self.entries).filter_map(|(id, entry)| Some((id, here(entry)?))).collect()
    }

    /// The same, with circles left out on purpose.
    pub(crate) fn without_circles(self, left_out: bool) -> Self {
        Self { circles: Arc::new(Circles::default().left_out(left_out)), ..self }
    }

    /// What knows of circles.
    pub(crate) fn circles(&self) -> &Circles {
        &self.circles
    }

    /// The outbound that refuses, which there always is.
    #[expect(
        clippy::indexing_slicing,
        reason = "the position comes from this very table, which is never empty"
    )]
    fn refusal(&self) -> Choice<'_> {
        let at = self.entries.iter().position(|entry| matches!(entry.outbound, Outbound::Block)).unwrap_or(0);
        Choice {
            id: at as u32,
            entry: &self.entries[at],
            named: at as u32,
            group: None,
            probe: None,
            because: Because::Circle,
            dispatch: self,
        }
    }

    /// The outbound for a flow whose owner is given, and whether its program was asked for. Waits for the address of its name
    /// if the rules ask for it, and so must not be called on a worker.
    pub(crate) fn choose_for(&self, subject: &Subject<'_>, owner: &oneway_flow::Owner) -> (Choice<'_>, bool) {
        let asked = Cell::new(false);
        let find = |with_process: bool| {
            asked.set(asked.get() || with_process);
            Ok::<_, Infallible>(owner.clone())
        };
        let address = |host: &str| Ok(self.addresses.look(host));
        let Ok(choice) = self.choose_by(subject, find, address, |_| None);
        (choice, asked.get())
    }

    #[expect(clippy::indexing_slicing, reason = "the rules' numbers come from this very table")]
    fn choose_by<E>(
        &self,
        subject: &Subject<'_>,
        find: impl Fn(bool) -> Result<oneway_flow::Owner, E>,
        address: impl Fn(&str) -> Result<Vec<IpAddr>, E>,
        held: impl Fn(&Group) -> Option<Held>,
    ) -> Result<Choice<'_>, E> {
        if !self.excluded.is_empty() {
            let owner = find(true)?;
            let named = |name: &ProgramName| name.fits(owner.process.as_deref(), owner.comm.as_deref());
            if let Some(at) = self
                .entries
                .iter()
                .position(|entry| entry.is_direct())
                .filter(|_| self.excluded.iter().any(named))
            {
                let because = Because::Excluded;
                return Ok(Choice {
                    id: at as u32,
                    entry: &self.entries[at],
                    named: at as u32,
                    group: None,
                    probe: None,
                    because,
                    dispatch: self,
                });
            }
        }
        let decision = self.judge(subject, &find, address)?;
        let named = &self.entries[decision.outbound.0 as usize];
        let (id, probe) = match &named.group {
            None => (decision.outbound.0, None),
            Some(group) => match held(group).and_then(|held| self.kept(group, held)) {
                Some(id) => (id, None),
                None => self.member(decision.outbound.0, key(subject), subject.network == Network::Udp),
            },
        };
        Ok(Choice {
            id,
            entry: &self.entries[id as usize],
            named: decision.outbound.0,
            group: named.group.as_ref().map(|_| &**named),
            probe,
            because: Because::Rule(decision),
            dispatch: self,
        })
    }

    /// The outbound for a flow, found on a thread that may wait if need be.
    pub(crate) async fn choose_waiting(&self, subject: &Subject<'_>) -> Choice<'_> {
        loop {
            match self.choose(subject) {
                Ok(choice) => return choice,
                Err(missing) => self.find(subject, missing).await,
            }
        }
    }

    /// Finds out what is missing, so that [`Dispatch::choose`] knows.
    pub(crate) async fn find(&self, subject: &Subject<'_>, missing: Missing) {
        let Subject { network, source, target, .. } = *subject;
        let with_process = match missing {
            Missing::Owner { with_process } => with_process,
            Missing::Address => match &target.host {
                Some(host) => return self.addresses.find(host).await,
                None => return,
            },
        };
        self.owners.find(network, source, target.addr, with_process).await;
        let (circles, local) = (Arc::clone(&self.circles), self.local());
        if local.is_empty() {
            return;
        }
        // It is cancelled only when the runtime ends, and then nobody asks again.
        let _ = tokio::task::spawn_blocking(move || circles.look(&local)).await;
    }

    /// The same on a thread that may block.
    fn look(&self, subject: &Subject<'_>, missing: Missing) {
        match missing {
            Missing::Owner { with_process } => {
                self.owners.find_waiting(subject.network, subject.source, subject.target.addr, with_process);
                self.circles.look(&self.local());
            }
            Missing::Address => {
                let host = subject.target.host.as_deref().unwrap_or_default();
                self.addresses.look(host);
            }
        }
    }

    /// The addresses of names that the rules have asked for.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    fn owner(&self, subject: &Subject<'_>, with_process: bool) -> Result<oneway_flow::Owner, Missing> {
        let Subject { network, source, target, .. } = *subject;
        // What sends echo requests has no port to be found by.
        if network == Network::Icmp {
            return Ok(oneway_flow::Owner::default());
        }
        self.owners.known(network, source, target.addr, with_process).ok_or(Missing::Owner { with_process })
    }

    /// The outbound of a number that [`Dispatch::choose`] gave.
    #[expect(clippy::indexing_slicing, reason = "the number comes from this very table")]
    pub(crate) fn by_id(&self, id: u32) -> &Arc<Entry> {
        &self.entries[id as usize]
    }

    /// The outbound that a group's choice, and that of groups among its members, comes to; and the first group on that way
    /// that finds out by trying. Groups do not lead to themselves.
    fn member(&self, id: u32, key: Key, udp: bool) -> (u32, Option<&Group>) {
        self.member_in_turn(id, key, udp, |_| false)
    }

    /// The number of the outbound that carries datagrams for a group, if it is among its members or those of groups among
    /// them. Where nothing comes back, one that works is better.
    fn kept(&self, group: &Group, held: Held) -> Option<u32> {
        let is_good = |id| held.is_heard || group.passes(id) && self.works(id, true);
        let found = group.members().find_map(|id| {
            let entry = self.by_id(id);
            match &entry.group {
                Some(inner) => self.kept(inner, held),
                None => (entry.serial == held.serial && is_good(id)).then_some(id),
            }
        });
        if found.is_some() {
            group.is_used();
        }
        found
    }

    /// Whether an outbound works, as far as is known, and for `udp` whether it carries that.
    pub(crate) fn works(&self, id: u32, udp: bool) -> bool {
        let entry = self.by_id(id);
        match &entry.group {
            Some(group) => group.works(|member| self.works(member, udp)),
            None => !entry.is_down.load(Relaxed) && (!udp || entry.works_for_udp()),
        }
    }

    /// Whether datagrams can leave by an outbound, whether it works or not.
    fn carries_udp(&self, id: u32) -> bool {
        let entry = self.by_id(id);
        match &entry.group {
            Some(group) => group.carries(|member| self.carries_udp(member)),
            None => entry.outbound.carries_udp(),
        }
    }

    /// The members of a group, for `status`; none of other outbounds.
    pub(crate) fn members(&self, entry: &Entry) -> Vec<MemberStatus> {
        let Some(group) = &entry.group else { return Vec::new() };
        let works = |id| self.works(id, false);
        let status = |id| MemberStatus {
            name: self.by_id(id).name.to_string(),
            works: group.passes(id) && works(id),
            taken: group.takes(id, works),
            check_us: group.delay(id).map(|delay| delay.as_micros() as u64),
        };
        group.members().map(status).collect()
    }

    /// Whether any member of a group works; none for other outbounds.
    pub(crate) fn group_works(&self, entry: &Entry) -> Option<bool> {
        entry.group.as_ref().map(|group| group.works(|id| self.works(id, false)))
    }

    /// Makes a member the one that a group takes.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub(crate) fn select(&self, group: &str, member: &str) -> Result<(), String> {
        let find = |name: &str| {
            let named = |name: &str| self.entries.iter().position(|entry| *entry.name == *name);
            let at = named(name).or_else(|| named(canonical(name)?));
            at.ok_or_else(|| format!("no outbound is named {name:?}"))
        };
        let (at, id) = (find(group)?, find(member)?);
        let Some(found) = self.entries.get(at).and_then(|entry| entry.group.as_ref()) else {
            return Err(format!("{group:?} is no group"));
        };
        if found.select(id as u32) {
            return Ok(());
        }
        let members: Vec<_> = found.members().map(|id| self.by_id(id).name.to_string()).collect();
        Err(match found.members().any(|member| member == id as u32) {
            true => format!("{group:?} chooses by itself; only groups of type select are told"),
            false => format!("{member:?} is no member of {group:?}; there are {}", members.join(", ")),
        })
    }

    /// Whether any rule asks about names.
    pub(crate) fn asks_names(&self) -> bool {
        self.rules.needs().host
    }

    /// All outbounds.
    pub(crate) fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }
}

/// How flows of this host's own programs are taken in. Those of other hosts come by the device.
pub(crate) fn inbound_of_own(mode: CaptureMode, network: Network) -> Inbound {
    match (mode, network) {
        (CaptureMode::Redirect, Network::Tcp) => Inbound::Redirect,
        (CaptureMode::Tproxy, Network::Tcp | Network::Udp) => Inbound::Tproxy,
        _ => Inbound::Tun,
    }
}

/// What a group tells flows apart by.
fn key(subject: &Subject<'_>) -> Key {
    let source = (subject.network == Network::Udp).then(|| number_of(subject.source));
    match subject.target.host.as_deref() {
        Some(host) => Key::to_host(host, source),
        None => Key::to_address(subject.target.addr.ip(), source),
    }
}
