//! TCP by a stack of our own: a SYN waits for the outbound, then the client's connection ends here.
//!
//! ```text
//! Queue ─▶ segment ─▶ Connection ─▶ payload ─▶ outbound's socket        as it lies in the packet
//! Queue ◀─ headers + buffer ◀─ Connection ◀─ buffer ◀─ outbound's socket  kept until acknowledged
//! ```
//!
//! A worker has its connections to itself: no lock and no channel on the way of a packet. A connection is driven by three
//! things: its packets, at the end of each batch of them; its outbound's socket, by a task; and its timer.

mod budget;
mod buffers;
mod flow;
mod naming;
mod owners;
mod paths;
mod timers;
mod upstream;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use hashbrown::HashMap;
use oneway_capture::FRAME_HEADER;
use oneway_egress::Transport;
use oneway_flow::{Inbound, Network};
use oneway_outbound::{Answer, Connected};
use oneway_stack::tcp::{
    Arrival, Connection, MAX_HEADERS, Outgoing, Payload, Segment, Seq, State, Syn, Time,
};
use oneway_wire::ip::IpView;
use oneway_wire::tcp::{Flags, TcpView};
use oneway_wire::virtio::{DATA_VALID, VirtioNetHdr};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;

use super::asker::{Asker, GaveUp};
use super::dials::Place;
use super::sniff::Nameless;
use super::{Phase, Worker, dscp, syn};
use crate::dispatch::Subject;
use crate::guard::Destination;
pub(crate) use budget::Budget;
use budget::{Account, Charge, LEAST};
use buffers::{BufferPool, Chunk};
use flow::{Dialing, Flow, Open, Stage, Telling};
use naming::Naming;
pub(crate) use owners::Owners;
pub(crate) use paths::Paths;
use timers::Timers;
use upstream::{Held, Upstream};

/// A connection: the client, and where it wants to go.
pub(super) type Key = (SocketAddr, SocketAddr);

/// Connections at rest in TIME-WAIT that one worker keeps; the oldest give way.
const TIME_WAITS: usize = 16 * 1024;

/// How often it is looked whether memory is to be handed back: what is held again a moment later is better kept.
const LULL: Duration = Duration::from_secs(5);

/// The connections of one worker.
#[derive(Debug)]
pub(crate) struct UserTcp {
    /// Which worker this is.
    pub(super) number: usize,
    flows: RefCell<HashMap<Key, Rc<Flow>>>,
    /// Those whose client is done, by their number: its name may be another's by now, and the server still reads.
    closing: RefCell<HashMap<u64, Rc<Flow>>>,
    /// To be driven at the end of this batch of packets.
    dirty: RefCell<Vec<Rc<Flow>>>,
    timers: RefCell<Timers>,
    /// The first appointment has changed.
    earlier: Notify,
    time_waits: RefCell<VecDeque<Rc<Flow>>>,
    pool: Rc<BufferPool>,
    next_id: Cell<u64>,
}

impl UserTcp {
    pub(super) fn new(number: usize, memory: &Arc<Budget>) -> Self {
        Self {
            number,
            flows: RefCell::default(),
            closing: RefCell::default(),
            dirty: RefCell::default(),
            timers: RefCell::default(),
            earlier: Notify::new(),
            time_waits: RefCell::default(),
            pool: Rc::new(BufferPool::new(Account::new(memory))),
            next_id: Cell::new(0),
        }
    }
}

impl Worker {
    fn now(&self) -> Time {
        Time::from_micros(self.shared.epoch.elapsed().as_micros() as u64)
    }

    /// A client's segment. It is answered at the end of the batch: [`Worker::drive_dirty`].
    pub(super) fn user_tcp(self: &Rc<Self>, header: &VirtioNetHdr, frame: &[u8]) {
        let shared = &self.shared;
        let packet = frame.get(FRAME_HEADER..).unwrap_or_default();
        let Ok(ip) = IpView::parse(packet) else { return shared.stats.malformed.add() };
        let Ok(tcp) = TcpView::parse(ip.payload()) else { return shared.stats.malformed.add() };
        let vouched = header.needs_csum() || header.flags & DATA_VALID != 0;
        if !vouched && !tcp.checksum_valid(ip.src(), ip.dst()) {
            return shared.stats.malformed.add();
        }
        let key = (SocketAddr::new(ip.src(), tcp.src_port()), SocketAddr::new(ip.dst(), tcp.dst_port()));
        let segment = Segment::from_view(&tcp);
        let found = self.user.flows.borrow().get(&key).cloned();
        let Some(flow) = found else { return self.stranger(frame, packet, key, &segment) };
        let mut stage = flow.stage.borrow_mut();
        match &mut *stage {
            Stage::Dialing(dialing) => {
                if segment.flags.contains(Flags::RST) {
                    dialing.client.has_reset();
                } else if let Some(syn) = Syn::from_segment(&segment) {
                    dialing.client.again();
                    // The latest SYN has the timestamp that the client expects to be echoed (RFC 7323, 3.2).
                    dialing.syn = dialing.syn.again(syn);
                    dialing.packet = syn::held(packet);
                }
            }
            Stage::Open(open) => match self.segment(&flow, open, &segment) {
                Arrival::Processed => {}
                Arrival::NewConnection(syn) => {
                    drop(stage);
                    // Makes room for the new one. What the old one has still to pass on is its client's, too.
                    self.drive(self.now(), &flow);
                    match self.shared.owners.claim(&key, self.user.number) {
                        Ok(()) => self.ask(packet, key, syn),
                        Err(owner) => self.shared.owners.hand_over(owner, frame),
                    }
                }
            },
            Stage::Over => {}
        }
    }

    /// A segment of an open connection.
    fn segment(&self, flow: &Rc<Flow>, open: &mut Open, segment: &Segment<'_>) -> Arrival {
        let now = self.now();
        let Open { conn, upstream, waker, .. } = open;
        conn.keep_at_most(if self.user.pool.account.is_spent() { LEAST as u32 } else { u32::MAX });
        let (mut moved, mut failed) = (0, false);
        // The sender sets PSH where it has no more for now (RFC 9293 3.9.1.2).
        let more = !segment.flags.intersects(Flags::PSH | Flags::FIN);
        let had_fin = conn.has_peer_fin();
        let arrival = conn.segment_arrives(now, segment, |bytes| {
            let Some(upstream) = upstream else { return 0 };
            let mut cx = std::task::Context::from_waker(waker);
            match upstream.poll_write(&mut cx, bytes, more) {
                Poll::Ready(Ok(len)) => {
                    moved += len as u64;
                    len
                }
                Poll::Ready(Err(_)) => {
                    failed = true;
                    0
                }
                Poll::Pending => 0,
            }
        });
        // Silence counts from when the half was closed.
        if moved > 0 || conn.has_peer_fin() != had_fin {
            open.moved = now;
            open.flow.up.fetch_add(moved, Ordering::Relaxed);
        }
        open.write_failed |= failed;
        if !open.dirty {
            open.dirty = true;
            self.user.dirty.borrow_mut().push(Rc::clone(flow));
        }
        arrival
    }

    /// A segment of no connection of this worker.
    fn stranger(self: &Rc<Self>, frame: &[u8], packet: &[u8], key: Key, segment: &Segment<'_>) {
        let syn = Syn::from_segment(segment);
        let transport = match syn {
            Some(_) => Transport::Syn(segment.seq.0),
            None if segment.flags.contains(Flags::RST) => Transport::Reset,
            None => Transport::Tcp,
        };
        if self.shared.egress.returned(transport, key.0, key.1) {
            return;
        }
        if let Some(syn) = syn {
            return match self.shared.owners.claim(&key, self.user.number) {
                Ok(()) => self.ask(packet, key, syn),
                Err(owner) => self.shared.owners.hand_over(owner, frame),
            };
        }
        match self.shared.owners.of(&key) {
            Some(owner) if owner != self.user.number => self.shared.owners.hand_over(owner, frame),
            // A connection from before we were here, or one to where nothing may go: it is over.
            _ => {
                self.shared.stats.ignored.add();
                self.reset(packet);
            }
        }
    }

    /// A client asks for a new connection, which this worker owns.
    fn ask(self: &Rc<Self>, packet: &[u8], key: Key, syn: Syn) {
        let shared = &self.shared;
        let (client, dst) = key;
        let refused = match shared.guard.classify_port(dst) {
            Destination::Ordinary => None,
            Destination::Refused => {
                shared.stats.guarded.add();
                Some(Answer::Rst)
            }
            Destination::Multicast => {
                shared.stats.ignored.add();
                Some(Answer::Silent)
            }
        };
        if let Some(answer) = refused {
            shared.owners.release(&key);
            return self.answer(packet, answer);
        }
        shared.stats.tcp_opened.add();
        if self.draining() {
            shared.owners.release(&key);
            return shared.stats.ignored.add();
        }
        let full = shared.tcp_live.load(Ordering::Relaxed) >= shared.limits.tcp_connections;
        let Some(place) = Place::take(shared, client.ip()).filter(|_| !full) else {
            shared.limited(client.ip());
            shared.owners.release(&key);
            return self.reset(packet);
        };
        let id = self.user.next_id.get();
        self.user.next_id.set(id + 1);
        let asker = Rc::new(Asker::new());
        let dialing = Dialing { syn, packet: syn::held(packet), client: Rc::clone(&asker) };
        let flow = Rc::new(Flow { key, id, stage: RefCell::new(Stage::Dialing(dialing)) });
        self.user.flows.borrow_mut().insert(key, Rc::clone(&flow));
        shared.tcp_live.fetch_add(1, Ordering::Relaxed);
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            worker.user_dial(&flow, &asker).await;
            drop(place);
        });
    }

    /// Connects the outbound, then answers the client's SYN; or tells the client why not.
    async fn user_dial(self: &Rc<Self>, flow: &Rc<Flow>, asker: &Asker) {
        let shared = &self.shared;
        let (client, dst) = flow.key;
        let dispatch = shared.dispatch.load_full();
        let Some(mut destined) = shared.dns.destined(dst, dispatch.sniffs(Network::Tcp, dst.port())) else {
            shared.stats.guarded.add();
            let stage = std::mem::replace(&mut *flow.stage.borrow_mut(), Stage::Over);
            self.give_up(flow);
            if let Stage::Dialing(dialing) = stage {
                self.reset(&dialing.packet);
            }
            return;
        };
        let dscp = match &*flow.stage.borrow() {
            Stage::Dialing(dialing) => dscp(&dialing.packet),
            Stage::Open(_) | Stage::Over => 0,
        };
        let subject = Subject {
            network: Network::Tcp,
            source: client,
            inbound: Inbound::Tun,
            target: &destined.judged,
            is_fake: destined.pin.is_some(),
            dscp,
        };
        let mut choice = dispatch.choose_to_dial(&subject).await;
        let first = choice.entry;
        let target = destined.target.clone();
        let (rule, outbound) = self.labels(&choice, &target);
        let guard = shared.flows.enter(subject.arrival(), target.clone(), rule, outbound);
        let result = tokio::select! {
            result = self.dial_by(&dispatch, &mut choice, &subject, &destined) => result,
            gave_up = asker.gave_up(shared.limits.dial) => {
                if gave_up == GaveUp::Silent {
                    shared.stats.tcp_timed_out.add();
                }
                return self.give_up(flow);
            }
            () = self.ended(guard.id) => return self.give_up(flow),
        };
        let guard = self.as_it_went(guard, first, &choice);
        let (guard, result) = self.holding(guard, &mut destined, result);
        let stage = std::mem::replace(&mut *flow.stage.borrow_mut(), Stage::Over);
        let Stage::Dialing(dialing) = stage else { return self.give_up(flow) };
        if self.orders.borrow().end(guard.id) {
            return self.give_up(flow);
        }
        match result {
            Ok(connected) => {
                shared.stats.tcp_connected.add();
                guard.set_established();
                let nameless = self.nameless(&dispatch, &choice, &destined, client, dscp);
                self.open_user(flow, &dialing.syn, connected, guard, nameless);
            }
            Err(error) => {
                let answer = error.answer();
                tracing::debug!(%client, %target, rule = %guard.rule, outbound = %choice.entry.name, %error, "not connected");
                shared.not_connected(&error, client.ip());
                self.give_up(flow);
                self.answer(&dialing.packet, answer);
            }
        }
    }

    /// Forgets a connection that was not opened.
    fn give_up(&self, flow: &Rc<Flow>) {
        *flow.stage.borrow_mut() = Stage::Over;
        self.unlist(flow);
    }

    /// Answers the client's SYN.
    fn open_user(
        self: &Rc<Self>,
        flow: &Rc<Flow>,
        syn: &Syn,
        connected: Connected,
        guard: oneway_flow::FlowGuard,
        nameless: Option<Nameless>,
    ) {
        let shared = &self.shared;
        let now = self.now();
        let (client, dst) = flow.key;
        let isn = shared.isn.isn(now, dst, client);
        let offset = shared.isn.timestamp_offset(dst, client);
        let config = shared.paths.config_for(client.ip(), &shared.tcp, now);
        let mut conn = Connection::accept(&config, syn, client.is_ipv6(), isn, offset, now);
        let read = connected.early.len() as u64;
        if !connected.early.is_empty() {
            conn.send(Chunk::Owned(connected.early.into_boxed_slice()));
        }
        let mut upstream = Upstream::new(connected.stream);
        if let Some(len) = upstream.client_segment(conn.longest_received()) {
            conn.receive_at_most(len);
        }
        // A server that speaks first is in no need of a name.
        let naming = nameless.filter(|_| read == 0).map(|nameless| {
            upstream.hold(Held::Writes);
            Box::new(Naming::new(nameless))
        });
        let open = Open {
            conn,
            received: Charge::new(&self.user.pool.account),
            upstream: Some(upstream),
            flow: guard,
            waker: Waker::noop().clone(),
            appointment: None,
            dirty: false,
            moved: now,
            answered: now,
            read,
            much: false,
            unacknowledged: 0,
            naming,
            given_up: false,
            write_failed: false,
            telling: Telling::default(),
        };
        *flow.stage.borrow_mut() = Stage::Open(Box::new(open));
        self.drive(now, flow);
        let (worker, flow) = (Rc::clone(self), Rc::clone(flow));
        // The outbound's socket wakes this task; packets and timers drive the connection without it.
        tokio::task::spawn_local(poll_fn(move |cx| {
            {
                let mut stage = flow.stage.borrow_mut();
                let Stage::Open(open) = &mut *stage else { return Poll::Ready(()) };
                if open.upstream.is_none() {
                    return Poll::Ready(());
                }
                if !open.waker.will_wake(cx.waker()) {
                    open.waker = cx.waker().clone();
                }
            }
            if worker.drive(worker.now(), &flow) { Poll::Ready(()) } else { Poll::Pending }
        }));
    }

    /// Drives the connections whose packets came in this batch.
    pub(super) fn drive_dirty(self: &Rc<Self>) {
        if self.user.dirty.borrow().is_empty() {
            return;
        }
        let now = self.now();
        let mut dirty = self.user.dirty.take();
        for flow in dirty.drain(..) {
            self.drive(now, &flow);
        }
        // The list keeps its memory; nothing was added meanwhile.
        *self.user.dirty.borrow_mut() = dirty;
    }

    /// Moves what can be moved, sends what is to be sent, and makes the next appointment. Returns whether the outbound
    /// is done with.
    fn drive(self: &Rc<Self>, now: Time, flow: &Rc<Flow>) -> bool {
        let mut stage = flow.stage.borrow_mut();
        let Stage::Open(open) = &mut *stage else { return true };
        open.dirty = false;
        let (client, dst) = flow.key;
        let move_data = |open: &mut Open| {
            open.move_data(now, &self.user.pool, |conn| {
                conn.transmit(now, |out| self.emit(dst, client, out));
            })
        };
        let mut more = move_data(open);
        if open.naming.is_some() && self.look_for_name(now, flow, open) {
            more = move_data(open);
        }
        if more {
            open.waker.wake_by_ref();
        }
        if open.is_over()
            && let Some(upstream) = open.upstream.take()
        {
            self.shared.tcp_live.fetch_sub(1, Ordering::Relaxed);
            if open.failed() {
                self.shared.stats.tcp_reset.add();
                upstream.reset();
            } else {
                drop(upstream);
            }
            if open.conn.state() == State::TimeWait {
                open.flow.set_over();
                self.rest(flow);
            }
            // The socket is gone and wakes nobody any more; its task is to see that and end.
            open.waker.wake_by_ref();
        }
        let done = open.upstream.is_none();
        if open.conn.state() == State::Closed {
            // The same client may ask for the same connection again at once.
            self.unlist_if_same(flow);
            let mut closing = self.user.closing.borrow_mut();
            if done {
                closing.remove(&flow.id);
            } else {
                closing.insert(flow.id, Rc::clone(flow));
            }
        }
        if done && open.conn.state() == State::Closed {
            self.user.timers.borrow_mut().cancel(flow, &mut open.appointment);
            *stage = Stage::Over;
        } else if let Some(at) = open.next_timeout(&self.shared.limits)
            && self.user.timers.borrow_mut().set(flow, &mut open.appointment, at)
        {
            self.user.earlier.notify_one();
        }
        done
    }

    /// A connection goes to rest in TIME-WAIT; when too many do, the oldest is forgotten.
    fn rest(&self, flow: &Rc<Flow>) {
        let mut resting = self.user.time_waits.borrow_mut();
        resting.push_back(Rc::clone(flow));
        if resting.len() > TIME_WAITS
            && let Some(oldest) = resting.pop_front()
        {
            let mut stage = oldest.stage.borrow_mut();
            if let Stage::Open(open) = &mut *stage {
                self.user.timers.borrow_mut().cancel(&oldest, &mut open.appointment);
            }
            *stage = Stage::Over;
            self.unlist_if_same(&oldest);
        }
        // Those that have ended since. The one that goes to rest now is in use.
        let ended =
            |flow: &Rc<Flow>| flow.stage.try_borrow().is_ok_and(|stage| matches!(*stage, Stage::Over));
        while resting.front().is_some_and(ended) {
            resting.pop_front();
        }
    }

    /// Takes a connection that never opened out of the tables.
    fn unlist(&self, flow: &Rc<Flow>) {
        self.shared.tcp_live.fetch_sub(1, Ordering::Relaxed);
        self.unlist_if_same(flow);
    }

    fn unlist_if_same(&self, flow: &Rc<Flow>) {
        let mut flows = self.user.flows.borrow_mut();
        if flows.get(&flow.key).is_some_and(|found| Rc::ptr_eq(found, flow)) {
            flows.remove(&flow.key);
            self.shared.owners.release(&flow.key);
        }
    }

    /// Hands a segment to the kernel, its data from where they lie.
    fn emit(&self, src: SocketAddr, dst: SocketAddr, segment: &Outgoing<'_>) {
        let mut headers = [0; MAX_HEADERS];
        let Ok(len) = segment.write_headers(&mut headers, src, dst) else {
            return self.shared.stats.tun_write_failed.add();
        };
        let mut slices = [IoSlice::new(&[]); 1 + Payload::MAX_PARTS];
        let mut count = 0;
        let parts = std::iter::once(headers.get(..len).unwrap_or_default())
            .chain(segment.payload.parts().iter().copied());
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        match self.queue.get_ref().write_vectored(slices.get(..count).unwrap_or_default()) {
            Ok(()) => self.shared.stats.tun_written.add(),
            // A packet that the device cannot take is lost, as on any full link; it is sent again.
            Err(_) => self.shared.stats.tun_write_failed.add(),
        }
    }

    /// Keeps the appointments.
    pub(super) async fn user_timers(self: Rc<Self>) {
        loop {
            let next = self.user.timers.borrow().next();
            let changed = self.user.earlier.notified();
            match next {
                None => changed.await,
                Some(at) => {
                    let at = self.shared.epoch + Duration::from_micros(at.as_micros());
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = changed => continue,
                    }
                }
            }
            let now = self.now();
            loop {
                let due = self.user.timers.borrow_mut().due(now);
                let Some(flow) = due else { break };
                self.appointment(now, &flow);
            }
        }
    }

    fn appointment(self: &Rc<Self>, now: Time, flow: &Rc<Flow>) {
        {
            let mut stage = flow.stage.borrow_mut();
            let Stage::Open(open) = &mut *stage else { return };
            open.appointment = None;
            if open.is_silent(now, &self.shared.limits) {
                open.give_up();
            }
            open.conn.timeout(now);
            if let Some(at) = open.next_timeout(&self.shared.limits)
                && at > now
                && open.conn.is_quiet()
            {
                // It came early only because the connection's timer had moved on.
                self.user.timers.borrow_mut().set(flow, &mut open.appointment, at);
                return;
            }
        }
        self.drive(now, flow);
    }

    /// Hands memory back to the system when most of what many connections have held is free.
    pub(super) async fn hand_back_memory(self: Rc<Self>) {
        let mut tick = tokio::time::interval(LULL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.shared.memory.is_past_peak() {
                let _ = tokio::task::spawn_blocking(oneway_flow::hand_back_memory).await;
            }
        }
    }

    /// A router says, by the ICMP message in `packet`, that a connection's segment with sequence number `seq` was too
    /// long for it.
    pub(super) fn user_path_mtu(self: &Rc<Self>, packet: &[u8], key: Key, mtu: u32, seq: u32) {
        let found = self.user.flows.borrow().get(&key).cloned();
        let Some(flow) = found else {
            return match self.shared.owners.of(&key) {
                Some(owner) if owner != self.user.number => {
                    let frame = [&[0; FRAME_HEADER], packet].concat();
                    self.shared.owners.hand_over(owner, &frame);
                }
                _ => self.shared.stats.ignored.add(),
            };
        };
        let now = self.now();
        if let Stage::Open(open) = &mut *flow.stage.borrow_mut() {
            // 0 is a router's that is older than RFC 1191; the connection has a floor for it.
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            if let Some(mtu) = open.conn.path_mtu(mtu, Seq(seq)) {
                self.shared.paths.learn(key.0.ip(), mtu, now);
            }
        }
        self.drive(now, &flow);
    }

    /// Takes packets of this worker's connections that came to another one's queue.
    pub(super) async fn user_mail(self: Rc<Self>, mut mail: Receiver<Vec<u8>>) {
        while let Some(mut frame) = mail.recv().await {
            self.packet(&mut frame);
            self.end_batch();
        }
    }

    /// Resets connections that are not allowed any more, and all when the engine stops.
    pub(super) async fn user_drain(self: Rc<Self>) {
        let mut orders = self.orders.clone();
        loop {
            let gone = orders.changed().await.is_err();
            let now_ordered = orders.borrow_and_update().clone();
            let all = gone || now_ordered.phase != Phase::Run;
            let now = self.now();
            let mut flows: Vec<_> = self.user.flows.borrow().values().cloned().collect();
            flows.extend(self.user.closing.borrow().values().cloned());
            for flow in flows {
                match &mut *flow.stage.borrow_mut() {
                    Stage::Open(open) if all || now_ordered.end(open.flow.id) => open.give_up(),
                    _ => continue,
                }
                self.drive(now, &flow);
            }
            if all {
                return;
            }
        }
    }
}
