//! TCP: a SYN is held until the outbound is connected; then the kernel's own TCP is let in.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use oneway_capture::FRAME_HEADER;
use oneway_egress::{FlowEnd, Transport};
use oneway_flow::{End, FlowGuard, Inbound, Network, Relay, Tunnel, reset_on_close};
use oneway_outbound::{Answer, Connected, DialError};
use oneway_stack::nat::{Conn, Direction, OpenError, State};
use oneway_wire::emit::{IpHeader, Unreachable, ip_header};
use oneway_wire::ip::{IpView, protocol};
use oneway_wire::rewrite::{Offsets, rewrite_at};
use oneway_wire::tcp::{Flags, TcpView};
use oneway_wire::virtio::{DATA_VALID, NEEDS_CSUM};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

use super::acks::Says;
use super::asker::{Asker, GaveUp};
use super::dials::Place;
use super::shortcut::{self, Shortcut};
use super::sniff::{Nameless, Renamed};
use super::{Shared, Worker, dscp, syn};
use crate::config::StackKind;
use crate::dispatch::Subject;
use crate::dns::Destined;
use crate::guard::Destination;

/// What a translated connection keeps while it is dialled.
#[derive(Debug)]
pub(crate) struct Held {
    /// The client's latest SYN, as a frame; taken out when it is handed to the kernel.
    syn: Mutex<Box<[u8]>>,
    client: Asker,
    pub(super) shortcut: Shortcut,
}

/// A connected outbound whose client has yet to be accepted.
#[derive(Debug)]
pub(super) struct Waiting {
    connected: Connected,
    /// What its client may tell.
    nameless: Option<Nameless>,
    conn: Arc<Conn<Held>>,
    flow: FlowGuard,
    live: Live,
    since: Instant,
    /// How many this worker had accepted by then.
    accepted: u64,
}

/// Counts a connection for as long as it may hold descriptors. Without a limit on them, the kernel would shake hands with
/// clients whose connections we then have no descriptor for.
#[derive(Debug)]
pub(super) struct Live(Arc<Shared>, usize);

impl Live {
    /// None at the limit.
    pub(super) fn new(shared: &Arc<Shared>) -> Option<Self> {
        Self::take(shared, 1)
    }

    /// The places of so many connections, for one that holds as many descriptors as they would.
    fn take(shared: &Arc<Shared>, places: usize) -> Option<Self> {
        let most = shared.limits.tcp_connections;
        // All workers count here, so that looking and taking are one step.
        let taken = shared.tcp_live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |live| {
            (live + places <= most).then_some(live + places)
        });
        taken.is_ok().then(|| Self(Arc::clone(shared), places))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.tcp_live.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Shared {
    /// A limit refuses a connection of `source`.
    pub(super) fn limited(&self, source: IpAddr) {
        self.stats.tcp_limited.add();
        if !self.said_limited.lock().may(Instant::now()) {
            return;
        }
        let (live, (dialing, from_here)) = (self.tcp_live.load(Ordering::Relaxed), self.dials.of(source));
        let limits = &self.limits;
        let why = if dialing >= limits.dialing.all {
            format!("{dialing} wait for their outbound already")
        } else if from_here >= limits.dialing.of_source {
            format!("{from_here} of {source} wait for their outbound already, as many as of one source may")
        } else {
            format!("{live} of {} places for open ones are taken", limits.tcp_connections)
        };
        tracing::warn!(
            "connections are refused: {why}; more open files allow more (ulimit -Hn, LimitNOFILE=), and \
             `oneway status` counts those refused by a limit"
        );
    }

    /// Counts a connection whose outbound was not connected.
    pub(super) fn not_connected(&self, error: &DialError, source: IpAddr) {
        match (error, error.answer()) {
            (DialError::Limit, _) => self.limited(source),
            (_, Answer::Silent) => self.stats.tcp_timed_out.add(),
            _ => self.stats.tcp_refused.add(),
        }
    }
}

impl Worker {
    /// Has a flow hold what it needs for as long as it lives: its address, and the places of what it holds besides the
    /// descriptors that each does. Where there are none left it is not connected.
    pub(super) fn holding(
        &self,
        flow: FlowGuard,
        destined: &mut Destined,
        result: Result<Connected, DialError>,
    ) -> (FlowGuard, Result<Connected, DialError>) {
        let shared = &self.shared;
        let besides: usize = match &result {
            Ok(connected) if connected.stream.is_tunnel() => 2,
            // The other end of a pair.
            Ok(_) if shared.dns.hijacks(destined.target.addr).is_some() => 1,
            _ => 0,
        };
        // With the system stack each place is of two.
        let places = match shared.stack {
            StackKind::User => besides,
            StackKind::System => besides.div_ceil(2),
        };
        let pin = destined.pin.take();
        if places == 0 {
            return (flow.holding(pin), result);
        }
        match Live::take(shared, places) {
            Some(live) => (flow.holding((pin, live)), result),
            None => (flow.holding(pin), result.and(Err(DialError::Limit))),
        }
    }
}

impl Worker {
    /// The kernel's TCP sent a segment to `client`, in the name of `server`, that is too long for a link on its way. It
    /// knows the connection by other addresses, and is told in those. `segment` is what was quoted of it.
    pub(super) fn system_path_mtu(&self, client: SocketAddr, server: SocketAddr, mtu: u32, segment: &[u8]) {
        let stats = &self.shared.stats;
        let Some(conn) = self.shared.nat.by_client(client, server) else { return stats.ignored.add() };
        let Some((_, rest)) = segment.split_first_chunk::<4>() else { return stats.malformed.add() };
        let header = IpHeader::new(conn.local.ip(), conn.peer.ip(), protocol::TCP);
        let mut packet = Vec::new();
        if ip_header(&mut packet, &header, segment.len()).is_ok() {
            packet.extend_from_slice(&conn.local.port().to_be_bytes());
            packet.extend_from_slice(&conn.peer.port().to_be_bytes());
            packet.extend_from_slice(rest);
            self.unreachable(&packet, Unreachable::FragNeeded { mtu });
        }
    }

    /// A TCP segment, of either side of the translation.
    pub(super) fn tcp(self: &Rc<Self>, frame: &mut [u8]) {
        let shared = &self.shared;
        let Some((header, packet)) = frame.split_first_chunk_mut::<FRAME_HEADER>() else { return };
        let partial = header[0] & NEEDS_CSUM != 0;
        let Ok(ip) = IpView::parse(packet) else { return shared.stats.malformed.add() };
        let (Ok(tcp), Ok(offsets)) = (TcpView::parse(ip.payload()), Offsets::of(&ip)) else {
            return shared.stats.malformed.add();
        };
        let (src, dst) =
            (SocketAddr::new(ip.src(), tcp.src_port()), SocketAddr::new(ip.dst(), tcp.dst_port()));
        let (payload, says) = (tcp.payload().len() as u32, Says::of(&tcp));

        if self.is_own_listener(src) {
            let Some(conn) = shared.nat.by_local(dst, src) else { return shared.stats.ignored.add() };
            conn.observe(Direction::FromLocal, &tcp, payload);
            self.shorten(&conn, tcp.flags(), payload);
            if rewrite_at(packet, &offsets, conn.target, conn.client, partial).is_ok() {
                self.pass((src, dst), says, frame);
            }
            return;
        }
        let flags = tcp.flags();
        // What begins or ends something is acted on here. The rest is looked at by the kernel's TCP, which sees a
        // checksum that was wrong still wrong behind the translation.
        if flags.intersects(Flags::SYN | Flags::RST | Flags::FIN)
            && header[0] & (NEEDS_CSUM | DATA_VALID) == 0
            && !tcp.checksum_valid(ip.src(), ip.dst())
        {
            return shared.stats.malformed.add();
        }
        let is_syn = flags.contains(Flags::SYN) && !flags.intersects(Flags::ACK | Flags::RST);
        let transport = match is_syn {
            true => Transport::Syn(tcp.seq()),
            false if flags.contains(Flags::RST) => Transport::Reset,
            false => Transport::Tcp,
        };
        match shared.nat.by_client(src, dst) {
            Some(conn) => match conn.state() {
                State::Dialing if flags.contains(Flags::RST) => conn.data.client.has_reset(),
                // The latest SYN has the timestamp that the client expects to be echoed (RFC 7323, 3.2).
                State::Dialing if is_syn => {
                    conn.data.client.again();
                    *conn.data.syn.lock() = syn::held_frame(frame);
                }
                State::Dialing => shared.stats.ignored.add(),
                State::Closed if is_syn => self.open(frame, src, dst),
                State::Open | State::Closed => {
                    conn.observe(Direction::FromClient, &tcp, payload);
                    self.shorten(&conn, flags, payload);
                    if rewrite_at(packet, &offsets, conn.peer, conn.local, partial).is_ok() {
                        self.pass((src, dst), says, frame);
                    }
                }
            },
            None if shared.egress.returned(transport, src, dst) => {}
            None if is_syn => self.open(frame, src, dst),
            // A connection from before we were here, or one to where nothing may go: it is over.
            None => {
                shared.stats.ignored.add();
                self.reset(packet);
            }
        }
    }

    /// Hands on a translated segment, which had these ends before: now, or at the end of the batch.
    fn pass(&self, ends: (SocketAddr, SocketAddr), says: Says, frame: &[u8]) {
        let mut acks = self.acks.borrow_mut();
        acks.before(ends, says, |earlier| self.write(earlier));
        if !acks.keep(ends, says, frame) {
            self.write(frame);
        }
    }

    /// Whether an address is one of the listeners of any worker: all stand on the TUN's own address, from which the
    /// kernel sends nothing else but what those listeners say.
    fn is_own_listener(&self, src: SocketAddr) -> bool {
        self.shared.listeners.contains(&src)
    }

    /// A client's SYN for a new connection.
    fn open(self: &Rc<Self>, frame: &[u8], client: SocketAddr, dst: SocketAddr) {
        let shared = &self.shared;
        let packet = frame.get(FRAME_HEADER..).unwrap_or_default();
        match shared.guard.classify_port(dst) {
            Destination::Ordinary => {}
            Destination::Refused => {
                shared.stats.guarded.add();
                return self.reset(packet);
            }
            Destination::Multicast => return shared.stats.ignored.add(),
        }
        let listener = if dst.is_ipv4() { self.listener_v4 } else { self.listener_v6 };
        let Some(listener) = listener else {
            shared.stats.tcp_refused.add();
            return self.answer(packet, Answer::IcmpNet);
        };
        shared.stats.tcp_opened.add();
        if self.draining() {
            return shared.stats.ignored.add();
        }
        let place = Place::take(shared, client.ip());
        let Some((place, live)) = place.and_then(|place| Some((place, Live::new(shared)?))) else {
            shared.limited(client.ip());
            return self.reset(packet);
        };
        let held = Held {
            syn: Mutex::new(syn::held_frame(frame)),
            client: Asker::new(),
            shortcut: Shortcut::default(),
        };
        match shared.nat.open(client, dst, listener, held) {
            Ok(conn) => drop(tokio::task::spawn_local(Rc::clone(self).dial(conn, live, place))),
            // Another queue was faster with the same SYN.
            Err(OpenError::Exists) => {}
            Err(OpenError::NoPort | OpenError::TooMany) => {
                shared.limited(client.ip());
                self.reset(packet);
            }
        }
    }

    /// Connects the outbound, then lets the client in; or tells the client why not.
    async fn dial(self: Rc<Self>, conn: Arc<Conn<Held>>, live: Live, _place: Place) {
        let shared = &self.shared;
        let dispatch = shared.dispatch.load_full();
        let tell = dispatch.sniffs(Network::Tcp, conn.target.port());
        let Some(mut destined) = shared.dns.destined(conn.target, tell) else {
            shared.stats.guarded.add();
            let syn = std::mem::take(&mut *conn.data.syn.lock());
            shared.nat.forget(&conn);
            return self.reset(syn.get(FRAME_HEADER..).unwrap_or_default());
        };
        let dscp = dscp(conn.data.syn.lock().get(FRAME_HEADER..).unwrap_or_default());
        let subject = Subject {
            network: Network::Tcp,
            source: conn.client,
            inbound: Inbound::Tun,
            target: &destined.judged,
            is_fake: destined.pin.is_some(),
            dscp,
        };
        let mut choice = dispatch.choose_to_dial(&subject).await;
        let first = choice.entry;
        let target = destined.target.clone();
        let (rule, outbound) = self.labels(&choice, &target);
        let flow = shared.flows.enter(subject.arrival(), target.clone(), rule, outbound);
        let result = tokio::select! {
            result = self.dial_by(&dispatch, &mut choice, &subject, &destined) => result,
            gave_up = conn.data.client.gave_up(shared.limits.dial) => {
                if gave_up == GaveUp::Silent {
                    shared.stats.tcp_timed_out.add();
                }
                shared.nat.forget(&conn);
                return;
            }
            () = self.ended(flow.id) => {
                shared.nat.forget(&conn);
                return;
            }
        };
        let flow = self.as_it_went(flow, first, &choice);
        let (flow, result) = self.holding(flow, &mut destined, result);
        let syn = std::mem::take(&mut *conn.data.syn.lock());
        match result {
            Ok(connected) => {
                shared.stats.tcp_connected.add();
                if !conn.set_open() {
                    return shared.nat.forget(&conn);
                }
                flow.set_established();
                let nameless = self.nameless(&dispatch, &choice, &destined, conn.client, dscp);
                let peer = conn.peer;
                let (from, to) = (conn.peer, conn.local);
                let (since, accepted) = (Instant::now(), self.accepted.get());
                let waiting = Waiting { connected, nameless, conn, flow, live, since, accepted };
                self.waiting.borrow_mut().insert(peer, waiting);
                self.let_in(syn, from, to);
            }
            Err(error) => {
                let answer = error.answer();
                tracing::debug!(client = %conn.client, %target, rule = %flow.rule, outbound = %choice.entry.name, %error, "not connected");
                shared.not_connected(&error, conn.client.ip());
                shared.nat.forget(&conn);
                self.answer(syn.get(FRAME_HEADER..).unwrap_or_default(), answer);
            }
        }
    }

    /// Hands a held SYN to the kernel under the connection's other name.
    fn let_in(&self, mut syn: Box<[u8]>, peer: SocketAddr, local: SocketAddr) {
        let Some((header, packet)) = syn.split_first_chunk_mut::<FRAME_HEADER>() else { return };
        let partial = header[0] & NEEDS_CSUM != 0;
        let Ok(offsets) = Offsets::parse(packet) else { return };
        if rewrite_at(packet, &offsets, peer, local, partial).is_ok() {
            self.write(&syn);
        }
    }

    /// Takes in the connections that the kernel has finished shaking hands with.
    pub(super) async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let peer = SocketAddr::new(peer.ip(), peer.port());
                    let waiting = self.waiting.borrow_mut().remove(&peer);
                    self.accepted.set(self.accepted.get() + 1);
                    match waiting {
                        Some(waiting) => {
                            tokio::task::spawn_local(Rc::clone(&self).relay(stream, waiting));
                        }
                        // Nobody is to reach this listener but by the translation.
                        None => {
                            reset_on_close(&stream);
                        }
                    }
                }
                // Out of descriptors, or the client was gone: the next one may do better. Without the pause a
                // full table would spin.
                Err(error) => {
                    tracing::debug!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Carries one connection until it ends.
    async fn relay(self: Rc<Self>, mut client: TcpStream, waiting: Waiting) {
        let Waiting { mut connected, nameless, conn, mut flow, live: _live, .. } = waiting;
        if let Some(nameless) = nameless.filter(|_| connected.early.is_empty()) {
            let name = tokio::select! {
                name = self.wait_for_name(&client, &connected.stream, &nameless) => name,
                () = self.ended(flow.id) => Ok(None),
            };
            let renamed = match name {
                Ok(Some(name)) => self.by_name(&nameless, name).await,
                Ok(None) => Some(Renamed { flow, connected: None }),
                Err(_) => None,
            };
            // What was only looked at is no news any more; a socket that is registered anew tells what it has.
            match (renamed, client.into_std().and_then(TcpStream::from_std)) {
                (Some(renamed), Ok(again)) => {
                    client = again;
                    flow = renamed.flow;
                    connected = renamed.connected.unwrap_or(connected);
                }
                (_, again) => {
                    if let Ok(client) = again {
                        reset_on_close(&client);
                    }
                    reset(&mut connected);
                    self.shared.stats.tcp_reset.add();
                    shortcut::end(&self.shared, &conn);
                    return self.shared.nat.close(Instant::now(), &conn);
                }
            }
        }
        let stop = self.ended(flow.id);
        let tie = connected.stream.take_tie().map(Tie);
        let relay = Relay {
            client,
            upstream: connected.stream,
            tunnel: tie.as_ref().map(|tie| tie as &dyn Tunnel),
            early: connected.early,
            up: &flow.up,
            down: &flow.down,
            half_closed_limit: self.shared.limits.half_closed,
        };
        match relay.run(&self.pipes, stop).await {
            End::Closed => {}
            End::Reset { .. } | End::Silent => self.shared.stats.tcp_reset.add(),
            End::Stopped => {
                self.shared.stats.tcp_reset.add();
                // All relays stop in one turn. The device holds 500 packets (`TUN_READQ_SIZE`, drivers/net/tun.c); of
                // more resets than that the rest would be lost, and with them the word that the connection is over.
                self.carry_waiting();
            }
        }
        shortcut::end(&self.shared, &conn);
        self.shared.nat.close(Instant::now(), &conn);
    }

    /// Gives up connected outbounds whose client never finished the handshake, or has reset the connection in place of that,
    /// which the kernel's TCP keeps to itself.
    pub(super) fn forget_waiting(&self, now: Instant) {
        let limit = self.shared.limits.accept;
        // Of the clients that say no more, as in a flood of SYNs, the kernel's TCP has answered some. What a filter drops it does
        // not even see.
        let is_let_in = self.waiting.borrow().values().any(|waiting| waiting.conn.is_answered());
        self.waiting.borrow_mut().retain(|_, waiting| {
            let is_reset = waiting.conn.is_finished();
            let is_late = now.saturating_duration_since(waiting.since) >= limit;
            if is_reset {
                self.shared.stats.tcp_reset.add();
                reset(&mut waiting.connected);
            } else if is_late && !is_let_in && waiting.accepted == self.accepted.get() {
                // One client that is gone is none of our business; that nobody came since is.
                self.say_not_let_in(now, &waiting.conn);
            }
            let over = is_reset || is_late;
            if over {
                shortcut::end(&self.shared, &waiting.conn);
                self.shared.nat.close(now, &waiting.conn);
            }
            !over
        });
    }

    /// Says that the kernel's TCP gets nothing of what is handed to it, such as this connection.
    fn say_not_let_in(&self, now: Instant, conn: &Conn<Held>) {
        if self.shared.not_let_in.lock().may(now) {
            tracing::warn!(
                "connections are handed to this host's TCP and none arrives: most likely a packet filter has begun to drop \
                 what comes from {} to {}; let it in, or take --stack user",
                conn.peer.ip(),
                conn.local.ip(),
            );
        }
    }
}

/// Has the far end see a reset when this is dropped.
fn reset(connected: &mut Connected) {
    reset_on_close(&connected.stream);
    if let Some(tie) = connected.stream.take_tie() {
        tie.reset();
    }
}

/// What a relay knows a tunnel by.
#[derive(Debug)]
pub(super) struct Tie(pub(super) FlowEnd);

impl Tunnel for Tie {
    fn is_cut(&self) -> bool {
        self.0.is_cut()
    }

    fn failed(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.0.failed())
    }

    fn reset(&self) {
        self.0.reset();
    }
}
