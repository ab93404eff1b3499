//! Asks upstreams: each question once however many wait for it, several servers in a race, answers kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use oneway_egress::{Egress, EgressError, Safeguard, lacking_descriptors};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::cache::Cache;
use crate::carrier::Carrier;
use crate::exchange::{self, By, Dropped};
use crate::message::{Asked, Key};
use crate::plain::Plain;
use crate::{Patterns, Upstream};

/// When the next server is asked as well, while the first has not answered.
const STAGGER: Duration = Duration::from_millis(400);

/// How long a question is worth asking.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client waits where an upstream is on this host, and so may be a stub that waits for us. What comes later is
/// kept for the next time.
const PATIENCE_LOCAL: Duration = Duration::from_millis(1800);

/// Questions on their way at the same time.
const MOST_FLIGHTS: usize = 1024;

/// How much longer the addresses of one family are waited for than those of the other (RFC 8305, 3) …
const LATE: Duration = Duration::from_millis(50);

/// … and how long what was found without them holds.
const LATE_TTL: Duration = Duration::from_secs(5);

/// Addresses of one name that are of use.
const MOST_ADDRESSES: usize = 16;

/// Whom to ask.
#[derive(Clone, Debug, Default)]
pub struct ClientConfig {
    /// The servers, the first one first.
    pub upstreams: Vec<Upstream>,
    /// Whether the server that the client asked comes before them.
    pub original_first: bool,
    /// Who is asked for some names instead; the first that fits.
    pub by_domain: Vec<(Patterns, Vec<Upstream>)>,
}

impl ClientConfig {
    /// Whether an upstream is on this host.
    fn is_local(&self) -> bool {
        self.all().any(Upstream::is_local)
    }

    /// Who is asked for this name instead of the others.
    fn of_domain(&self, asked: &Asked) -> Option<&[Upstream]> {
        if self.by_domain.is_empty() { None } else { self.instead(&asked.labels()) }
    }

    fn instead(&self, name: &str) -> Option<&[Upstream]> {
        let fits = self.by_domain.iter().find(|(names, _)| names.matches(name));
        fits.map(|(_, upstreams)| upstreams.as_slice())
    }

    /// Who is asked where a server is that is given by name: as for any name.
    fn finders(&self, server: &Upstream) -> &[Upstream] {
        match server.name() {
            Some(name) => self.instead(name).unwrap_or(&self.upstreams),
            None => &[],
        }
    }

    /// Every server that is asked for anything.
    pub fn all(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.iter().chain(self.by_domain.iter().flat_map(|(_, upstreams)| upstreams))
    }
}

/// What a client has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounters {
    /// Questions that went to upstreams.
    pub sent: u64,
    /// Questions that nobody answered.
    pub failed: u64,
    /// Questions that were refused because too many were on their way.
    pub limited: u64,
    /// Answers to something that was not asked; dropped.
    pub foreign: u64,
    /// Answers that could not be parsed; dropped.
    pub malformed: u64,
    /// Questions that an upstream on this host sent back to us.
    pub loops: u64,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Those that sockets may be connected to.
    pub addresses: Vec<IpAddr>,
    /// How long they hold.
    pub ttl: Duration,
}

/// Asks upstreams by protected sockets. Shared by all workers; a question that one has asked is waited for by others.
pub struct Client {
    egress: Arc<Egress>,
    config: ArcSwap<ClientConfig>,
    /// Takes the questions of programs.
    carrier: OnceLock<Arc<dyn Carrier>>,
    /// The upstream that answered last.
    preferred: AtomicUsize,
    cache: Mutex<Cache>,
    flights: Mutex<Flights>,
    dropped: Dropped,
    plain: Arc<Plain>,
    sent: AtomicU64,
    failed: AtomicU64,
    limited: AtomicU64,
    loops: AtomicU64,
}

/// For whom something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// For ourselves.
    Ours,
    /// For a program.
    Programs,
}

/// What came of a question.
#[derive(Clone, Debug)]
struct Outcome {
    answer: Message,
    /// There is no better answer because a server could not be asked for want of a descriptor: errno(3).
    lacking: Option<i32>,
}

impl From<Message> for Outcome {
    fn from(answer: Message) -> Self {
        Self { answer, lacking: None }
    }
}

/// The parts of an [`Outcome`], whose answer the cache shares.
type Landed = (Arc<Message>, Option<i32>);
type Landing = watch::Receiver<Option<Landed>>;

/// Questions on their way.
#[derive(Default)]
struct Flights {
    /// By name, type and class, whatever else they differ in: a question that comes back may have lost it.
    all: HashMap<Query, Vec<Flight>>,
    count: usize,
}

impl Flights {
    fn remove(&mut self, key: &Key) {
        let Entry::Occupied(mut same) = self.all.entry(key.query().clone()) else { return };
        let before = same.get().len();
        same.get_mut().retain(|flight| flight.key != *key);
        self.count -= before - same.get().len();
        if same.get().is_empty() {
            same.remove();
        }
    }
}

/// A question on its way.
struct Flight {
    key: Key,
    landing: Landing,
    /// It came back to us, and was sent to the server that it was meant for.
    escaped: bool,
}

enum Join {
    /// Somebody asks already.
    Wait(Landing),
    /// Nobody does.
    Lead(watch::Sender<Option<Landed>>, Landing),
    /// Our own question came back.
    Escape(SocketAddr),
    Full,
}

/// Takes a question off the list when it is answered, or when the thread that asks ends.
struct Leading {
    client: Arc<Client>,
    key: Key,
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.client.flights.lock().remove(&self.key);
    }
}

impl Client {
    /// A client for these upstreams.
    pub fn new(egress: Arc<Egress>, config: ClientConfig) -> Self {
        Self {
            egress,
            config: ArcSwap::from_pointee(config),
            carrier: OnceLock::new(),
            preferred: AtomicUsize::new(0),
            cache: Mutex::default(),
            flights: Mutex::default(),
            dropped: Dropped::default(),
            plain: Arc::default(),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            loops: AtomicU64::new(0),
        }
    }

    /// Has what programs ask carried from now on. What is asked for our own sake, the names of proxies, is not: it would
    /// need the very proxy that it is about.
    pub fn carry_by(&self, carrier: Arc<dyn Carrier>) {
        let _ = self.carrier.set(carrier);
    }

    /// Asks others from now on. What those of before have said is forgotten: they may see other names.
    pub fn set_config(&self, config: ClientConfig) {
        self.config.store(Arc::new(config));
        *self.cache.lock() = Cache::default();
    }

    /// The servers asked by TLS that have not answered when they were last asked, and why.
    pub fn failing(&self) -> Vec<(String, String)> {
        let config = self.config.load();
        let why = |upstream: &Upstream| match upstream {
            Upstream::Secure(secure) => secure.failing(),
            Upstream::Udp(_) | Upstream::Tcp(_) => None,
        };
        config.all().filter_map(|upstream| Some((upstream.to_string(), why(upstream)?))).collect()
    }

    /// What it has done.
    pub fn counters(&self) -> ClientCounters {
        ClientCounters {
            sent: self.sent.load(Relaxed),
            failed: self.failed.load(Relaxed),
            limited: self.limited.load(Relaxed),
            foreign: self.dropped.foreign.load(Relaxed),
            malformed: self.dropped.malformed.load(Relaxed),
            loops: self.loops.load(Relaxed),
        }
    }

    /// [`Self::resolve`] without what is known from before, because that was no good.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_again(self: &Arc<Self>, host: &str) -> io::Result<Resolved> {
        if let Ok(mut name) = Name::from_str(host) {
            name.set_fqdn(true);
            let mut cache = self.cache.lock();
            for kind in [RecordType::A, RecordType::AAAA] {
                cache.forget(&Asked::own(name.clone(), kind).key());
            }
        }
        self.resolve(host).await
    }

    /// Finds the addresses of a host for our own sake; at least one.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it has none, others if nobody could be asked; among them `EMFILE` and `ENFILE`.
    pub async fn resolve(self: &Arc<Self>, host: &str) -> io::Result<Resolved> {
        self.resolve_as(host, Whose::Ours).await
    }

    /// The same for a program.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_for_program(self: &Arc<Self>, host: &str) -> io::Result<Resolved> {
        self.resolve_as(host, Whose::Programs).await
    }

    async fn resolve_as(self: &Arc<Self>, host: &str, whose: Whose) -> io::Result<Resolved> {
        let mut name = Name::from_str(host)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "it is no host name"))?;
        name.set_fqdn(true);
        let (v4, v6) = (Asked::own(name.clone(), RecordType::A), Asked::own(name, RecordType::AAAA));
        let (v4, v6) = self.both(&v4, &v6, whose).await;
        let is_whole = v4.is_some() && v6.is_some();
        let mut found =
            Resolved { addresses: Vec::new(), ttl: if is_whole { Duration::MAX } else { LATE_TTL } };
        let late = || Outcome::from(Message::query());
        let (v4, v6) = (v4.unwrap_or_else(late), v6.unwrap_or_else(late));
        let mut forbidden = false;
        let lacking = v4.lacking.or(v6.lacking);
        let (v4, v6) = (v4.answer, v6.answer);
        for record in v4.answers.iter().chain(&v6.answers) {
            let Some(ip) = record.data.ip_addr() else { continue };
            found.ttl = found.ttl.min(Duration::from_secs(record.ttl.into()));
            // Among them the fake addresses, which come back from a stub that asks us.
            // One that has no host route yet is to get one, and nothing is sent there before.
            let refused = self.egress.check(ip).err();
            if refused.is_some_and(|error| !matches!(error, EgressError::NoHostRoute { .. })) {
                forbidden = true;
            } else if found.addresses.len() < MOST_ADDRESSES && !found.addresses.contains(&ip) {
                found.addresses.push(ip);
            }
        }
        if !found.addresses.is_empty() {
            return Ok(found);
        }
        let nowhere = |code| matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        if let Some(number) = lacking {
            return Err(io::Error::from_raw_os_error(number));
        }
        Err(match (v4.metadata.response_code, v6.metadata.response_code) {
            _ if forbidden => io::Error::other("its only addresses are such as nothing may be sent to"),
            (a, b) if nowhere(a) && nowhere(b) => {
                io::Error::new(io::ErrorKind::NotFound, "it has no address")
            }
            _ => io::Error::other("no resolver answers; see dns.upstream, or the system's resolv.conf"),
        })
    }

    /// The answers to two questions; only one where that has addresses and the other is late, which is kept for the next time.
    async fn both(
        self: &Arc<Self>,
        v4: &Asked,
        v6: &Asked,
        whose: Whose,
    ) -> (Option<Outcome>, Option<Outcome>) {
        async fn other(first: &Outcome, other: Pin<&mut impl Future<Output = Outcome>>) -> Option<Outcome> {
            match first.answer.answers.iter().any(|record| record.data.ip_addr().is_some()) {
                true => timeout(LATE, other).await.ok(),
                false => Some(other.await),
            }
        }
        let mut v4 = pin!(self.ask_as(v4, None, whose));
        let mut v6 = pin!(self.ask_as(v6, None, whose));
        tokio::select! {
            first = &mut v4 => { let other = other(&first, v6).await; (Some(first), other) }
            first = &mut v6 => { let other = other(&first, v4).await; (other, Some(first)) }
        }
    }

    /// The answer to a program's question; SERVFAIL if there is none. `original` is the server that it asked.
    pub(crate) async fn ask(self: &Arc<Self>, asked: &Asked, original: Option<SocketAddr>) -> Message {
        self.ask_as(asked, original, Whose::Programs).await.answer
    }

    async fn ask_as(self: &Arc<Self>, asked: &Asked, original: Option<SocketAddr>, whose: Whose) -> Outcome {
        let key = asked.key_at(self.chosen(asked, original));
        if let Some(answer) = self.look(&key) {
            return answer.into();
        }
        // Whoever follows the name of a proxy wants to know when it changes.
        let stale = match whose {
            Whose::Ours => None,
            Whose::Programs => self.cache.lock().stale(&key, std::time::Instant::now()),
        };
        if let Some(stale) = stale.as_ref().filter(|stale| stale.at_once && !stale.anew) {
            return Message::clone(&stale.answer).into();
        }
        let mut landing = match self.join(&key, original) {
            Join::Wait(landing) => landing,
            Join::Lead(land, landing) => {
                let leading = Leading { client: Arc::clone(self), key };
                let (client, asked) = (Arc::clone(self), asked.clone());
                tokio::spawn(async move {
                    let config = client.config.load_full();
                    let Outcome { answer, lacking } =
                        client.race(&asked, client.order(&asked, original), whose).await;
                    let answer = Arc::new(answer);
                    {
                        let mut cache = client.cache.lock();
                        // Others are asked by now; or nobody was, which is no answer to keep.
                        if lacking.is_none() && Arc::ptr_eq(&client.config.load(), &config) {
                            cache.put(leading.key.clone(), &answer, std::time::Instant::now());
                        }
                    }
                    drop(leading);
                    land.send_replace(Some((answer, lacking)));
                });
                landing
            }
            Join::Escape(server) => {
                self.loops.fetch_add(1, Relaxed);
                return self.race(asked, vec![(0, Upstream::Udp(server))], whose).await;
            }
            Join::Full => {
                self.limited.fetch_add(1, Relaxed);
                return asked.code(ResponseCode::ServFail).into();
            }
        };
        if let Some(stale) = stale.as_ref().filter(|stale| stale.at_once) {
            return Message::clone(&stale.answer).into();
        }
        let patience = if self.is_local() { PATIENCE_LOCAL } else { PATIENCE };
        let landed = timeout(patience, landing.wait_for(Option::is_some)).await;
        let outcome = match landed.ok().and_then(Result::ok).and_then(|landed| landed.clone()) {
            Some((answer, lacking)) => Outcome { answer: Message::clone(&answer), lacking },
            None => asked.code(ResponseCode::ServFail).into(),
        };
        match stale {
            Some(stale) if outcome.answer.metadata.response_code == ResponseCode::ServFail => {
                stale.answer.into()
            }
            _ => outcome,
        }
    }

    /// An answer from before for a client that asked `original`.
    pub(crate) fn cached(&self, asked: &Asked, original: SocketAddr) -> Option<Message> {
        self.look(&asked.key_at(self.chosen(asked, Some(original))))
    }

    fn look(&self, key: &Key) -> Option<Message> {
        self.cache.lock().get(key, std::time::Instant::now())
    }

    /// The server that the client asked, if that is asked first: anybody may choose any, and is told by it what it likes.
    fn chosen(&self, asked: &Asked, original: Option<SocketAddr>) -> Option<SocketAddr> {
        let config = self.config.load();
        let is_first = |_: &SocketAddr| {
            (config.original_first || config.upstreams.is_empty()) && config.of_domain(asked).is_none()
        };
        original.filter(is_first)
    }

    /// Whether an upstream is on this host, and questions that come back are looked for.
    fn is_local(&self) -> bool {
        !self.egress.left_out().has(Safeguard::Circle) && self.config.load().is_local()
    }

    /// Whether this may be our own question, which an upstream on this host has passed on to somebody else by way of us.
    pub(crate) fn may_loop(&self, asked: &Asked) -> bool {
        self.is_local() && self.flights.lock().all.contains_key(asked.key().query())
    }

    fn join(&self, key: &Key, original: Option<SocketAddr>) -> Join {
        let mut flights = self.flights.lock();
        if self.is_local()
            && let Some(server) = original.filter(|server| !server.ip().is_loopback())
            && let Some(flight) = flights.all.get_mut(key.query()).and_then(|same| same.first_mut())
        {
            // Whoever asks is answered by the server that it meant. Once: should that be us again, there it ends.
            if std::mem::replace(&mut flight.escaped, true) {
                return Join::Wait(flight.landing.clone());
            }
            return Join::Escape(server);
        }
        let of = flights.all.get(key.query());
        if let Some(flight) = of.and_then(|same| same.iter().find(|flight| flight.key == *key)) {
            return Join::Wait(flight.landing.clone());
        }
        if flights.count >= MOST_FLIGHTS {
            return Join::Full;
        }
        let (land, landing) = watch::channel(None);
        let flight = Flight { key: key.clone(), landing: landing.clone(), escaped: false };
        flights.all.entry(key.query().clone()).or_default().push(flight);
        flights.count += 1;
        Join::Lead(land, landing)
    }

    /// The servers to ask, each with its place in the configuration; the one that answered last comes first.
    fn order(&self, asked: &Asked, original: Option<SocketAddr>) -> Vec<(usize, Upstream)> {
        let config = self.config.load();
        if let Some(upstreams) = config.of_domain(asked) {
            return upstreams.iter().map(|upstream| (usize::MAX, upstream.clone())).collect();
        }
        let configured = &config.upstreams;
        let first = self.preferred.load(Relaxed) % configured.len().max(1);
        let rotated = (0..configured.len()).map(|n| (first + n) % configured.len());
        let mut order: Vec<_> = rotated.filter_map(|n| Some((n, configured.get(n)?.clone()))).collect();
        if let Some(server) = self.chosen(asked, original) {
            order.retain(|(_, upstream)| upstream.addr() != Some(server));
            order.insert(0, (usize::MAX, Upstream::Udp(server)));
        }
        order
    }

    /// Asks the servers, each after the one before it has failed or been silent for a while; the first answer wins. An
    /// answer that is none (SERVFAIL, REFUSED) only if nobody has a better one.
    async fn race(&self, asked: &Asked, order: Vec<(usize, Upstream)>, whose: Whose) -> Outcome {
        let carrier = self.carrier.get().filter(|_| whose == Whose::Programs);
        let deadline = Instant::now() + PATIENCE;
        let config = self.config.load_full();
        let mut waiting = order.into_iter();
        let mut running = JoinSet::new();
        let mut second_best = None;
        let mut lacking = None;
        self.sent.fetch_add(1, Relaxed);
        while let Some((place, upstream)) = waiting.next() {
            let finders: Arc<[Upstream]> = config.finders(&upstream).into();
            let parts = (Arc::clone(&self.egress), carrier.cloned(), finders, Arc::clone(&self.plain));
            let query = asked.outgoing();
            running.spawn(async move {
                let (egress, carrier, finders, plain) = &parts;
                let dropped = Dropped::default();
                let by = By { egress, carrier: carrier.as_deref(), others: finders, plain };
                let result = exchange::ask(by, &upstream, query, deadline, &dropped).await;
                (place, upstream, result, dropped)
            });
            let stagger =
                if waiting.len() == 0 { deadline } else { (Instant::now() + STAGGER).min(deadline) };
            let mut next = false;
            while !next {
                tokio::select! {
                    Some(done) = running.join_next() => {
                        let Ok((place, upstream, result, dropped)) = done else { continue };
                        self.dropped.foreign.fetch_add(dropped.foreign.load(Relaxed), Relaxed);
                        self.dropped.malformed.fetch_add(dropped.malformed.load(Relaxed), Relaxed);
                        match result {
                            Ok(answer) if is_final(&answer) => {
                                if place != usize::MAX {
                                    self.preferred.store(place, Relaxed);
                                }
                                return answer.into();
                            }
                            Ok(answer) => { second_best.get_or_insert(answer); }
                            Err(error) => {
                                lacking = lacking.or(lacking_descriptors(&error));
                                tracing::debug!(server = %upstream, %error, "an upstream does not answer");
                            }
                        }
                        next = waiting.len() > 0 || running.is_empty();
                    }
                    () = sleep_until(stagger) => next = true,
                }
            }
        }
        self.failed.fetch_add(1, Relaxed);
        let answer = second_best.unwrap_or_else(|| asked.code(ResponseCode::ServFail));
        Outcome { answer, lacking }
    }
}

/// Whether an answer says something about the name, and not about the server.
fn is_final(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.config.load())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
