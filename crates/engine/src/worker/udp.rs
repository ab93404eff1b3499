//! UDP: one session for each client socket and outbound, whatever it sends to (RFC 4787, REQ-1 and REQ-8).

mod by_group;
mod idle;
mod names;
mod outbox;
mod quic;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hashbrown::{DefaultHashBuilder, HashMap};
use oneway_egress::{RecvBatch, Transport};
use oneway_flow::{Arrival, FlowGuard, Inbound, Network, Target};
use oneway_outbound::{Answer, Backlog, Fate, PROXY_HEADER_MAX, UdpPath};
use oneway_route::Family;
use oneway_sniff::is_initial;
use oneway_wire::emit::Unreachable;
use oneway_wire::ip::IpView;
use oneway_wire::udp::UdpView;
use oneway_wire::virtio::{Gso, VirtioNetHdr};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::Worker;
use super::ask::Kept;
use super::reply::{DATAGRAM_HEADROOM, reported};
use super::sniff::has;
use super::sources::BySource;
use crate::dispatch::{Choice, Dispatch, Entry, Held, Subject};
use crate::group::Group;
use crate::guard::Destination;
use crate::limits::Limits;
use by_group::{ByGroup, Groups, Heard};
use idle::Idle;
use names::{Names, Next};
use oneway_dns::{AskedBy, Doubt, Pinned};
pub(super) use outbox::Outbox;
pub(crate) use quic::QuicNames;

/// Datagrams kept for a session whose outbound is not ready yet, and their bytes.
const QUEUED: usize = 1024;
const QUEUED_BYTES: usize = 128 * 1024;

/// Datagrams received by one system call, and calls before other sessions get their turn.
const BATCH: usize = 16;
const TURNS: usize = 3;

const SHARDS: usize = 16;

/// A client socket, and the outbound's serial number.
type Key = (SocketAddr, u32);

/// The UDP sessions that live, shared by all workers.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: Vec<RwLock<HashMap<Key, Arc<Session>>>>,
    by_group: ByGroup,
    hasher: DefaultHashBuilder,
    count: Mutex<BySource>,
    /// What all datagrams take that wait: for an outbound, a name, a program.
    backlog: Arc<Backlog>,
    epoch: Instant,
    /// Seconds since `epoch`, as of the last [`Sessions::sweep`]: a datagram is not worth asking the time for.
    clock: AtomicU32,
}

/// One client socket's way through one outbound.
#[derive(Debug)]
pub(crate) struct Session {
    key: Key,
    outbound: Arc<Entry>,
    path: OnceLock<UdpPath>,
    /// None once the outbound is ready, or is known not to become it.
    queued: Mutex<Option<Queue>>,
    /// What [`Sessions::clock`] showed at the last datagram of either direction.
    last: AtomicU32,
    heard: Heard,
    groups: Groups,
    idle: Idle,
    end: Notify,
    flow: FlowGuard,
    /// There if it has fake destinations.
    names: OnceLock<Names<Pinned>>,
}

impl Session {
    /// The number of its flow.
    pub(crate) fn flow(&self) -> u64 {
        self.flow.id
    }
}

/// Datagrams that wait for their session's outbound.
#[derive(Debug, Default)]
struct Queue {
    datagrams: VecDeque<(Target, Vec<u8>)>,
    bytes: usize,
}

impl Sessions {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            by_group: ByGroup::default(),
            hasher: DefaultHashBuilder::default(),
            count: Mutex::default(),
            backlog: Arc::new(Backlog::new(limits.udp_backlog)),
            epoch: Instant::now(),
            clock: AtomicU32::new(0),
        }
    }
}

impl Session {
    fn touch(&self, now: u32) {
        // Many datagrams share a second, and what is only read stays in the caches of both sides.
        if self.last.load(Ordering::Relaxed) != now {
            self.last.store(now, Ordering::Relaxed);
        }
    }
}

impl Sessions {
    /// How many live.
    pub(crate) fn len(&self) -> usize {
        self.count.lock().len()
    }

    /// What may be kept of datagrams that wait for whatever it be.
    pub(super) fn backlog(&self) -> &Arc<Backlog> {
        &self.backlog
    }

    fn shard(&self, key: &Key) -> Option<&RwLock<HashMap<Key, Arc<Session>>>> {
        self.shards.get((self.hasher.hash_one(key) >> 48) as usize % SHARDS)
    }

    fn get(&self, key: &Key) -> Option<Arc<Session>> {
        self.shard(key)?.read().get(key).cloned()
    }

    fn remove(&self, session: &Arc<Session>) {
        let Some(shard) = self.shard(&session.key) else { return };
        let mut shard = shard.write();
        if shard.get(&session.key).is_some_and(|found| Arc::ptr_eq(found, session)) {
            shard.remove(&session.key);
            self.count.lock().leave(session.key.0.ip());
        }
        drop(shard);
        self.by_group.remove(session);
    }

    /// Keeps a datagram, if there is room for it.
    fn keep(&self, queue: &mut Queue, target: &Target, payload: &[u8]) -> bool {
        if queue.datagrams.len() >= QUEUED
            || queue.bytes + payload.len() > QUEUED_BYTES
            || !self.backlog.take(payload.len())
        {
            return false;
        }
        queue.bytes += payload.len();
        queue.datagrams.push_back((target.clone(), payload.to_vec()));
        true
    }

    /// Takes what was kept; nothing is kept any more.
    fn take_kept(&self, queued: &mut Option<Queue>) -> VecDeque<(Target, Vec<u8>)> {
        let Queue { datagrams, bytes } = queued.take().unwrap_or_default();
        self.backlog.give_back(datagrams.len(), bytes);
        datagrams
    }

    fn now(&self) -> u32 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Ends the sessions that have been idle for as long as they may. To be called about once a second, by any worker.
    pub(crate) fn sweep(&self) {
        let now = u32::try_from(self.epoch.elapsed().as_secs()).unwrap_or(u32::MAX);
        // Another worker has done it in this second.
        if self.clock.swap(now, Ordering::Relaxed) == now {
            return;
        }
        self.end(|session| session.idle.is_over(now.saturating_sub(session.last.load(Ordering::Relaxed))));
    }

    /// Tells the sessions that this holds for to end.
    pub(crate) fn end(&self, which: impl Fn(&Session) -> bool) {
        for shard in &self.shards {
            shard
                .read()
                .values()
                .filter(|session| which(session))
                .for_each(|session| session.end.notify_one());
        }
    }
}

/// What `next` resolves to; none once `end` has, even if there is always more.
async fn unless_ended<T>(end: impl Future<Output = ()>, next: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = end => None,
        next = next => Some(next),
    }
}

/// How a datagram's sender is told.
fn unreachable(answer: Answer) -> Option<Unreachable> {
    match answer {
        Answer::Silent => None,
        Answer::IcmpNet => Some(Unreachable::Net),
        Answer::IcmpHost => Some(Unreachable::Host),
        Answer::IcmpAdmin => Some(Unreachable::AdminProhibited),
        Answer::Rst | Answer::IcmpPort => Some(Unreachable::Port),
    }
}

thread_local! {
    /// Where datagrams are received, behind room for the headers. Used within one turn only.
    static RECEIVE: RefCell<RecvBatch> =
        RefCell::new(RecvBatch::new(BATCH, DATAGRAM_HEADROOM, PROXY_HEADER_MAX + usize::from(u16::MAX)));
}

impl Worker {
    /// A client's datagram, or a superpacket of them (`UDP_SEGMENT`).
    pub(super) fn udp(self: &Rc<Self>, header: &VirtioNetHdr, ip: &IpView<'_>, inbound: Inbound) {
        let shared = &self.shared;
        let Ok(udp) = UdpView::parse(ip.payload()) else { return shared.stats.malformed.add() };
        if !header.needs_csum() && !udp.checksum_valid(ip.src(), ip.dst()) {
            return shared.stats.malformed.add();
        }
        let client = SocketAddr::new(ip.src(), udp.src_port());
        let dst = SocketAddr::new(ip.dst(), udp.dst_port());
        let payload = udp.payload();
        let segment = match header.gso() {
            Ok(Gso::UdpL4) if header.gso_size > 0 => usize::from(header.gso_size),
            _ => usize::MAX,
        };
        // Where the last one went, this one may go as well.
        if payload.len() <= segment && self.outbox.borrow_mut().append(client, dst, payload) {
            return;
        }
        self.empty_outbox();
        match shared.guard.classify_port(dst) {
            Destination::Ordinary => {}
            Destination::Refused => {
                shared.stats.guarded.add();
                return self.unreachable(ip.packet(), Unreachable::Port);
            }
            Destination::Multicast => return shared.stats.ignored.add(),
        }
        if shared.dns.hijacks(dst).is_some() {
            return payload.chunks(segment).for_each(|query| self.dns_datagram(client, dst, query));
        }
        let mut target = Target::from_addr(dst);
        let fake = shared.dns.is_fake(dst.ip());
        if fake {
            target.host = shared.dns.fake_name(dst.ip());
            if target.host.is_none() {
                shared.stats.guarded.add();
                return self.unreachable(ip.packet(), Unreachable::Port);
            }
        }
        let dispatch = shared.dispatch.load();
        let asked = if fake { None } else { self.asked_for_rules(&dispatch, dst.ip()) };
        let mut is_told = false;
        let mut host = match &asked {
            Some(asked) => Some(Arc::clone(&asked.name)),
            None => target.host.clone(),
        };
        // A connection keeps the name that it has begun with, also where there is doubt about it later.
        if !fake
            && let Some(sniff) = dispatch.sniff().filter(|sniff| has(&sniff.quic, dst.port()))
            && (asked.as_ref().is_none_or(|asked| asked.doubt != Doubt::Never) || is_initial(payload))
        {
            let known = asked.filter(|asked| asked.doubt != Doubt::Now).map(|asked| asked.name);
            is_told = known.is_none();
            let keep = || Kept::new(header, ip.packet(), inbound, shared.udp.backlog());
            match self.quic_name((client, dst), known, keep, payload, segment, sniff.timeout) {
                Some(name) => host = name,
                None => return,
            }
        }
        let sniffed = is_told && host.is_some();
        let judged = Target { addr: dst, host };
        let dscp = ip.traffic_class() >> 2;
        // What its first bytes have told is shown.
        let named = if sniffed { &judged } else { &target };
        let subject =
            Subject { network: Network::Udp, source: client, inbound, target: &judged, is_fake: fake, dscp };
        // What a group has chosen for this socket stands as long as it carries.
        let of_group = RefCell::new(None);
        let held = |group: &Group| {
            let session = shared.udp.by_group.get(&(client, group.line()))?;
            let held = Held { serial: session.key.1, is_heard: session.heard.is_recent(shared.udp.now()) };
            of_group.replace(Some(session));
            Some(held)
        };
        let choice = match dispatch.choose_keeping(&subject, held) {
            Ok(choice) => choice,
            Err(missing) => return self.ask_about(header, ip.packet(), &subject, missing),
        };
        let key = (client, choice.entry.serial);
        let found = of_group.take().filter(|session: &Arc<Session>| session.key == key);
        let is_noted = found.is_some();
        let session = match found.or_else(|| shared.udp.get(&key)) {
            Some(session) => {
                session.idle.also_to(dst.port(), &shared.limits);
                session
            }
            None if shared.egress.returned(Transport::Udp, client, dst) => return,
            None if choice.entry.rests_from_udp() => {
                shared.stats.udp_refused.add();
                return self.unreachable(ip.packet(), Unreachable::Port);
            }
            None => match self.open_session(key, &choice, named, subject.arrival()) {
                Some(session) => {
                    // The turn that it has had.
                    if choice.group.is_some() {
                        choice.in_turn(&subject);
                    }
                    if self.is_disallowed(&dispatch, choice.entry, &subject) {
                        session.end.notify_one();
                    }
                    session
                }
                None => {
                    shared.stats.udp_refused.add();
                    return self.unreachable(ip.packet(), Unreachable::AdminProhibited);
                }
            },
        };
        if let Some(group) = choice.group.and_then(|entry| entry.group.as_ref()).filter(|_| !is_noted) {
            shared.udp.by_group.set(group.line(), &session);
        }
        if fake {
            let send =
                |datagram: &[u8]| self.send_by_name(&session, (&dispatch, &choice), &subject, datagram);
            if payload.len() <= segment { send(payload) } else { payload.chunks(segment).for_each(send) }
        } else if payload.len() <= segment {
            self.send(&session, &target, payload);
            self.outbox.borrow_mut().note(client, dst, session, target);
        } else {
            self.send_segments(&session, &target, payload, segment);
        }
    }

    /// What a real address was asked for by, if the rules want to know.
    fn asked_for_rules(&self, dispatch: &Dispatch, ip: IpAddr) -> Option<AskedBy> {
        if dispatch.asks_names() { self.shared.dns.asked_by(ip) } else { None }
    }

    /// Sends the datagrams that were kept.
    fn empty_outbox(&self) {
        self.outbox.borrow_mut().empty(|session, target, payload, size| {
            self.send_segments(session, target, payload, size);
        });
    }

    /// Sends the datagrams that were kept; to be called at the end of each batch.
    pub(super) fn end_datagrams(&self) {
        self.empty_outbox();
        self.outbox.borrow_mut().forget();
    }

    /// Ends the sessions of all workers when the engine stops. Each worker does: what another one opens while this
    /// one looks, that one sees.
    pub(super) async fn drain_sessions(self: Rc<Self>) {
        self.drain().await;
        self.shared.udp.end(|_| true);
    }

    /// Closes the sessions of a client socket that is gone.
    pub(super) fn client_gone(&self, client: SocketAddr) {
        for entry in self.shared.dispatch.load().entries() {
            if let Some(session) = self.shared.udp.get(&(client, entry.serial)) {
                session.end.notify_one();
            }
        }
    }

    fn open_session(
        self: &Rc<Self>,
        key: Key,
        choice: &Choice<'_>,
        target: &Target,
        arrival: Arrival,
    ) -> Option<Arc<Session>> {
        let shared = &self.shared;
        let source = key.0.ip();
        if self.draining() || !shared.udp.count.lock().has_room(source, shared.limits.udp_sessions) {
            return None;
        }
        let (rule, outbound) = (choice.rule(), Arc::clone(&choice.entry.name));
        let flow = shared.flows.enter(arrival, target.clone(), rule, outbound);
        let session = Arc::new(Session {
            key,
            outbound: Arc::clone(choice.entry),
            path: OnceLock::new(),
            queued: Mutex::new(Some(Queue::default())),
            last: AtomicU32::new(shared.udp.now()),
            heard: Heard::new(shared.udp.now()),
            groups: Groups::default(),
            idle: Idle::new(target.addr.port(), &shared.limits),
            end: Notify::new(),
            flow,
            names: OnceLock::new(),
        });
        let mut shard = shared.udp.shard(&key)?.write();
        if let Some(found) = shard.get(&key) {
            return Some(Arc::clone(found));
        }
        shard.insert(key, Arc::clone(&session));
        shared.udp.count.lock().enter(source);
        drop(shard);
        shared.stats.udp_opened.add();
        tokio::task::spawn_local(Rc::clone(self).session(Arc::clone(&session)));
        Some(session)
    }

    /// Sends a datagram on, or keeps it until the outbound is ready.
    fn send(&self, session: &Session, target: &Target, payload: &[u8]) {
        let Some(path) = session.path.get() else {
            let mut queued = session.queued.lock();
            let kept = match &mut *queued {
                Some(queue) => self.shared.udp.keep(queue, target, payload),
                // It may have become ready while we waited for the lock.
                None if session.path.get().is_some() => {
                    drop(queued);
                    return self.send(session, target, payload);
                }
                None => false,
            };
            if !kept {
                self.shared.stats.udp_dropped.add();
            }
            return;
        };
        session.touch(self.shared.udp.now());
        match path.try_send_to(payload, target) {
            Ok(()) => {
                self.shared.stats.udp_up.add();
                session.flow.up.fetch_add(payload.len() as u64, Ordering::Relaxed);
            }
            Err(error) => self.not_sent(session, target, payload, &error),
        }
    }

    /// Sends datagrams of one length on as one, where the outbound takes that.
    fn send_segments(&self, session: &Session, target: &Target, payload: &[u8], size: usize) {
        let Some(path) = session.path.get() else {
            return payload.chunks(size).for_each(|datagram| self.send(session, target, datagram));
        };
        session.touch(self.shared.udp.now());
        let (sent, result) = path.try_send_segments(payload, size, target);
        let rest = payload.get(sent * size..).unwrap_or_default();
        (0..sent).for_each(|_| self.shared.stats.udp_up.add());
        session.flow.up.fetch_add((payload.len() - rest.len()) as u64, Ordering::Relaxed);
        if let Err(error) = result {
            rest.chunks(size).for_each(|datagram| self.not_sent(session, target, datagram, &error));
        }
    }

    /// A datagram was not sent. It is kept if there may be another relay for it soon, and counted when it is sent or not.
    fn not_sent(&self, session: &Session, target: &Target, payload: &[u8], error: &io::Error) {
        let refused;
        let error = match session.path.get() {
            Some(path) if error.kind() == io::ErrorKind::NotConnected => {
                match path.keep(payload, target, self.counting(session, payload.len())) {
                    Ok(()) => return,
                    Err(error) => {
                        if error.kind() == io::ErrorKind::ConnectionRefused {
                            session.heard.forget();
                            session.outbound.lost_udp(&error);
                        }
                        refused = error;
                        &refused
                    }
                }
            }
            _ => error,
        };
        self.shared.stats.udp_dropped.add();
        // A full socket loses datagrams as a full link does: nobody is told.
        if error.kind() != io::ErrorKind::WouldBlock
            && let Some(kind) = unreachable(Answer::to_io(error).on(Network::Udp))
        {
            self.datagram_unreachable(session.key.0, target.addr, payload, kind);
        }
    }

    /// Counts a datagram of `len` bytes that has waited.
    fn counting(&self, session: &Session, len: usize) -> Fate {
        let (shared, flow) = (Arc::clone(&self.shared), session.flow.flow());
        Box::new(move |is_sent| {
            if is_sent {
                shared.stats.udp_up.add();
                flow.up.fetch_add(len as u64, Ordering::Relaxed);
            } else {
                shared.stats.udp_dropped.add();
            }
        })
    }

    /// Sends a datagram to a fake address on: with its name to a proxy, else to the real address.
    fn send_by_name(
        self: &Rc<Self>,
        session: &Arc<Session>,
        (dispatch, choice): (&Arc<Dispatch>, &Choice<'_>),
        subject: &Subject<'_>,
        payload: &[u8],
    ) {
        let shared = &self.shared;
        let target = subject.target;
        let names = session.names.get_or_init(Names::default);
        let pin = || shared.dns.pin(target.addr.ip());
        if !choice.entry.is_direct() {
            // Where the name was forgotten just now, the datagram is lost as any may be.
            if names.note(target.addr, pin) {
                self.send(session, target, payload);
            }
            return;
        }
        match names.next(target.addr, payload, &shared.udp.backlog, pin) {
            Some(Next::Send(real)) => self.send(session, &Target::from_addr(real), payload),
            Some(Next::Resolve) => {
                let (worker, session, target) = (Rc::clone(self), Arc::clone(session), target.clone());
                let (dispatch, named) = (Arc::clone(dispatch), choice.named());
                let Subject { network, source, inbound, is_fake, dscp, .. } = *subject;
                tokio::task::spawn_local(async move {
                    let subject = Subject { network, source, inbound, target: &target, is_fake, dscp };
                    worker.resolve_for(session, &dispatch, named, &subject).await;
                });
            }
            Some(Next::Wait) => {}
            Some(Next::Drop) | None => shared.stats.udp_dropped.add(),
        }
    }

    /// Finds the real address of a session's fake destination, and sends what waits for it.
    async fn resolve_for(
        self: Rc<Self>,
        session: Arc<Session>,
        dispatch: &Dispatch,
        named: Option<u32>,
        subject: &Subject<'_>,
    ) {
        let target = subject.target;
        let mut found = self.shared.dns.addresses(target).await.unwrap_or_default();
        // The session's socket is of its client's family.
        found.retain(|ip| ip.is_ipv4() == target.addr.is_ipv4());
        if let Some(named) = named {
            found = dispatch.led_to(named, subject, found).await;
        }
        let real = found.first().copied();
        let Some(names) = session.names.get() else { return };
        for payload in names.resolved(target.addr, real) {
            match real {
                Some(ip) => {
                    let real = Target::from_addr(SocketAddr::new(ip, target.addr.port()));
                    self.send(&session, &real, &payload);
                }
                None => {
                    self.shared.stats.udp_dropped.add();
                    self.datagram_unreachable(session.key.0, target.addr, &payload, Unreachable::Host);
                }
            }
        }
    }

    /// The address that a session's client knows a source by.
    fn known_by(session: &Session, source: SocketAddr) -> SocketAddr {
        session.names.get().map_or(source, |names| names.source(source))
    }

    /// Hands the ICMP errors about a session's datagrams to its client.
    fn report_errors(&self, session: &Session, path: &UdpPath) {
        while let Ok(Some(event)) = path.try_icmp_error() {
            let Some(kind) = reported(&event) else { continue };
            let dst = Self::known_by(session, event.dst);
            self.datagram_unreachable(session.key.0, dst, event.payload_prefix(), kind);
        }
    }

    /// Opens a session's outbound and returns its datagrams to the client until it is idle or gone.
    async fn session(self: Rc<Self>, session: Arc<Session>) {
        let choice = &session.outbound;
        let family = Family::of(session.key.0.ip());
        let opened = tokio::select! {
            opened = choice.outbound.udp(&self.shared.egress, family, &self.shared.udp.backlog) => opened,
            () = session.end.notified() => {
                self.shared.udp.remove(&session);
                let kept = self.shared.udp.take_kept(&mut session.queued.lock());
                kept.iter().for_each(|_| self.shared.stats.udp_dropped.add());
                return;
            }
        };
        choice.observe_udp(opened.as_ref().err());
        match opened {
            Ok(path) => {
                session.flow.set_established();
                // Both under the lock: a datagram is either queued before, or finds the path.
                let (path, first) = {
                    let mut queued = session.queued.lock();
                    (session.path.get_or_init(|| path), self.shared.udp.take_kept(&mut queued))
                };
                for (target, payload) in first {
                    self.send(&session, &target, &payload);
                }
                self.return_datagrams(&session, path).await;
                self.shared.udp.remove(&session);
            }
            Err(error) => {
                let (target, rule) = (&session.flow.target, &session.flow.rule);
                tracing::debug!(client = %session.key.0, %target, %rule, outbound = %choice.name, %error, "no UDP");
                self.shared.udp.remove(&session);
                self.shared.stats.udp_refused.add();
                let kept = self.shared.udp.take_kept(&mut session.queued.lock());
                kept.iter().for_each(|_| self.shared.stats.udp_dropped.add());
                let Some(kind) = unreachable(error.answer_on(Network::Udp)) else { return };
                for (target, payload) in kept {
                    self.datagram_unreachable(session.key.0, target.addr, &payload, kind);
                }
            }
        }
    }

    /// Returns a session's datagrams, and the errors about those that it sent, until it is told to end.
    async fn return_datagrams(&self, session: &Session, path: &UdpPath) {
        let mut end = pin!(session.end.notified());
        loop {
            let Some(Ok(ready)) = unless_ended(end.as_mut(), path.ready()).await else { return };
            if ready.errors {
                self.report_errors(session, path);
            }
            if ready.datagrams {
                match self.return_waiting(session, path) {
                    Ok(false) => {}
                    Ok(true) => tokio::task::yield_now().await,
                    // Errors about single datagrams come by the error queue; this is the socket's own.
                    Err(error) => {
                        tracing::debug!(client = %session.key.0, %error, "cannot receive");
                        return;
                    }
                }
            }
        }
    }

    /// Returns the datagrams that are waiting, as many as fit one turn. True if there may be more.
    fn return_waiting(&self, session: &Session, path: &UdpPath) -> io::Result<bool> {
        RECEIVE.with_borrow_mut(|batch| {
            let (mut bytes, mut more) = (0, true);
            let mut turns = TURNS;
            while more && turns > 0 {
                turns -= 1;
                let received = path.try_recv(batch, |slot, payload, size, source| {
                    bytes += payload.len() as u64;
                    (0..payload.len().div_ceil(size).max(1)).for_each(|_| self.shared.stats.udp_down.add());
                    let source = Self::known_by(session, source);
                    self.write_datagrams(slot, payload, size, source, session.key.0);
                });
                more = match received {
                    Ok(more) => more,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                    Err(error) => return Err(error),
                };
            }
            session.touch(self.shared.udp.now());
            if bytes > 0 {
                session.heard.note(self.shared.udp.now());
            }
            session.flow.down.fetch_add(bytes, Ordering::Relaxed);
            Ok(more)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn a_session_with_a_constant_stream_ends_when_it_is_told_to() {
        let end = Notify::new();
        let mut ended = pin!(end.notified());
        for n in 0..3 {
            assert_eq!(unless_ended(ended.as_mut(), ready(n)).await, Some(n));
        }
        end.notify_one();
        assert_eq!(unless_ended(ended.as_mut(), ready(3)).await, None);
    }
}
