//! What questions are asked about: a running instance, or one that a plan would make.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use oneway_egress::{Egress, RouteOracle, Strategy};
use oneway_route::{
    Asker, Family, IfIndex, Model, Outcome, PROTOCOL, Packet, RefuseTable, RouteAnswer, RouteError,
    RouteKind, RouteQuery, Safeguard, Snapshot, Table, Without, classes, decide, foreign_ways,
};

use parking_lot::Mutex;

use super::circles::circles;
use crate::Engine;
use crate::assemble;
use crate::config::{CaptureMode, Config, DnsMode};
use crate::control::LoopFree;
use crate::dispatch::Dispatch;
use crate::dns;
use crate::error::EngineError;
use crate::exclude::Exclusions;
use crate::guard::Guard;
use crate::lifecycle::{self, Planned};

/// More classes of destinations than this are not asked about one by one: a router with the whole Internet's table.
pub(super) const MOST: usize = 20_000;

/// Everything that an answer needs.
pub(super) struct Scene<'a> {
    pub(super) running: bool,
    /// The host with the capture.
    pub(super) host: &'a Snapshot,
    /// What decides for it.
    pub(super) model: &'a Model<'a>,
    pub(super) tun: IfIndex,
    pub(super) tun_name: &'a str,
    pub(super) dispatch: &'a Dispatch,
    pub(super) guard: &'a Guard,
    pub(super) capture: CaptureMode,
    /// What becomes of captured queries.
    pub(super) dns_mode: DnsMode,
    /// The names of addresses; none where nothing runs.
    pub(super) dns: Option<&'a dns::Dns>,
    pub(super) egress: &'a Egress,
    /// Answers for that host.
    pub(super) oracle: &'a dyn RouteOracle,
    /// Where our own DNS questions go, and whether any server may be asked because a client asked it.
    pub(super) servers: (Vec<SocketAddr>, bool),
    /// The TUN's networks.
    pub(super) own: Vec<IpNet>,
    /// Proxies that are programs of this host: the outbound, the verdict, and why.
    pub(super) circles: Vec<(u32, LoopFree, String)>,
    /// Why the proxies of this outbound are not known.
    pub(super) unresolved: Vec<(String, String)>,
    /// A question that the model and the kernel answer differently.
    pub(super) doubt: Option<String>,
    pub(super) notes: Vec<String>,
    /// What is refused instead of let out, with `--strict`.
    pub(super) refusals: Option<RefuseTable>,
    /// The namespace that our sockets are made in, if it is another one.
    pub(super) elsewhere: Option<Snapshot>,
}

impl Scene<'_> {
    /// The user that our sockets belong to.
    pub(super) fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// What a socket of ours asks the kernel for, made as `egress` makes it.
    pub(super) fn own_query(&self, dst: IpAddr) -> RouteQuery {
        if self.egress.left_out().any() {
            return self.egress.question(dst);
        }
        own_query(&self.egress.strategy(), self.model, dst)
    }
}

fn own_query(strategy: &Strategy, model: &Model<'_>, dst: IpAddr) -> RouteQuery {
    let query = RouteQuery::to(dst);
    match strategy {
        Strategy::Bind(uplinks) => {
            let here = |o: &oneway_route::Outcome| o.answer.kind == RouteKind::Local;
            let local = model.decide(&Packet::of(&query, Scene::uid())).iter().any(here);
            if dst.is_loopback() || local { query } else { query.bound(uplinks.get(Family::of(dst)).index) }
        }
        _ => strategy.question(dst),
    }
}

/// What is said instead of a proof, where guards are left out on purpose.
pub(crate) fn sabotaged(without: Without) -> String {
    format!("sabotaged: it runs without its guard {without}")
}

/// Looks at a running instance.
pub(super) fn running<T>(
    engine: &Engine,
    host: &Snapshot,
    answer: impl FnOnce(&Scene<'_>) -> T,
) -> Result<T, EngineError> {
    let about = &engine.about;
    let link = host.link(&about.tun).ok_or_else(|| EngineError::DeviceLost {
        name: about.tun.clone(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let egress = &engine.shared.egress;
    let model = Model::of(host);
    let elsewhere = elsewhere(&egress.strategy())?;
    let kernel = Kernel::open()?;
    let dispatch = engine.shared.dispatch.load_full();
    let own = networks(host, link.index);
    let mut notes: Vec<String> = foreign_ways(host, link.index)
        .iter()
        .map(|net| format!("a route of another program leads {net} into {}; delete it", about.tun))
        .collect();
    let overlaps = about.watched.status().overlaps;
    notes.extend(overlaps.iter().map(|both| format!("overlapping networks: {both}, which is out of reach")));
    notes.extend(about.watched.resolver());
    notes.extend(dispatch.blind().map(str::to_owned));
    let refusals = about.watched.refusals();
    if let Some(table) = &refusals {
        let is_there = match table.is_there() {
            Ok(true) => "is in place".to_owned(),
            Ok(false) => "is missing or changed, and about to be put back".to_owned(),
            Err(error) => format!("cannot be looked at: {error}"),
        };
        notes.push(format!(
            "strict: nftables table {}, which refuses what is not captured, {is_there}",
            table.name
        ));
    }
    let dns = engine.config().dns.clone();
    Ok(answer(&Scene {
        running: true,
        host,
        model: &model,
        tun: link.index,
        tun_name: &about.tun,
        dispatch: &dispatch,
        guard: &engine.shared.guard,
        capture: about.capture,
        dns_mode: dns.mode,
        dns: Some(&engine.shared.dns),
        egress,
        oracle: if elsewhere.is_some() { egress.routes() } else { &kernel },
        servers: dns::servers(&dns, egress),
        doubt: compare(&model, &kernel, &egress.strategy(), &own),
        own,
        circles: circles(&dispatch, &about.exclusions),
        unresolved: Vec::new(),
        notes,
        refusals,
        elsewhere,
    }))
}

/// What the namespace of our sockets looks like, if it is another one.
fn elsewhere(strategy: &Strategy) -> Result<Option<Snapshot>, EngineError> {
    match strategy {
        Strategy::Netns(namespace) => lifecycle::protection::look(namespace).map(Some),
        _ => Ok(None),
    }
}

fn networks(host: &Snapshot, tun: IfIndex) -> Vec<IpNet> {
    host.addresses.iter().filter(|a| a.index == tun).map(|a| a.net.trunc()).collect()
}

/// Looks at what `run` would make of this host.
pub(super) fn planned<T>(config: &Config, answer: impl FnOnce(&Scene<'_>) -> T) -> Result<T, EngineError> {
    let (dispatch, _) = assemble::dispatch(config, &assemble::system_resolver())?;
    let real = Snapshot::take()?;
    let before = without_ours(&real);
    let mut unresolved = Vec::new();
    for entry in dispatch.entries() {
        if let Err(error) = lifecycle::resolve(&entry.outbound)? {
            unresolved.push((entry.name.to_string(), error.to_string()));
        }
    }
    let servers = lifecycle::servers(config, &dispatch, false)?;
    let Planned { plan, request, strategy, why, .. } = lifecycle::planned(config, &before, &servers)?;
    let exclusions = Exclusions::new(&config.capture, request.exclude_cgroups);
    dispatch.circles().set_own(lifecycle::own_addresses(&before));
    let after = oneway_route::planned(&before, &plan);
    let tun = after.link(&plan.tun_name).map(|l| l.index).ok_or_else(|| EngineError::DeviceLost {
        name: plan.tun_name.clone(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let own: Vec<IpNet> = plan.tun_addresses.iter().map(IpNet::trunc).collect();
    let oracle = Box::new(PlannedRoutes { host: after.clone(), tun });
    let egress = Egress::with_oracle(strategy.clone(), own.clone(), oracle)?.without(config.without);
    let model = Model::of(&after);
    let mut notes = plan.notes.clone();
    notes.push(format!("protection: {why}"));
    notes.push(format!("why nothing loops: {}", plan.explanation));
    notes.extend(plan.resolver().and(plan.resolver_words()));
    notes.extend(dispatch.blind().map(str::to_owned));
    if let Some(table) = plan.refusals() {
        notes.push(format!("strict: nftables table {} refuses what is not captured", table.name));
    }
    Ok(answer(&Scene {
        running: false,
        host: &after,
        model: &model,
        tun,
        tun_name: &plan.tun_name,
        dispatch: &dispatch,
        guard: &Guard::new(plan.tun_addresses.clone())
            .answering(dns::answers_at(config, &plan.tun_addresses))
            .left_out(config.without.has(Safeguard::Ingress)),
        egress: &egress,
        oracle: &ModelRoutes { model: &model, tun },
        servers: dns::servers(&config.dns, &egress),
        doubt: compare(&Model::of(&real), &Kernel::open()?, &strategy, &own),
        own,
        circles: circles(&dispatch, &exclusions),
        unresolved,
        notes,
        refusals: plan.refusals().cloned(),
        capture: config.capture.mode,
        dns_mode: config.dns.mode,
        dns: None,
        elsewhere: elsewhere(&strategy)?,
    }))
}

/// The host without what a killed instance may have left behind, which `run` undoes first.
pub(super) fn without_ours(host: &Snapshot) -> Snapshot {
    let mut host = host.clone();
    let main = [Table::MAIN, Table::LOCAL, Table::DEFAULT];
    let ours = |r: &oneway_route::Route| r.protocol == PROTOCOL && !main.contains(&r.table);
    let devices: Vec<IfIndex> = host.routes.iter().filter(|r| ours(r)).filter_map(|r| r.oif).collect();
    let tun = |index: IfIndex, host: &Snapshot| {
        devices.contains(&index) && host.link_at(index).is_some_and(|l| l.kind.as_deref() == Some("tun"))
    };
    let gone: Vec<IfIndex> = host.links.iter().map(|l| l.index).filter(|i| tun(*i, &host)).collect();
    host.routes.retain(|r| !ours(r) && r.oif.is_none_or(|oif| !gone.contains(&oif)));
    host.rules.retain(|r| r.protocol != PROTOCOL);
    host.addresses.retain(|a| !gone.contains(&a.index));
    host.links.retain(|l| !gone.contains(&l.index));
    host
}

/// A question about this host that the model and the kernel answer differently, if there is one: then neither the
/// classes of destinations nor the answers about a plan can be relied on.
fn compare(host: &Model<'_>, kernel: &Kernel, strategy: &Strategy, own: &[IpNet]) -> Option<String> {
    if host.links.iter().any(|l| l.kind.as_deref() == Some("vrf")) {
        return Some("there is a VRF on this host, which the model does not know".to_owned());
    }
    for family in Family::ALL.into_iter().filter(|f| host.has(*f)) {
        let destinations = classes(host, family, own);
        if destinations.len() > MOST {
            return Some(format!("{family} has more than {MOST} classes of destinations"));
        }
        for dst in destinations {
            // Ours cannot be asked about while its source address is not the host's, or in another namespace.
            for query in [RouteQuery::to(dst), own_query(strategy, host, dst)] {
                let kernel = match kernel.route(&query) {
                    Ok(answer) => answer,
                    Err(error) => return Some(error.to_string()),
                };
                let decided = host.decide(&Packet::of(&query, Scene::uid()));
                if !decided.iter().any(|o| alike(family, &o.answer, &kernel)) {
                    let said = decided.first().map(|o| way(&o.answer)).unwrap_or_default();
                    return Some(format!(
                        "the model says that {dst} goes {said}, the kernel that it goes {}",
                        way(&kernel)
                    ));
                }
            }
        }
    }
    None
}

/// Whether two answers mean the same for a loop. IPv6 may pass over a router that does not answer, and take another
/// device that leads out.
fn alike(family: Family, model: &RouteAnswer, kernel: &RouteAnswer) -> bool {
    let both_leave = model.kind == RouteKind::Unicast && kernel.kind == RouteKind::Unicast;
    model.oif == kernel.oif
        || family == Family::V6 && both_leave && model.oif.is_some() == kernel.oif.is_some()
}

fn way(answer: &RouteAnswer) -> String {
    match answer.oif {
        Some(_) => format!("by {}", answer.oif_name),
        None => "nowhere".to_owned(),
    }
}

/// The running kernel, for one round of questions.
#[derive(Debug)]
struct Kernel(Mutex<Asker>);

impl Kernel {
    fn open() -> Result<Self, RouteError> {
        Asker::open().map(|asker| Self(Mutex::new(asker)))
    }
}

impl RouteOracle for Kernel {
    fn route(&self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        self.0.lock().ask(query)
    }
}

/// The model of one host in place of the kernel. Of several possible outcomes it says the worst.
#[derive(Debug)]
struct ModelRoutes<'a> {
    model: &'a Model<'a>,
    tun: IfIndex,
}

impl RouteOracle for ModelRoutes<'_> {
    fn route(&self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        worst(self.model.decide(&Packet::of(query, Scene::uid())), self.tun, query)
    }
}

/// The same for few questions.
#[derive(Debug)]
struct PlannedRoutes {
    host: Snapshot,
    tun: IfIndex,
}

impl RouteOracle for PlannedRoutes {
    fn route(&self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        worst(decide(&self.host, &Packet::of(query, Scene::uid())), self.tun, query)
    }
}

fn worst(outcomes: Vec<Outcome>, tun: IfIndex, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
    let worst = outcomes.iter().find(|o| o.answer.oif == Some(tun)).or(outcomes.first());
    worst
        .map(|o| o.answer.clone())
        .ok_or_else(|| RouteError::NotProven(format!("the model has no answer about {}", query.dst)))
}
