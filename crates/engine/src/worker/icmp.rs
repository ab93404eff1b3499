//! ICMP: echo is answered by the truth only, and errors about our datagrams end their sessions.

use std::collections::HashMap;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oneway_egress::{IcmpKind, IcmpSocket, Protected, next_error};
use oneway_flow::{Arrival, FlowGuard, Inbound, Network, Target};
use oneway_outbound::Answer;
use oneway_route::Family;
use oneway_wire::checksum::Checksum;
use oneway_wire::emit::{IpHeader, Unreachable, ip_header};
use oneway_wire::icmp::{Error, IcmpView, Message};
use oneway_wire::ip::{IpView, Version, protocol};
use parking_lot::Mutex;

use super::Worker;
use super::reply::reported;
use crate::config::StackKind;
use crate::dispatch::Subject;
use crate::guard::Destination;

/// Bytes of requests that may wait for their sockets to take them, of all sessions together. More are lost, as on a full
/// link.
const WAITING_IN_ALL: usize = 4 << 20;

/// A running `ping`: its host, what it pings, and its identifier.
type Key = (IpAddr, IpAddr, u16);

/// The echo sessions that live, shared by all workers.
#[derive(Debug)]
pub(crate) struct EchoSessions {
    live: Mutex<HashMap<Key, Arc<Echo>>>,
    epoch: Instant,
    next_id: AtomicU64,
    /// Of the requests that wait: [`WAITING_IN_ALL`].
    waiting: AtomicUsize,
}

/// One `ping` and the socket that asks in its place.
#[derive(Debug)]
struct Echo {
    key: Key,
    /// The identifier on the wire: raw sockets of one host see each other's replies.
    id: u16,
    socket: Protected<IcmpSocket>,
    last: AtomicU64,
    /// The [`fingerprint`] of the latest request.
    sent: AtomicU64,
    flow: FlowGuard,
}

impl Default for EchoSessions {
    fn default() -> Self {
        let seed = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9);
        Self {
            live: Mutex::default(),
            epoch: Instant::now(),
            next_id: AtomicU64::new(seed),
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
        self.live.lock().clear();
    }

    /// Whether a request that belongs to no session is one that a session has just sent. A program may use an identifier
    /// of ours by chance, but hardly for the same number with the same payload.
    fn sent(&self, dst: IpAddr, id: u16, icmp: &IcmpView<'_>) -> bool {
        let print = fingerprint(icmp);
        self.live.lock().values().any(|echo| {
            echo.key.1 == dst && echo.wire_id() == id && echo.sent.load(Ordering::Relaxed) == print
        })
    }
}

impl Echo {
    /// The identifier on the wire. The kernel takes that of a ping socket for its port.
    fn wire_id(&self) -> u16 {
        match self.socket.kind {
            IcmpKind::Raw => self.id,
            IcmpKind::Ping => self.socket.socket.local_addr().map_or(0, |own| own.port()),
        }
    }
}

/// What is the same in a request whatever its identifier: its number and its payload.
fn fingerprint(icmp: &IcmpView<'_>) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(icmp.bytes().get(6..).unwrap_or_default());
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
        let found = shared.echo.live.lock().get(&key).cloned();
        let is_own = found.is_none() && shared.echo.sent(ip.dst(), id, icmp);
        if is_own && shared.egress.echo_returned(ip.dst()) {
            return;
        }
        if shared.egress.check(ip.dst()).is_err() {
            return refuse(Unreachable::AdminProhibited);
        }
        let echo = match found {
            Some(echo) => echo,
            None => {
                if self.draining() || shared.echo.live.lock().len() >= shared.limits.echo_sessions {
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
        let mut message = icmp_message(icmp, echo.id);
        if ip.version() == Version::V4 {
            complete(&mut message, None);
        }
        echo.sent.store(fingerprint(icmp), Ordering::Relaxed);
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

    fn open_echo(
        self: &Rc<Self>,
        key: Key,
        flow: FlowGuard,
    ) -> Result<Arc<Echo>, oneway_egress::EgressError> {
        let shared = &self.shared;
        shared.egress.check(key.1)?;
        let socket = shared.egress.icmp(Family::of(key.1))?;
        let id = match socket.kind {
            IcmpKind::Raw => shared.echo.next_id.fetch_add(1, Ordering::Relaxed) as u16,
            // The kernel gives a ping socket its own identifier, whatever is sent.
            IcmpKind::Ping => key.2,
        };
        flow.set_established();
        let echo = Arc::new(Echo {
            key,
            id,
            socket,
            last: AtomicU64::new(shared.echo.now()),
            sent: AtomicU64::new(0),
            flow,
        });
        shared.echo.live.lock().insert(key, Arc::clone(&echo));
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
        let mut live = self.shared.echo.live.lock();
        if live.get(&echo.key).is_some_and(|found| Arc::ptr_eq(found, &echo)) {
            live.remove(&echo.key);
        }
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

    async fn return_echoes(&self, echo: &Echo) {
        let (client, dst, id) = echo.key;
        let mut buffer = vec![0; 65_536];
        loop {
            let Ok((len, _)) = echo.socket.socket.recv_from(&mut buffer).await else { continue };
            let received = buffer.get(..len).unwrap_or_default();
            let (source, message) = match (echo.socket.kind, dst) {
                (IcmpKind::Raw, IpAddr::V4(_)) => match IpView::parse(received) {
                    Ok(ip) => (ip.src(), received.get(ip.header_len()..).unwrap_or_default()),
                    Err(_) => continue,
                },
                _ => (dst, received),
            };
            let parsed =
                if dst.is_ipv4() { IcmpView::parse_v4(message) } else { IcmpView::parse_v6(message) };
            let Ok(icmp) = parsed else { continue };
            match icmp.message() {
                Message::EchoReply { id: found, .. } if source == dst && self.is_ours(echo, found) => {
                    let mut reply = icmp_message(&icmp, id);
                    complete(&mut reply, dst.is_ipv6().then_some((dst, client)));
                    echo.flow.down.fetch_add(reply.len() as u64, Ordering::Relaxed);
                    self.shared.stats.echo_down.add();
                    self.write_icmp(dst, client, &reply);
                }
                Message::Error { error, quoted } => self.echo_error(echo, error, quoted),
                _ => {}
            }
        }
    }

    /// Returns the errors that the kernel queues for a ping socket. Ends if it does not do so any more.
    async fn return_queued_errors(&self, echo: &Echo) {
        if echo.socket.kind == IcmpKind::Raw {
            return std::future::pending().await;
        }
        while let Ok(event) = next_error(&echo.socket.socket).await {
            if let Some(kind) = reported(&event) {
                self.request_failed(echo, event.payload_prefix(), kind);
            }
        }
    }

    fn is_ours(&self, echo: &Echo, found: u16) -> bool {
        match echo.socket.kind {
            IcmpKind::Raw => found == echo.id,
            IcmpKind::Ping => true,
        }
    }

    /// An error on the way, if it is about this session's request, in the client's own terms.
    fn echo_error(&self, echo: &Echo, error: Error, quoted: &[u8]) {
        let dst = echo.key.1;
        let Ok(ip) = IpView::parse_quoted(quoted) else { return };
        let request = quoted.get(ip.header_len()..).unwrap_or_default();
        if ip.dst() != dst || request.get(4..6) != Some(&echo.id.to_be_bytes()) {
            return;
        }
        let kind = match error {
            Error::Net => Unreachable::Net,
            Error::Host => Unreachable::Host,
            Error::Port | Error::Protocol => Unreachable::Port,
            Error::AdminProhibited => Unreachable::AdminProhibited,
            Error::PacketTooBig { mtu } => Unreachable::FragNeeded { mtu },
            Error::TtlExceeded => Unreachable::TtlExceeded,
            _ => return,
        };
        self.request_failed(echo, request, kind);
    }

    /// Tells a session's client that a request of it, of which at least the ICMP header is quoted, had no success.
    fn request_failed(&self, echo: &Echo, request: &[u8], why: Unreachable) {
        let (client, dst, id) = echo.key;
        let Some(&[kind, code, _, _, _, _, seq_high, seq_low]) = request.first_chunk::<8>() else { return };
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

/// The message with another identifier and without a checksum.
fn icmp_message(icmp: &IcmpView<'_>, id: u16) -> Vec<u8> {
    let mut message = icmp.bytes().to_vec();
    let [high, low] = id.to_be_bytes();
    if let Some(place) = message.get_mut(2..6) {
        place.copy_from_slice(&[0, 0, high, low]);
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
    fn only_identifier_and_checksum_are_others() {
        let request = [8, 0, 0x12, 0x34, 0xaa, 0xbb, 0, 7, 1, 2, 3, 4, 5];
        let view = IcmpView::parse_v4(&request).unwrap();
        let message = icmp_message(&view, 0x0102);
        assert_eq!(message, [8, 0, 0, 0, 1, 2, 0, 7, 1, 2, 3, 4, 5]);
        let sent_on = IcmpView::parse_v4(&message).unwrap();
        assert_eq!(fingerprint(&view), fingerprint(&sent_on));
    }
}
