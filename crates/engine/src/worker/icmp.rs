//! ICMP: echo is answered by the truth only, and errors about our datagrams end their sessions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use oneway_egress::{EARS, EgressError, IcmpEar, IcmpKind, IcmpSocket, Protected, next_error};
use oneway_flow::{Arrival, FlowGuard, Inbound, Network, Target};
use oneway_outbound::Answer;
use oneway_route::Family;
use oneway_wire::checksum::Checksum;
use oneway_wire::emit::{IpHeader, Unreachable, ip_header};
use oneway_wire::icmp::{Error, IcmpView, Message};
use oneway_wire::ip::{IpView, Version, protocol};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Worker;
use super::reply::reported;
use super::sources::BySource;
use crate::config::StackKind;
use crate::dispatch::Subject;
use crate::guard::Destination;

/// Bytes of requests that may wait for their sockets to take them, of all sessions together. More are lost, as on a full
/// link.
const WAITING_IN_ALL: usize = 4 << 20;

/// Of a message, with the header of IPv4.
const LONGEST: usize = 65_536;

/// A running `ping`: its host, what it pings, and its identifier.
type Key = (IpAddr, IpAddr, u16);

/// The echo sessions that live, shared by all workers.
#[derive(Debug)]
pub(crate) struct EchoSessions {
    live: Mutex<Live>,
    epoch: Instant,
    /// How many identifiers and masks were drawn.
    drawn: AtomicU64,
    /// What they are drawn by, so that nobody guesses them.
    secret: RandomState,
    /// Of the requests that wait: [`WAITING_IN_ALL`].
    waiting: AtomicUsize,
}

/// What a worker hears of the answers to its raw sockets. Held by the sessions that have one: with the last of them it ends.
type Ear = Arc<oneshot::Sender<()>>;

/// The ears of a worker, of IPv4 and IPv6, if there are any, and where they read into.
#[derive(Debug, Default)]
pub(super) struct Ears {
    open: RefCell<[Weak<oneshot::Sender<()>>; 2]>,
    /// As long as the longest message, so that it is one for all sessions.
    buffer: RefCell<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Live {
    of_clients: HashMap<Key, Arc<Echo>>,
    /// The same by what they look like on the wire: what is pinged, and our own identifier.
    on_wire: HashMap<(IpAddr, u16), Arc<Echo>>,
    /// How many of `of_clients` each source has.
    count: BySource,
}

impl Live {
    fn insert(&mut self, echo: &Arc<Echo>) {
        if self.of_clients.insert(echo.key, Arc::clone(echo)).is_none() {
            self.count.enter(echo.key.0);
        }
        self.on_wire.insert(echo.on_wire(), Arc::clone(echo));
    }

    fn remove(&mut self, echo: &Arc<Echo>) {
        // Another worker may have made one for the same client meanwhile.
        if self.of_clients.get(&echo.key).is_some_and(|found| Arc::ptr_eq(found, echo)) {
            self.of_clients.remove(&echo.key);
            self.count.leave(echo.key.0);
        }
        if self.on_wire.get(&echo.on_wire()).is_some_and(|found| Arc::ptr_eq(found, echo)) {
            self.on_wire.remove(&echo.on_wire());
        }
    }
}

/// One `ping` and the socket that asks in its place.
#[derive(Debug)]
struct Echo {
    key: Key,
    socket: Protected<IcmpSocket>,
    /// None if the socket hears for itself.
    ear: Option<Ear>,
    last: AtomicU64,
    /// What the sequence numbers of its requests are changed by.
    mask: u16,
    /// The [`fingerprint`] of the latest request, as it was sent.
    sent: AtomicU64,
    flow: FlowGuard,
}

impl Default for EchoSessions {
    fn default() -> Self {
        Self {
            live: Mutex::default(),
            epoch: Instant::now(),
            drawn: AtomicU64::new(0),
            secret: RandomState::new(),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// Room that a request takes while it waits.
#[derive(Debug)]
struct Room<'a> {
    waiting: &'a AtomicUsize,
    bytes: usize,
}

impl<'a> Room<'a> {
    /// None if there is none left.
    fn take(waiting: &'a AtomicUsize, bytes: usize) -> Option<Self> {
        let room = Self { waiting, bytes };
        (waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= WAITING_IN_ALL).then_some(room)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl EchoSessions {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Lets every session go: requests that come from now on make new ones, with new sockets.
    pub(crate) fn forget(&self) {
        let mut live = self.live.lock();
        live.of_clients.clear();
        live.count = BySource::default();
    }

    /// The client's session; and if there is none, whether this request is one that a session has just sent. A program may
    /// use an identifier of ours by chance or by trying all, but not with the number that it has on the wire, which is masked.
    fn find(&self, key: &Key, icmp: &IcmpView<'_>) -> (Option<Arc<Echo>>, bool) {
        let live = self.live.lock();
        let found = live.of_clients.get(key).cloned();
        let is_own = found.is_none()
            && live
                .on_wire
                .get(&(key.1, key.2))
                .is_some_and(|echo| echo.sent.load(Ordering::Relaxed) == fingerprint(icmp.bytes()));
        (found, is_own)
    }

    /// An identifier for requests to there that no session has, and whose answers this ear hears.
    fn next_id(&self, dst: IpAddr, ear: u16) -> u16 {
        let live = self.live.lock();
        loop {
            let id = self.draw().wrapping_mul(EARS) | ear;
            // There are far fewer sessions than that (`Limits::echo_sessions`).
            if !live.on_wire.contains_key(&(dst, id)) {
                return id;
            }
        }
    }

    /// A number that nobody can foresee.
    fn draw(&self) -> u16 {
        self.secret.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed)) as u16
    }

    /// The session of a raw socket that has sent requests of this identifier to there.
    fn heard_of(&self, dst: IpAddr, id: u16) -> Option<Arc<Echo>> {
        self.live.lock().on_wire.get(&(dst, id)).filter(|echo| echo.ear.is_some()).cloned()
    }
}

impl Echo {
    fn on_wire(&self) -> (IpAddr, u16) {
        (self.key.1, self.socket.id)
    }
}

/// What is the same in a request whatever its identifier: its number and its payload.
fn fingerprint(message: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(message.get(6..).unwrap_or_default());
    // 0 is what a session has that has sent nothing.
    hasher.finish() | 1
}

impl Worker {
    /// An ICMP or ICMPv6 message from a client, or from the kernel itself.
    pub(super) fn icmp(self: &Rc<Self>, ip: &IpView<'_>) {
        let shared = &self.shared;
        let parsed = match ip.version() {
            Version::V4 => IcmpView::parse_v4(ip.payload()),
            Version::V6 => IcmpView::parse_v6(ip.payload()),
        };
        let Ok(icmp) = parsed else { return shared.stats.malformed.add() };
        // The kernel leaves no checksum of ICMP to be computed later.
        if !icmp.checksum_valid(ip.src(), ip.dst()) {
            return shared.stats.malformed.add();
        }
        match icmp.message() {
            Message::EchoRequest { id, .. } => self.echo(ip, &icmp, id),
            Message::Error { error: Error::Port, quoted } => {
                // The kernel says that nobody listens where we delivered a datagram: its socket is closed.
                if let Ok(quoted) = IpView::parse_quoted(quoted)
                    && quoted.protocol() == protocol::UDP
                    && let Some((_, port)) = quoted.ports()
                {
                    self.client_gone(SocketAddr::new(quoted.dst(), port));
                }
            }
            Message::Error { error: Error::PacketTooBig { mtu }, quoted } => {
                self.too_big(ip.packet(), mtu, quoted);
            }
            _ => shared.stats.ignored.add(),
        }
    }

    /// A router between here and a client, a bridge of containers for example, cannot carry what was sent.
    fn too_big(self: &Rc<Self>, packet: &[u8], mtu: u32, quoted: &[u8]) {
        if let Ok(quoted) = IpView::parse_quoted(quoted)
            && quoted.protocol() == protocol::TCP
            && let Some((from, to)) = quoted.ports()
            && let Some(seq) = quoted.payload().get(4..).and_then(|rest| rest.first_chunk())
        {
            let client = SocketAddr::new(quoted.dst(), to);
            let server = SocketAddr::new(quoted.src(), from);
            match self.shared.stack {
                StackKind::User => {
                    self.user_path_mtu(packet, (client, server), mtu, u32::from_be_bytes(*seq))
                }
                StackKind::System => self.system_path_mtu(client, server, mtu, quoted.payload()),
            }
        }
    }

    fn echo(self: &Rc<Self>, ip: &IpView<'_>, icmp: &IcmpView<'_>, id: u16) {
        let shared = &self.shared;
        let refuse = |kind| {
            shared.stats.echo_refused.add();
            self.unreachable(ip.packet(), kind);
        };
        match shared.guard.classify(ip.dst()) {
            Destination::Ordinary => {}
            Destination::Refused => {
                shared.stats.guarded.add();
                return refuse(Unreachable::Host);
            }
            Destination::Multicast => return shared.stats.ignored.add(),
        }
        // It only stands for a name: whatever answered would not be what was asked for.
        if shared.dns.is_fake(ip.dst()) {
            shared.stats.guarded.add();
            return refuse(Unreachable::Host);
        }
        let target = Target::from_addr(SocketAddr::new(ip.dst(), 0));
        let source = SocketAddr::new(ip.src(), 0);
        let dscp = ip.traffic_class() >> 2;
        let (network, inbound) = (Network::Icmp, Inbound::Tun);
        let subject = Subject { network, source, inbound, target: &target, is_fake: false, dscp };
        // Nobody is asked whose an echo is, so that nothing is missing.
        let dispatch = shared.dispatch.load();
        let Ok(choice) = dispatch.choose(&subject) else {
            return refuse(Unreachable::AdminProhibited);
        };
        if !choice.entry.is_direct() {
            // No proxy protocol carries echo, and an answer of our own would be a lie.
            return refuse(Unreachable::AdminProhibited);
        }
        let key = (ip.src(), ip.dst(), id);
        let (found, is_own) = shared.echo.find(&key, icmp);
        if is_own && shared.egress.echo_returned(ip.dst()) {
            return;
        }
        if shared.egress.check(ip.dst()).is_err() {
            return refuse(Unreachable::AdminProhibited);
        }
        let echo = match found {
            Some(echo) => echo,
            None => {
                let share = shared.limits.echo_sessions;
                if self.draining() || !shared.echo.live.lock().count.has_room(ip.src(), share) {
                    return refuse(Unreachable::AdminProhibited);
                }
                let arrival = Arrival { source: SocketAddr::new(ip.src(), id), ..subject.arrival() };
                let (rule, outbound) = (choice.rule(), Arc::clone(&choice.entry.name));
                let flow = shared.flows.enter(arrival, target.clone(), rule, outbound);
                match self.open_echo(key, flow) {
                    Ok(echo) => echo,
                    Err(error) => {
                        tracing::debug!(dst = %ip.dst(), %error, "no echo");
                        return refuse(Unreachable::AdminProhibited);
                    }
                }
            }
        };
        echo.last.store(shared.echo.now(), Ordering::Relaxed);
        let mut message = icmp_message(icmp, echo.socket.id, echo.mask);
        echo.sent.store(fingerprint(&message), Ordering::Relaxed);
        if ip.version() == Version::V4 {
            complete(&mut message, None);
        }
        let request = ip.packet().to_vec();
        tokio::task::spawn_local(Rc::clone(self).send_echo(echo, message, request));
    }

    /// Sends an echo request on. In a task, as a new socket is not known to be writable before the reactor says so.
    async fn send_echo(self: Rc<Self>, echo: Arc<Echo>, message: Vec<u8>, request: Vec<u8>) {
        let stats = &self.shared.stats;
        let Some(_room) = Room::take(&self.shared.echo.waiting, message.len() + request.len()) else {
            return stats.ignored.add();
        };
        match echo.socket.socket.send_to(&message, SocketAddr::new(echo.key.1, 0)).await {
            Ok(_) => {
                stats.echo_up.add();
                echo.flow.up.fetch_add(message.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                stats.echo_refused.add();
                self.answer(&request, Answer::to_io(&error).on(Network::Icmp));
            }
        }
    }

    fn open_echo(self: &Rc<Self>, key: Key, flow: FlowGuard) -> Result<Arc<Echo>, EgressError> {
        let shared = &self.shared;
        shared.egress.check(key.1)?;
        let family = Family::of(key.1);
        let number = self.user.number as u16 % EARS;
        let socket = shared.egress.icmp(family, shared.echo.next_id(key.1, number))?;
        let ear = match socket.kind {
            IcmpKind::Raw => Some(self.ear(family, number)?),
            IcmpKind::Ping => None,
        };
        flow.set_established();
        let echo = Arc::new(Echo {
            key,
            socket,
            ear,
            mask: shared.echo.draw(),
            last: AtomicU64::new(shared.echo.now()),
            sent: AtomicU64::new(0),
            flow,
        });
        shared.echo.live.lock().insert(&echo);
        tokio::task::spawn_local(Rc::clone(self).echo_session(Arc::clone(&echo)));
        Ok(echo)
    }

    async fn echo_session(self: Rc<Self>, echo: Arc<Echo>) {
        tokio::select! {
            () = self.return_echoes(&echo) => {}
            () = self.return_queued_errors(&echo) => {}
            () = self.watch_echo(&echo) => {}
            () = self.drain() => {}
        }
        self.shared.echo.live.lock().remove(&echo);
    }

    async fn watch_echo(&self, echo: &Echo) {
        loop {
            let idle = self.shared.echo.now().saturating_sub(echo.last.load(Ordering::Relaxed));
            match self.shared.limits.echo_idle.checked_sub(Duration::from_millis(idle)) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return,
            }
        }
    }

    /// Returns the replies that a ping socket gets.
    async fn return_echoes(&self, echo: &Echo) {
        if echo.ear.is_some() {
            return std::future::pending().await;
        }
        let socket = &echo.socket.socket;
        loop {
            if socket.readable().await.is_ok() {
                self.read_echo(|buffer| socket.try_recv_from(buffer), |_, message| self.reply(echo, message));
            }
        }
    }

    /// What hears for the raw sockets of a family.
    fn ear(self: &Rc<Self>, family: Family, number: u16) -> Result<Ear, EgressError> {
        let mut open = self.ears.open.borrow_mut();
        let [v4, v6] = &mut *open;
        let place = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        if let Some(ear) = place.upgrade() {
            return Ok(ear);
        }
        let socket = self.shared.egress.icmp_ear(family, number)?;
        let (ear, unused) = oneshot::channel();
        let ear = Arc::new(ear);
        *place = Arc::downgrade(&ear);
        tokio::task::spawn_local(Rc::clone(self).hear(family, socket, unused));
        Ok(ear)
    }

    /// Returns what is heard until nobody needs it.
    async fn hear(self: Rc<Self>, family: Family, ear: IcmpEar, mut unused: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut unused => return,
                ready = ear.readable() => if ready.is_err() { continue },
            }
            self.read_echo(
                |buffer| ear.try_recv(buffer),
                |source, received| match family {
                    // The header of IPv4 comes with it.
                    Family::V4 => {
                        let header = IpView::parse(received).map_or(received.len(), |ip| ip.header_len());
                        self.heard(source, received.get(header..).unwrap_or_default());
                    }
                    Family::V6 => self.heard(source, received),
                },
            );
        }
    }

    /// Reads one message.
    fn read_echo<S>(
        &self,
        read: impl FnOnce(&mut [u8]) -> io::Result<(usize, S)>,
        returned: impl FnOnce(S, &[u8]),
    ) {
        let mut buffer = self.ears.buffer.borrow_mut();
        buffer.resize(LONGEST, 0);
        if let Ok((length, source)) = read(&mut buffer) {
            returned(source, buffer.get(..length).unwrap_or_default());
        }
    }

    /// A message for one of the raw sockets, or for somebody else's of the same identifier.
    fn heard(&self, source: IpAddr, message: &[u8]) {
        let parsed = if source.is_ipv4() { IcmpView::parse_v4(message) } else { IcmpView::parse_v6(message) };
        match parsed.map(|icmp| icmp.message()) {
            Ok(Message::EchoReply { id, .. }) => {
                if let Some(echo) = self.shared.echo.heard_of(source, id) {
                    self.reply(&echo, message);
                }
            }
            Ok(Message::Error { error, quoted }) => self.echo_error(error, quoted),
            _ => {}
        }
    }

    /// Hands the reply to a session's request to its client.
    fn reply(&self, echo: &Echo, message: &[u8]) {
        let (client, dst, id) = echo.key;
        let parsed = if dst.is_ipv4() { IcmpView::parse_v4(message) } else { IcmpView::parse_v6(message) };
        let Ok(icmp) = parsed else { return };
        if !matches!(icmp.message(), Message::EchoReply { .. }) {
            return;
        }
        let mut reply = icmp_message(&icmp, id, echo.mask);
        complete(&mut reply, dst.is_ipv6().then_some((dst, client)));
        echo.flow.down.fetch_add(reply.len() as u64, Ordering::Relaxed);
        self.shared.stats.echo_down.add();
        self.write_icmp(dst, client, &reply);
    }

    /// Returns the errors that the kernel queues for a ping socket. Ends if it does not do so any more.
    async fn return_queued_errors(&self, echo: &Echo) {
        if echo.ear.is_some() {
            return std::future::pending().await;
        }
        while let Ok(event) = next_error(&echo.socket.socket).await {
            if let Some(kind) = reported(&event) {
                self.request_failed(echo, event.payload_prefix(), kind);
            }
        }
    }

    /// An error on the way, if it is about a session's request, in its client's own terms.
    fn echo_error(&self, error: Error, quoted: &[u8]) {
        let Ok(ip) = IpView::parse_quoted(quoted) else { return };
        let request = quoted.get(ip.header_len()..).unwrap_or_default();
        let Some(&id) = request.get(4..).and_then(<[u8]>::first_chunk) else { return };
        let Some(echo) = self.shared.echo.heard_of(ip.dst(), u16::from_be_bytes(id)) else { return };
        let kind = match error {
            Error::Net => Unreachable::Net,
            Error::Host => Unreachable::Host,
            Error::Port | Error::Protocol => Unreachable::Port,
            Error::AdminProhibited => Unreachable::AdminProhibited,
            Error::PacketTooBig { mtu } => Unreachable::FragNeeded { mtu },
            Error::TtlExceeded => Unreachable::TtlExceeded,
            _ => return,
        };
        self.request_failed(&echo, request, kind);
    }

    /// Tells a session's client that a request of it, of which at least the ICMP header is quoted, had no success.
    fn request_failed(&self, echo: &Echo, request: &[u8], why: Unreachable) {
        let (client, dst, id) = echo.key;
        let Some(&[kind, code, _, _, _, _, high, low]) = request.first_chunk::<8>() else { return };
        let [seq_high, seq_low] = (u16::from_be_bytes([high, low]) ^ echo.mask).to_be_bytes();
        let [id_high, id_low] = id.to_be_bytes();
        let mut original = vec![kind, code, 0, 0, id_high, id_low, seq_high, seq_low];
        complete(&mut original, dst.is_ipv6().then_some((client, dst)));
        let protocol = if dst.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        let mut packet = Vec::new();
        if ip_header(&mut packet, &IpHeader::new(client, dst, protocol), original.len()).is_ok() {
            packet.append(&mut original);
            self.unreachable(&packet, why);
        }
    }

    fn write_icmp(&self, src: IpAddr, dst: IpAddr, message: &[u8]) {
        let protocol = if src.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        let mut packet = Vec::with_capacity(40 + message.len());
        if ip_header(&mut packet, &IpHeader::new(src, dst, protocol), message.len()).is_ok() {
            packet.extend_from_slice(message);
            self.write_packet(&packet);
        }
    }
}

/// The message with another identifier, its sequence number masked, and without a checksum.
fn icmp_message(icmp: &IcmpView<'_>, id: u16, mask: u16) -> Vec<u8> {
    let mut message = icmp.bytes().to_vec();
    if let Some([_, _, checksum @ .., id_high, id_low, seq_high, seq_low]) = message.first_chunk_mut::<8>() {
        *checksum = [0, 0];
        [*id_high, *id_low] = id.to_be_bytes();
        [*seq_high, *seq_low] = (u16::from_be_bytes([*seq_high, *seq_low]) ^ mask).to_be_bytes();
    }
    message
}

/// Writes the checksum; that of ICMPv6 covers a pseudo-header (RFC 4443, 2.3).
fn complete(message: &mut [u8], pseudo: Option<(IpAddr, IpAddr)>) {
    let mut sum = Checksum::new();
    if let Some((src, dst)) = pseudo {
        sum = sum.pseudo(src, dst, protocol::ICMPV6, message.len() as u32);
    }
    let checksum = sum.bytes(message).finish();
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_identifier_checksum_and_number_are_others() {
        let request = [8, 0, 0x12, 0x34, 0xaa, 0xbb, 0, 7, 1, 2, 3, 4, 5];
        let view = IcmpView::parse_v4(&request).unwrap();
        let message = icmp_message(&view, 0x0102, 0xa005);
        assert_eq!(message, [8, 0, 0, 0, 1, 2, 0xa0, 2, 1, 2, 3, 4, 5]);
        let sent_on = IcmpView::parse_v4(&message).unwrap();
        // And back.
        assert_eq!(icmp_message(&sent_on, 0xaabb, 0xa005), [8, 0, 0, 0, 0xaa, 0xbb, 0, 7, 1, 2, 3, 4, 5]);
        // A copy of the client's own request under our identifier is not the one that was sent.
        assert_ne!(fingerprint(view.bytes()), fingerprint(&message));
        // Whatever the identifier of what comes back.
        assert_eq!(fingerprint(&icmp_message(&sent_on, 3, 0)), fingerprint(&message));
    }

    #[test]
    fn identifiers_and_masks_are_not_foreseen() {
        let (one, other) = (EchoSessions::default(), EchoSessions::default());
        let dst = IpAddr::from([192, 0, 2, 1]);
        let drawn = |sessions: &EchoSessions| {
            (0..8).map(|_| (sessions.next_id(dst, 3), sessions.draw())).collect::<Vec<_>>()
        };
        let first = drawn(&one);
        assert_ne!(first, drawn(&other));
        assert!(first.iter().all(|(id, _)| id % EARS == 3), "{first:?}");
    }
}
