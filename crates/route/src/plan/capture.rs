//! Putting the steps together.

use std::net::IpAddr;

use ipnet::IpNet;

use super::protect::{self, Guards};
use super::{
    Draft, Phase, Plan, PlanError, Protect, Request, Step, addresses, answers, choose, congestion, redirect,
    resolver, strict, tproxy, uplink,
};
use crate::change::{Change, RouteSpec};
use crate::host::{NftSupport, PROTOCOL, Rule, RuleAction, Snapshot};
use crate::id::{Family, Mark, Priority, Table};
use crate::nft::{Inbound, Memory, NftTable};
use crate::query::RouteKind;

/// Whether IPv6 is switched off on the devices that are made from now on. Switching it off for all sets this, too.
pub(crate) const IPV6_OFF: &str = "net/ipv6/conf/default/disable_ipv6";

/// The metric of the capture route that has no source address, behind the one that has.
pub(super) const SPARE_METRIC: u32 = 4_096;

/// Decides every change to the host. Pure: the same request and snapshot give the same plan.
///
/// # Errors
/// When a wish cannot be met, or nothing free is left.
pub fn plan(request: &Request, host: &Snapshot) -> Result<Plan, PlanError> {
    let tun = choose::tun_name(request, host)?;
    let families = families(request, host, &tun)?;
    let refused = strict::refused(request, host, &families);
    let (bit, rehearsal_mark) = choose::marks(request, host)?;
    let mut draft = Draft {
        request,
        host,
        uplinks: uplink::uplinks(host, &tun, request.interface.as_deref())?,
        table: choose::table(host)?,
        mark: Some(bit),
        sources: None,
        group: None,
        divert: None,
        tun_addresses: Vec::new(),
        notes: Vec::new(),
        tun,
        routed: Family::ALL.into_iter().filter(|f| families.contains(f) || refused.contains(f)).collect(),
        families,
    };
    if request.ipv6 && is_ipv6_out(request, host, &draft.tun) {
        let off = ipv6_switch("default");
        draft
            .notes
            .push(format!("IPv6 is switched off ({off}) where switches are read-only, and is left out"));
    }
    protect::prepare(&mut draft)?;
    strict::prepare_for(&mut draft)?;
    redirect::prepare_for(&mut draft)?;
    tproxy::prepare_for(&mut draft, [bit, rehearsal_mark])?;
    let tun_addresses = addresses::choose(request, host, &draft.tun, &draft.families)?;
    draft.tun_addresses.clone_from(&tun_addresses);
    if let Some(group) = request.exclude_cgroups.first()
        && host.nft != NftSupport::Full
    {
        return Err(PlanError::NoCgroupMatch(group.path.clone()));
    }
    let memory = answers::memory(&draft);
    let nft = draft.nft(bit, memory);
    if nft.is_none() && !request.protect.marks() {
        draft.mark = None;
    }
    let halves = request.protect == Protect::HostRouteHalves;
    let mut routes = if halves { Vec::new() } else { draft.routes(&tun_addresses)? };
    routes.extend(protect::routes(&draft));
    routes.extend(tproxy::routes(&draft));
    let rules =
        if halves { protect::halves(&draft, rehearsal_mark)? } else { draft.rules(rehearsal_mark)? };

    let mut steps = draft.device(&tun_addresses);
    steps.extend(draft.src_valid_mark(nft.is_some()));
    steps.extend(strict::accept(&draft));
    steps.extend(draft.cgroup());
    steps.extend(answers::steps(&draft, memory));
    steps.extend(nft);
    steps.extend(routes);
    steps.extend(rules.prepare);
    steps.extend(rules.capture);
    steps.extend(redirect::table(&draft));
    steps.extend(tproxy::table(&draft));
    steps.extend(strict::table(&draft));
    let samples = draft.samples(&tun_addresses, rules.first);
    draft.note_uplinks();
    let explanation = protect::explanation(&draft);
    let mut plan = Plan {
        tun_name: draft.tun,
        tun_addresses,
        protect: request.protect,
        sources: draft.sources,
        group: draft.group,
        servers: if request.protect.is_host_route() { request.servers.clone() } else { Vec::new() },
        explanation,
        mark: draft.mark,
        table: draft.table,
        uplinks: draft.uplinks,
        families: draft.families,
        strict: request.strict,
        divert: draft.divert,
        steps,
        rehearsal: rules.rehearsal,
        rehearsal_mark,
        samples,
        program: choose::captured_user(request),
        notes: draft.notes,
    };
    resolver::add_to(&mut plan, request, host)?;
    Ok(plan)
}

/// The switch of one device.
pub(super) fn ipv6_switch(device: &str) -> String {
    format!("net/ipv6/conf/{device}/disable_ipv6")
}

/// Whether IPv6 is switched off on a device, or will be once it is made.
fn is_ipv6_off(host: &Snapshot, device: &str) -> bool {
    let own = ipv6_switch(device);
    host.sysctl(if host.sysctls.contains_key(&own) { &own } else { IPV6_OFF }) != 0
}

/// Whether IPv6 is switched off, and nobody here can switch it on: nothing is sent by it.
fn is_ipv6_out(request: &Request, host: &Snapshot, tun: &str) -> bool {
    request.device_is_ours && is_ipv6_off(host, tun) && !host.switches
}

fn families(request: &Request, host: &Snapshot, tun: &str) -> Result<Vec<Family>, PlanError> {
    let wanted = |family: &Family| {
        let included =
            request.include.is_empty() || request.include.iter().any(|n| Family::of_net(*n) == *family);
        host.has(*family) && (request.ipv6 || *family == Family::V4) && included
    };
    let out = |family: &Family| *family == Family::V6 && is_ipv6_out(request, host, tun);
    let families: Vec<_> = Family::ALL.into_iter().filter(|f| wanted(f) && !out(f)).collect();
    // RFC 8200 section 5, RFC 791 section 3.1.
    let least = if families.contains(&Family::V6) { 1280 } else { 68 };
    if !(least..=65_535).contains(&request.mtu) {
        return Err(PlanError::BadMtu { mtu: request.mtu, least });
    }
    Ok(families)
}

/// The policy rules of a plan.
pub(super) struct Rules {
    pub(super) first: Priority,
    pub(super) rehearsal: Vec<Step>,
    pub(super) prepare: Vec<Step>,
    pub(super) capture: Vec<Step>,
}

impl Draft<'_> {
    fn device(&self, tun_addresses: &[IpNet]) -> Vec<Step> {
        if !self.request.device_is_ours {
            return Vec::new();
        }
        let before = self.host.link(&self.tun).map(|l| (l.mtu, l.up));
        let link = Change::Link { name: self.tun.clone(), mtu: self.request.mtu, before };
        let mut steps = Vec::new();
        if self.families.contains(&Family::V6) && is_ipv6_off(self.host, &self.tun) {
            let change = Change::Sysctl { path: ipv6_switch(&self.tun), old: "1".into(), new: "0".into() };
            steps.push(prepare(
                change,
                "IPv6 is switched off here, and what is sent by it all the same is to be captured",
            ));
        }
        steps.push(prepare(link, "traffic is captured by this device"));
        steps.extend(tun_addresses.iter().map(|net| {
            prepare(
                Change::Address { name: self.tun.clone(), net: *net },
                "the device's own address, of a network that nothing on this host overlaps",
            )
        }));
        steps.extend(protect::device(self));
        steps
    }

    fn nft(&mut self, mark: Mark, memory: Memory) -> Option<Step> {
        if !self.host.nft.tracks() {
            self.notes.push(
                match self.host.nft {
                    NftSupport::Unknown => "whether nftables works is not known without CAP_NET_ADMIN",
                    _ => "this kernel has no nftables with connection tracking",
                }
                .to_owned()
                    + ": incoming connections through the default route are not kept out of the capture",
            );
            return None;
        }
        let inbound = if self.request.forwarded {
            let mut names: Vec<_> = Family::ALL
                .iter()
                .flat_map(|f| uplink::candidates(self.host, *f, &self.tun))
                .map(|way| way.link.name.clone())
                .collect();
            names.sort();
            names.dedup();
            Inbound::On(names)
        } else {
            Inbound::Anywhere
        };
        let table = NftTable {
            name: choose::nft_name(self.host, "oneway"),
            mark,
            tun: self.tun.clone(),
            inbound,
            memory,
            serving: self.host.serving.clone(),
            ends_here: !self.request.forwarded,
            mark_bypassing: self.request.protect == Protect::Bind,
            excluded: self.request.exclude_cgroups.clone(),
            user: self.request.user,
        };
        Some(prepare(
            Change::Nft(table),
            "answers to incoming connections leave as they would without us, and replies to our own \
             sockets pass a strict rp_filter",
        ))
    }

    /// The control group of the programs that are excluded one by one.
    fn cgroup(&self) -> Option<Step> {
        let ours = self.request.exclude_cgroups.iter().find(|group| group.ours)?;
        Some(prepare(
            Change::Cgroup { path: ours.path.clone() },
            "programs that `oneway exclude` runs are in this control group",
        ))
    }

    fn src_valid_mark(&mut self, nft: bool) -> Option<Step> {
        let all = self.host.sysctl("net/ipv4/conf/all/rp_filter");
        let strict: Vec<_> = self
            .host
            .links
            .iter()
            .filter(|l| !l.loopback && l.name != self.tun)
            .filter(|l| all.max(self.host.sysctl(&format!("net/ipv4/conf/{}/rp_filter", l.name))) == 1)
            .map(|l| l.name.as_str())
            .collect();
        if strict.is_empty() || !self.families.contains(&Family::V4) {
            return None;
        }
        if !nft {
            self.notes.push(format!(
                "rp_filter is strict on {}: replies to our own sockets would be dropped there; set it to 2",
                strict.join(", ")
            ));
            return None;
        }
        let path = "net/ipv4/conf/all/src_valid_mark";
        let old = self.host.sysctls.get(path).map(|v| v.trim())?;
        if old != "0" {
            return None;
        }
        Some(prepare(
            Change::Sysctl { path: path.into(), old: old.into(), new: "1".into() },
            &format!("the strict rp_filter of {} must look at our mark", strict.join(", ")),
        ))
    }

    /// The routes of our table, in both families: first what is not captured, then what is.
    fn routes(&mut self, tun_addresses: &[IpNet]) -> Result<Vec<Step>, PlanError> {
        let mut throws: Vec<(IpNet, &str)> = never_captured()
            .into_iter()
            .map(|net| (net, "loopback, link-local, multicast and broadcast are never captured"))
            .collect();
        throws.extend(self.request.exclude.iter().map(|net| (net.trunc(), "excluded")));
        let excluded: Vec<IpNet> = self.request.exclude.iter().map(IpNet::trunc).collect();
        let inside = |inner: &IpNet, outer: &IpNet| {
            inner.addr().is_ipv4() == outer.addr().is_ipv4() && outer.contains(inner)
        };
        let mut captured: Vec<IpNet> = if self.request.include.is_empty() {
            self.families.iter().map(|f| f.everything()).collect()
        } else {
            self.request.include.iter().map(IpNet::trunc).collect()
        };
        captured.retain(|net| self.families.contains(&Family::of_net(*net)));
        captured.sort();
        captured.dedup();
        captured.retain(|net| {
            let gone = excluded.iter().find(|e| inside(net, e));
            if let Some(e) = gone {
                self.notes.push(format!("{net} is not captured: {e} is excluded"));
            }
            gone.is_none()
        });
        if captured.is_empty() {
            return Err(PlanError::Nothing);
        }
        if !self.request.include.is_empty() {
            let on_link = self.on_link(tun_addresses);
            throws.extend(
                on_link
                    .into_iter()
                    .filter(|n| captured.iter().any(|c| c != n && inside(n, c)))
                    .filter(|n| !captured.contains(n))
                    .map(|net| (net, "on-link, and more specific than what is included")),
            );
        }
        let refused = strict::routes(self, &captured);
        let refuses = |net: &IpNet| {
            refused.iter().any(|step| matches!(&step.change, Change::Route(spec) if inside(net, &spec.dst)))
        };
        throws.retain(|(net, _)| captured.iter().any(|c| inside(net, c)) || refuses(net));
        throws.sort_by_key(|(net, _)| *net);
        throws.dedup_by_key(|(net, _)| *net);
        let throw = throws
            .into_iter()
            .map(|(dst, why)| prepare(Change::Route(RouteSpec::throw(self.table, dst)), why));
        let taken = captured.iter().flat_map(|net| self.capture_routes(*net));
        Ok(throw.chain(taken).chain(refused).collect())
    }

    fn capture_routes(&self, dst: IpNet) -> Vec<Step> {
        let route = |src, metric, why| {
            let dev = Some(self.tun.clone());
            let congestion = congestion::of_captured(self.host);
            let spec = RouteSpec { dev, src, metric, congestion, ..RouteSpec::throw(self.table, dst) };
            prepare(Change::Route(spec), why)
        };
        let src = self.uplinks.get(Family::of_net(dst)).and_then(|u| u.address);
        let Some(src) = src else { return vec![route(None, 0, "captured")] };
        let first = route(
            Some(src),
            0,
            "captured; with the uplink's address, so that servers on the wildcard address answer from it",
        );
        // fib_sync_down_addr (net/ipv4/fib_semantics.c) removes a route whose source address is removed.
        let spare = route(
            None,
            SPARE_METRIC,
            "still captured when the uplink's address is removed, which removes the route above",
        );
        vec![first, spare]
    }

    /// The networks that main reaches without a gateway, but the device's own.
    pub(super) fn on_link(&self, tun_addresses: &[IpNet]) -> Vec<IpNet> {
        let routes = self.host.routes.iter().filter(|r| {
            r.table == Table::MAIN
                && r.kind == RouteKind::Unicast
                && r.gateway.is_none()
                && r.next_hops.is_empty()
                && r.dst.prefix_len() > 0
        });
        routes.map(|r| r.dst).filter(|dst| tun_addresses.iter().all(|t| t.trunc() != *dst)).collect()
    }

    fn rules(&self, rehearsal_mark: Mark) -> Result<Rules, PlanError> {
        let request = self.request;
        // In every family: a tunnel for IPv4 may be carried by IPv6.
        let foreign = choose::foreign_marks(self.host);
        let marks: Vec<(Family, Mark, u32)> =
            self.routed.iter().flat_map(|f| foreign.iter().map(move |(m, mask)| (*f, *m, *mask))).collect();
        let guards = protect::guards(self);
        let late = self.routed.iter().any(|f| choose::asks_local_behind(self.host, *f, Priority(0)));
        let skips = marks.len()
            + request.exclude_uids.len()
            + usize::from(request.forwarded)
            + guards.before.len()
            + usize::from(late);
        // As many as there could be: other VPNs' tables are known only when the place is.
        let mut respected_most = 0;
        for family in &self.routed {
            respected_most = respected_most.max(choose::respected(self.host, *family, Priority(0)).len());
        }
        if !request.include.is_empty() {
            respected_most = 0;
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // Of each family and once more for the rehearsal: the other tables, ours, and what comes before them.
        let lead = usize::from(guards.own_table_first);
        let gate = 2 * usize::from(guards.inverted);
        let row = respected_most + 1 + lead;
        let divert = tproxy::rule_count(self);
        let dns = strict::rule_count(request) + divert;
        let wanted = count(2 * row + gate + dns).saturating_add(count(skips)).saturating_add(1);
        let block = choose::block(self.host, &self.routed, wanted)?;
        let first = block.first;
        let end = Priority(first.0 + wanted - 1);
        let mut rules = Rules { first, rehearsal: Vec::new(), prepare: Vec::new(), capture: Vec::new() };
        self.skips(&mut rules, Priority(first.0 + count(row + gate)), end, &marks, &guards);
        if guards.inverted {
            self.rehearsal_gate(&mut rules, first, Priority(first.0 + count(row + 1)), rehearsal_mark);
        }
        let captured = count(row + gate + skips);
        rules.capture = strict::rules(self, Priority(first.0 + captured + count(divert)), |family, at| {
            self.selector(family, at, None)
        });
        tproxy::rules(self, &mut rules, Priority(first.0 + captured));
        let dns_rules = rules.capture.len();
        for family in &self.routed {
            let mut tables: Vec<(Table, Option<u32>, String)> = Vec::new();
            if guards.own_table_first {
                let why =
                    "the host routes to the servers come before whatever others have for them".to_owned();
                tables.push((self.table, Some(0), why));
            }
            if request.include.is_empty() {
                tables.extend(choose::respected(self.host, *family, first).into_iter().map(|table| {
                    let suppress = choose::default_length(self.host, *family, table);
                    let why = format!("what a specific route of table {table} leads to is not captured");
                    (table, Some(suppress), why)
                }));
            }
            let rehearsed = first.0 + count(usize::from(guards.inverted));
            let second = first.0 + captured + count(dns);
            let mut take = Vec::new();
            for (n, (table, suppress, why)) in tables.iter().enumerate() {
                let (suppress, why) = (*suppress, why.clone());
                let rehearse = self.selector(*family, Priority(rehearsed + count(n)), Some(rehearsal_mark));
                let real = self.selector(*family, Priority(second + count(n)), None);
                let action = RuleAction::Lookup(*table);
                rules.rehearsal.push(prepare(
                    Change::Rule(Rule { action, suppress_prefixlength: suppress, ..rehearse }),
                    "the same for the rehearsal's mark",
                ));
                let change = Change::Rule(Rule { action, suppress_prefixlength: suppress, ..real });
                rules.capture.push(Step { phase: Phase::Capture, change, why });
            }
            let action = RuleAction::Lookup(self.table);
            let rehearse = self.selector(*family, Priority(rehearsed + count(row - 1)), Some(rehearsal_mark));
            rules.rehearsal.push(prepare(
                Change::Rule(Rule { action, ..rehearse }),
                "the capture for the rehearsal's mark, which no packet carries",
            ));
            let real = self.selector(*family, Priority(second + count(row - 1)), None);
            take.push(Step {
                phase: Phase::Capture,
                change: Change::Rule(Rule { action, ..real }),
                why: protect::why_captured(request.protect).into(),
            });
            rules.capture.extend(take);
        }
        // First what goes past the capture, in both families, then the capture itself.
        rules.capture[dns_rules..].sort_by_key(|s| {
            matches!(&s.change, Change::Rule(r)
                if r.action == RuleAction::Lookup(self.table) && r.suppress_prefixlength.is_none())
        });
        Ok(rules)
    }

    /// Rules that lead past the capture to `end`.
    fn skips(
        &self,
        rules: &mut Rules,
        from: Priority,
        end: Priority,
        marks: &[(Family, Mark, u32)],
        guards: &Guards,
    ) {
        let mut next = from.0;
        let mut place = || {
            next += 1;
            Priority(next - 1)
        };
        let mut steps = Vec::new();
        let local: Vec<_> = self
            .routed
            .iter()
            .filter(|family| choose::asks_local_behind(self.host, **family, rules.first))
            .collect();
        if !local.is_empty() {
            let priority = place();
            steps.extend(local.into_iter().map(|family| {
                let rule = rule(*family, priority, RuleAction::Lookup(Table::LOCAL));
                prepare(Change::Rule(rule), "the host asks late which addresses are its own")
            }));
        }
        let mut skips = !guards.before.is_empty() && guards.inverted;
        for guard in &guards.before {
            let priority = place();
            for family in self.routed.iter().filter(|family| guard.only.is_none_or(|only| only == **family)) {
                let mut rule = Rule { family: *family, priority, ..guard.rule.clone() };
                if rule.action == RuleAction::Nop {
                    rule.action = RuleAction::Goto(end);
                }
                steps.push(prepare(Change::Rule(rule), guard.why));
            }
        }
        skips |= !marks.is_empty() || !self.request.exclude_uids.is_empty() || self.request.forwarded;
        for (family, mark, mask) in marks {
            let mut rule = rule(*family, place(), RuleAction::Goto(end));
            rule.fwmark = Some((*mark, *mask));
            steps.push(prepare(
                Change::Rule(rule),
                "another program exempts or steers this mark: two tunnels must not carry each other",
            ));
        }
        for uid in &self.request.exclude_uids {
            let priority = place();
            for family in &self.routed {
                let mut rule = rule(*family, priority, RuleAction::Goto(end));
                rule.uids = Some((*uid, *uid));
                // What is forwarded counts as root's, and excluding root must not exclude it.
                rule.iif = Some("lo".into());
                steps.push(prepare(Change::Rule(rule), "this user is excluded"));
            }
        }
        if self.request.forwarded {
            let priority = place();
            for family in &self.routed {
                let mut rule = rule(*family, priority, RuleAction::Goto(end));
                rule.iif = Some(self.tun.clone());
                steps.push(prepare(
                    Change::Rule(rule),
                    "what comes out of the device must not go back into it",
                ));
            }
        }
        if skips {
            rules.prepare.extend(self.routed.iter().map(|family| {
                prepare(
                    Change::Rule(rule(*family, end, RuleAction::Nop)),
                    "the end of our rules, for those that skip",
                )
            }));
        }
        rules.prepare.extend(steps);
    }

    /// An inverted selector cannot be restricted to the rehearsal's mark besides: what does not carry it is led past.
    fn rehearsal_gate(&self, rules: &mut Rules, first: Priority, behind: Priority, mark: Mark) {
        for family in &self.families {
            let nop = rule(*family, behind, RuleAction::Nop);
            rules.rehearsal.push(prepare(Change::Rule(nop), "the end of the rehearsal's rules"));
            let mut gate = rule(*family, first, RuleAction::Goto(behind));
            gate.invert = true;
            gate.fwmark = Some((mark, mark.0));
            rules.rehearsal.push(prepare(
                Change::Rule(gate),
                "whatever does not carry the rehearsal's mark has nothing to do with it",
            ));
        }
    }

    /// The selector of the capture; with `rehearsal` only of packets that carry that bit.
    fn selector(&self, family: Family, priority: Priority, rehearsal: Option<Mark>) -> Rule {
        let mut rule = rule(family, priority, RuleAction::Nop);
        if let Some((sources, src)) = self.sources.and_then(|s| Some((s, s.get(family)?))) {
            // All but our own sockets' packets: what else goes past the capture is led past it before.
            rule.invert = true;
            rule.src = IpNet::new(src, if src.is_ipv4() { 32 } else { 128 }).ok();
            rule.sports = Some(sources.ports);
            rule.uids = sources.uid.map(|uid| (uid, uid));
            return rule;
        }
        if !self.request.forwarded {
            rule.iif = Some("lo".into());
        }
        let ours = self.mark.map_or(0, |m| m.0);
        let second = rehearsal.map_or(0, |m| m.0);
        if ours | second != 0 {
            rule.fwmark = Some((Mark(second), ours | second));
        }
        rule
    }

    /// Addresses that the plan must capture.
    fn samples(&mut self, tun_addresses: &[IpNet], first: Priority) -> Vec<IpAddr> {
        let mut samples = Vec::new();
        for family in self.families.clone() {
            let candidates = self.candidates(family);
            let found = candidates.into_iter().find(|a| self.captures(*a, tun_addresses, first));
            if found.is_none() {
                self.notes.push(format!(
                    "no {family} address is known to be captured: it cannot be proven that it is"
                ));
            }
            samples.extend(found);
        }
        samples
    }

    fn candidates(&self, family: Family) -> Vec<IpAddr> {
        if self.request.include.is_empty() {
            return match family {
                Family::V4 => [1_u8, 9, 23, 45, 66, 93, 130, 185, 208]
                    .iter()
                    .map(|n| IpAddr::from([*n, 1, 1, 1]))
                    .collect(),
                Family::V6 => [0x2606_u16, 0x2a00, 0x2400, 0x2800, 0x2c0f]
                    .iter()
                    .map(|n| IpAddr::from([*n, 0, 0, 0, 0, 0, 0, 1]))
                    .collect(),
            };
        }
        let ours = self.request.include.iter().filter(|n| Family::of_net(**n) == family);
        ours.flat_map(|net| {
            net.hosts().take(8).chain(
                net.subnets(net.prefix_len().saturating_add(4).min(net.max_prefix_len()))
                    .into_iter()
                    .flatten()
                    .map(|n| n.addr()),
            )
        })
        .collect()
    }

    fn captures(&self, address: IpAddr, tun_addresses: &[IpNet], first: Priority) -> bool {
        let excluded = never_captured()
            .iter()
            .chain(&self.request.exclude)
            .chain(tun_addresses)
            .any(|n| n.contains(&address));
        // The last two: an IPv4 broadcast address, and the routers' anycast address of RFC 4291, 2.6.1, which is the host's own
        // where it forwards.
        let is_own = |net: IpNet| [net.addr(), net.broadcast(), net.network()].contains(&address);
        let own =
            self.host.addresses.iter().any(|a| is_own(a.net)) || self.request.servers.contains(&address);
        let family = Family::of(address);
        let tables = choose::respected_beyond(self.host, family, first);
        let include = &self.request.include;
        let routed = self.host.routes.iter().any(|r| {
            r.dst.contains(&address)
                && choose::is_specific(r, &tables)
                // An include captures past main's routes, but for more specific on-link networks.
                && (include.is_empty() || include.iter().all(|i| !i.contains(&address) || i.prefix_len() < r.dst.prefix_len()))
        });
        !excluded && !own && !routed
    }

    fn note_uplinks(&mut self) {
        for family in self.families.clone() {
            if self.uplinks.get(family).is_none() {
                let by =
                    self.request.interface.as_ref().map(|i| format!(" by way of {i}")).unwrap_or_default();
                self.notes.push(format!(
                    "{family} has no default route{by}: what is captured cannot leave directly"
                ));
            }
        }
    }
}

/// What is never captured. `0.0.0.0/8` and other martians are: they are refused at ingress.
pub fn never_captured() -> [IpNet; 7] {
    const TEXT: [&str; 7] = [
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::1/128",
        "fe80::/10",
        "ff00::/8",
    ];
    TEXT.map(|t| t.parse().unwrap_or_default())
}

pub(super) fn rule(family: Family, priority: Priority, action: RuleAction) -> Rule {
    Rule { action, protocol: PROTOCOL, ..Rule::lookup(family, priority, Table::MAIN) }
}

pub(super) fn prepare(change: Change, why: &str) -> Step {
    Step { phase: Phase::Prepare, change, why: why.into() }
}
