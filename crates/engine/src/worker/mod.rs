//! One thread of the data path: its TUN queue, its listeners, its flows.
//!
//! ```text
//! Queue ─▶ packet ─▶ tcp ─▶ NAT ─▶ Queue ─▶ kernel's TCP ─▶ accept ─▶ relay ─▶ outbound's socket
//!                 ├▶ udp ─▶ session ─▶ outbound's socket
//!                 └▶ icmp ─▶ echo session
//! ```
//!
//! Everything of a worker runs on its own thread and waits in one epoll. What workers share is in [`Shared`]; the
//! kernel may hand any packet to any queue.

pub(crate) use dials::Dials;
pub(crate) use handed::Handed;
pub(crate) use icmp::EchoSessions;
pub(crate) use udp::{QuicNames, Sessions};
pub(crate) use user::{Budget, Owners, Paths};

mod accepted;
mod acks;
mod ask;
mod asker;
mod dial;
mod dials;
mod dns;
mod handed;
mod icmp;
mod reply;
mod shortcut;
mod sniff;
mod sources;
mod syn;
mod tcp;
mod udp;
mod user;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use oneway_capture::shortcut::Shortcuts;
use oneway_capture::tun::Queue;
use oneway_capture::{FRAME_HEADER, MAX_FRAME};
use oneway_egress::Egress;
use oneway_flow::{FlowTable, Inbound, PipePool};
use oneway_stack::fragment::{Outcome, Reason, Reassembler};
use oneway_stack::nat::Nat;
use oneway_stack::offload::Coalescer;
use oneway_stack::tcp::IsnGenerator;
use oneway_wire::ip::{IpView, protocol};
use oneway_wire::virtio::VirtioNetHdr;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tracing::warn;

use self::acks::Acks;
use crate::config::StackKind;
use crate::dispatch::{Dispatch, Entry, Subject};
use crate::dns::Dns;
use crate::guard::{Destination, Guard};
use crate::limits::Limits;
use crate::stats::Stats;
use crate::watched::OncePerMinute;

/// What all workers use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) nat: Nat<tcp::Held>,
    /// Where the kernel can rename packets by itself.
    pub(crate) shortcuts: Option<Shortcuts>,
    pub(crate) flows: Arc<FlowTable>,
    /// Whether TCP is carried by our own stack.
    pub(crate) stack: StackKind,
    /// What the connections of our own stack have in common.
    pub(crate) tcp: Arc<oneway_stack::tcp::Config>,
    pub(crate) isn: IsnGenerator,
    pub(crate) owners: Owners,
    pub(crate) paths: Paths,
    /// What the connections of our own stack may hold.
    pub(crate) memory: Arc<Budget>,
    /// Connections with an outbound, dialled ones among them.
    pub(crate) tcp_live: AtomicUsize,
    pub(crate) dials: Dials,
    /// Where the time of our own stack begins.
    pub(crate) epoch: Instant,
    pub(crate) stats: Stats,
    /// Replaced as a whole when the configuration is read again.
    pub(crate) dispatch: ArcSwap<Dispatch>,
    /// Tells that it was.
    pub(crate) replaced: watch::Sender<()>,
    pub(crate) dns: Dns,
    pub(crate) egress: Arc<Egress>,
    pub(crate) guard: Guard,
    pub(crate) limits: Limits,
    /// Workers that have done [`Phase::Flush`].
    pub(crate) flushed: AtomicUsize,
    pub(crate) udp: udp::Sessions,
    pub(crate) quic: QuicNames,
    pub(crate) echo: icmp::EchoSessions,
    pub(crate) fragments: Mutex<Reassembler>,
    /// The listeners of all workers. They stand on the TUN's own addresses.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Says that none of them gets anything.
    pub(crate) not_let_in: Mutex<OncePerMinute>,
    /// Says that a limit refuses connections.
    pub(crate) said_limited: Mutex<OncePerMinute>,
    /// Says that packets are not recorded.
    pub(crate) not_recorded: Mutex<OncePerMinute>,
    /// Addresses on the TUN's network that nobody has: where ICMP errors come from.
    pub(crate) router_v4: IpAddr,
    pub(crate) router_v6: IpAddr,
}

/// What the lifecycle tells the workers.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) phase: Phase,
    /// Flows to be reset, by number: the configuration does not allow them any more.
    pub(crate) doomed: Arc<HashSet<u64>>,
}

impl Default for Orders {
    fn default() -> Self {
        Self { phase: Phase::Run, doomed: Arc::default() }
    }
}

impl Orders {
    /// Whether this flow is to be reset.
    pub(crate) fn end(&self, flow: u64) -> bool {
        self.phase != Phase::Run || self.doomed.contains(&flow)
    }
}

/// How far the engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Carry traffic.
    Run,
    /// Reset the live flows; the packets that this takes still pass. New connections are not answered: their clients
    /// ask again a second later (RFC 6298, 2.1), when nothing is captured any more.
    Drain,
    /// Carry every packet that is waiting, once, and say so in [`Shared::flushed`].
    Flush,
    /// End the thread.
    Stop,
}

/// What one worker is made of.
pub(crate) struct Parts {
    pub(crate) queue: Queue,
    pub(crate) listeners: Vec<TcpListener>,
    /// What the packet filter hands over comes by these.
    pub(crate) handed: Handed,
    /// Which worker this is.
    pub(crate) number: usize,
    /// Packets of its connections that came to another worker.
    pub(crate) mail: Receiver<Vec<u8>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) orders: watch::Receiver<Orders>,
}

/// A worker, on its own thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    queue: AsyncFd<Queue>,
    /// Where new connections of each family are made to end.
    listener_v4: Option<SocketAddr>,
    listener_v6: Option<SocketAddr>,
    /// Connected outbounds whose client has not been accepted yet, by the peer's address and the listener's family.
    waiting: RefCell<HashMap<SocketAddr, tcp::Waiting>>,
    /// Connections that a listener has accepted.
    accepted: Cell<u64>,
    pipes: PipePool,
    outbox: RefCell<udp::Outbox>,
    /// Of the next IPv4 datagram to a client.
    identification: Cell<u16>,
    acks: RefCell<Acks>,
    user: user::UserTcp,
    /// Datagrams of clients that are being asked about.
    asking: RefCell<ask::Asking>,
    ears: icmp::Ears,
    /// Queries that wait for an upstream.
    dns_waiting: Cell<usize>,
    orders: watch::Receiver<Orders>,
}

/// Bytes of one batch that show a transfer: its sender has more in a moment, and being woken for it costs more than
/// letting it run first.
const BULK: usize = 32 * 1024;

/// A device that is deleted has an error and nothing to read (`tun_chr_poll`, drivers/net/tun.c).
const WATCHED: Interest = Interest::READABLE.add(Interest::ERROR);

/// Frames handled before other tasks of the worker get their turn.
const BATCH: usize = 64;

/// The same where packets are joined first: most of them are acknowledgments then, or long.
const JOINED: usize = 32;

/// Why a worker cannot go on.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It could not begin.
    Start(io::Error),
    /// The device is gone, or does not work any more.
    Device(io::Error),
}

/// Runs a worker until [`Phase::Stop`], or until its device is gone.
pub(crate) fn run(parts: Parts) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Packets come in by the I/O driver: look there more often than tokio's 61.
        .event_interval(31)
        .build()
        .map_err(Failed::Start)?;
    LocalSet::new().block_on(&runtime, async move {
        let Parts { queue, listeners, handed, number, mail, shared, orders } = parts;
        let mut stop = orders.clone();
        let mut listener_v4 = None;
        let mut listener_v6 = None;
        let mut acceptors = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let address = listener.local_addr().map_err(Failed::Start)?;
            if address.is_ipv4() {
                listener_v4 = Some(address);
            } else {
                listener_v6 = Some(address);
            }
            acceptors.push(tokio::net::TcpListener::from_std(listener).map_err(Failed::Start)?);
        }
        if number == 0 {
            tokio::task::spawn_local(keep_outbounds(Arc::clone(&shared)));
        }
        let has_faults = queue.has_faults();
        let user = user::UserTcp::new(number, &shared.memory);
        let worker = Rc::new(Worker {
            shared,
            queue: queue.into_async().map_err(Failed::Start)?,
            listener_v4,
            listener_v6,
            waiting: RefCell::default(),
            accepted: Cell::default(),
            pipes: PipePool::default(),
            outbox: RefCell::default(),
            // Workers begin apart: a client's datagrams may come by several.
            identification: Cell::new((number as u16).wrapping_mul(0x2000)),
            acks: RefCell::default(),
            user,
            asking: RefCell::default(),
            ears: icmp::Ears::default(),
            dns_waiting: Cell::new(0),
            orders,
        });
        for acceptor in acceptors {
            tokio::task::spawn_local(Rc::clone(&worker).accept(acceptor));
        }
        worker.take_handed(handed).map_err(Failed::Start)?;
        let mut sweep = tokio::task::spawn_local(Rc::clone(&worker).sweep());
        tokio::task::spawn_local(Rc::clone(&worker).flush());
        if worker.shared.stack == StackKind::User {
            tokio::task::spawn_local(Rc::clone(&worker).user_timers());
            tokio::task::spawn_local(Rc::clone(&worker).user_drain());
            tokio::task::spawn_local(Rc::clone(&worker).user_mail(mail));
            if number == 0 {
                tokio::task::spawn_local(Rc::clone(&worker).hand_back_memory());
            }
        }
        tokio::task::spawn_local(Rc::clone(&worker).drain_sessions());
        if has_faults {
            tokio::task::spawn_local(Rc::clone(&worker).release_delayed());
        }
        let end = tokio::select! {
            // Data are moved on from here as well; how much is bounded by `BATCH`, not by tokio.
            end = tokio::task::unconstrained(worker.pump()) => end,
            _ = stop.wait_for(|orders| orders.phase == Phase::Stop) => Ok(()),
            Ok(lost) = &mut sweep => Err(lost),
        };
        worker.record();
        end.map_err(Failed::Device)
    })
}

/// Follows the names of proxies and checks the members of groups, for the outbounds that there are.
async fn keep_outbounds(shared: Arc<Shared>) {
    let mut replaced = shared.replaced.subscribe();
    loop {
        replaced.borrow_and_update();
        let dispatch = shared.dispatch.load_full();
        let mut tasks = JoinSet::new();
        crate::dns::keep_proxies(&shared, &dispatch, &mut tasks);
        crate::group::check::keep(&shared, &dispatch, &mut tasks);
        if replaced.changed().await.is_err() {
            return;
        }
    }
}

impl Worker {
    /// Reads packets for as long as the device is there.
    async fn pump(self: &Rc<Self>) -> io::Result<()> {
        // The kernel's TCP would not take what is joined here but in pieces again.
        if !self.queue.get_ref().offload().tcp_segmentation && self.shared.stack == StackKind::User {
            return self.pump_joined().await;
        }
        let mut frame = vec![0; MAX_FRAME];
        loop {
            let mut ready = self.queue.ready(WATCHED).await?;
            let mut drained = false;
            let (mut bulk, mut waited) = (0, false);
            for _ in 0..BATCH {
                match ready.get_inner().read(&mut frame) {
                    Ok(len) => {
                        bulk += len;
                        self.packet(frame.get_mut(..len).unwrap_or_default());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && bulk >= BULK && !waited => {
                        waited = true;
                        rustix::thread::sched_yield();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        drained = true;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.end_batch();
            if !drained {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The same for a device that hands over superpackets in pieces.
    async fn pump_joined(self: &Rc<Self>) -> io::Result<()> {
        let mut batch = Coalescer::new(JOINED);
        loop {
            let mut ready = self.queue.ready(WATCHED).await?;
            let queue = ready.get_inner();
            let mut read = queue.read_joined(&mut batch);
            if matches!(read, Ok(false)) && batch.bytes() >= BULK {
                rustix::thread::sched_yield();
                read = queue.read_joined(&mut batch);
            }
            let more = match read {
                Ok(more) => more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(error) => return Err(error),
            };
            if !more {
                ready.clear_ready();
            }
            batch.frames().for_each(|frame| self.packet(frame));
            batch.clear();
            self.end_batch();
            if more {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Carries the packets that are waiting now, without waiting for others.
    fn carry_waiting(self: &Rc<Self>) {
        let mut frame = vec![0; MAX_FRAME];
        // Whatever else is wrong with the device, `pump` reports it.
        while let Ok(len) = self.queue.get_ref().read(&mut frame) {
            self.packet(frame.get_mut(..len).unwrap_or_default());
        }
        self.end_batch();
    }

    /// Does what was put off to the end of a batch of packets.
    fn end_batch(self: &Rc<Self>) {
        self.drive_dirty();
        self.end_datagrams();
        self.acks.borrow_mut().empty(|frame| self.write(frame));
    }

    /// Does what [`Phase::Flush`] asks for.
    async fn flush(self: Rc<Self>) {
        let mut orders = self.orders.clone();
        if orders.wait_for(|orders| orders.phase == Phase::Flush).await.is_ok() {
            self.carry_waiting();
            self.shared.flushed.fetch_add(1, Ordering::Release);
        }
    }

    /// Decides what a packet is. Its frame starts with the virtio header.
    fn packet(self: &Rc<Self>, frame: &mut [u8]) {
        let stats = &self.shared.stats;
        stats.tun_read.add();
        let Some((header, packet)) = frame.split_first_chunk::<FRAME_HEADER>() else {
            return stats.malformed.add();
        };
        let header = VirtioNetHdr::decode(header);
        let Ok(ip) = IpView::parse(packet) else {
            return stats.malformed.add();
        };
        if header.check(packet.len()).is_err() || !ip.header_checksum_valid() {
            return stats.malformed.add();
        }
        if ip.is_partial() {
            let outcome = self.shared.fragments.lock().push(Instant::now(), packet);
            return match outcome {
                Outcome::Whole(whole) => {
                    let mut frame = vec![0; FRAME_HEADER];
                    frame.extend_from_slice(&whole);
                    self.packet(&mut frame);
                }
                Outcome::Pending => {}
                Outcome::Dropped(reason) if reason.is_full() => stats.fragments_refused.add(),
                // Networks do repeat packets.
                Outcome::Dropped(Reason::Duplicate) => stats.ignored.add(),
                Outcome::Dropped(_) => stats.malformed.add(),
            };
        }
        match ip.protocol() {
            protocol::TCP if self.shared.stack == StackKind::User => self.user_tcp(&header, frame),
            protocol::TCP => self.tcp(frame),
            protocol::UDP => self.udp(&header, &ip, Inbound::Tun),
            protocol::ICMP | protocol::ICMPV6 => self.icmp(&ip),
            _ => match self.shared.guard.classify(ip.dst()) {
                Destination::Multicast => stats.ignored.add(),
                // A protocol that is not carried is refused, so that its program does not wait.
                _ => {
                    stats.ignored.add();
                    self.unreachable(packet, oneway_wire::emit::Unreachable::AdminProhibited);
                }
            },
        }
    }

    /// Once a second: names of closed connections, fragments and clients that never came. Ends when the device is gone.
    async fn sweep(self: Rc<Self>) -> io::Error {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            // The kernel wakes us before the device is gone (`tun_detach_all`), so that `pump` may have looked too early.
            if let Err(lost) = self.queue.get_ref().check() {
                return lost;
            }
            let now = Instant::now();
            self.shared.nat.expire(now);
            self.shared.udp.sweep();
            self.shared.fragments.lock().expire(now);
            self.forget_waiting(now);
            // Whoever looks at the packet file meanwhile sees it grow.
            self.record();
        }
    }

    /// Writes out the packet file. That the disk is full stops no traffic.
    fn record(&self) {
        if let Err(error) = self.queue.get_ref().flush_pcap()
            && self.shared.not_recorded.lock().may(Instant::now())
        {
            warn!("the packet file lacks packets: {error}; make room, and start again with another file");
        }
    }

    /// Once a millisecond where faults are asked for: hands over the packets that were held back.
    async fn release_delayed(self: Rc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        loop {
            tick.tick().await;
            let _ = self.queue.get_ref().flush_faults();
            self.carry_waiting();
        }
    }

    fn draining(&self) -> bool {
        self.orders.borrow().phase != Phase::Run
    }

    /// Resolves when live flows are to be reset.
    async fn drain(&self) {
        let mut orders = self.orders.clone();
        // The lifecycle is gone: that is a reason to stop, too.
        let _ = orders.wait_for(|orders| orders.phase != Phase::Run).await;
    }

    /// Whether a table by which `outbound` was chosen has been replaced meanwhile, and the one of now does not allow that.
    fn is_disallowed(&self, by: &Arc<Dispatch>, outbound: &Entry, subject: &Subject<'_>) -> bool {
        let now = self.shared.dispatch.load();
        !Arc::ptr_eq(&now, by) && !now.lets_stay(&outbound.name, subject)
    }

    /// Resolves when this flow is to be reset.
    async fn ended(&self, flow: u64) {
        let mut orders = self.orders.clone();
        let _ = orders.wait_for(|orders| orders.end(flow)).await;
    }

    fn router(&self, v4: bool) -> IpAddr {
        if v4 { self.shared.router_v4 } else { self.shared.router_v6 }
    }
}

/// The differentiated services code point of a packet (RFC 2474, 3), for the rules.
fn dscp(packet: &[u8]) -> u8 {
    IpView::parse(packet).map_or(0, |ip| ip.traffic_class() >> 2)
}
