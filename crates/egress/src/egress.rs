//! Makes outgoing sockets.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ipnet::IpNet;
use oneway_route::{Family, IfIndex, RouteQuery, Safeguard, Without};
use parking_lot::RwLock;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpStream, UdpSocket};

use crate::breaker::Breaker;
use crate::congestion::Congestion;
use crate::detour::Detours;
use crate::forbidden::{Forbidden, canonical};
use crate::handle::Handle;
use crate::netns::NamespaceRoutes;
use crate::reach::{ReachCache, is_local};
use crate::registry::Registry;
use crate::source_rule::{self, Ports};
use crate::strategy::{self, Purpose, Steps};
use crate::{
    EgressError, IcmpEar, IcmpKind, IcmpSocket, KernelRoutes, Protected, Reach, Registered, RouteOracle,
    Strategy, Uplink, buffers, icmp_error, new_socket, own_device, raw_icmp,
};

/// A dead peer of an idle connection is noticed after 60 s + 10 × 30 s, while a link that is down for some
/// minutes (sleep, roaming) breaks nothing. One probe a minute also keeps the state of NATs on the way, which
/// may expire after 124 minutes at the earliest that RFC 5382 allows, but after 5 on common home routers.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_RETRIES: u32 = 10;

/// Room for some 100 full-size datagrams of a burst while the owner of the socket is busy.
const UDP_BUFFER: usize = 1 << 20;

/// Connections to one server that find their port in use before a new one is given up.
const PORTS_IN_USE: usize = 64;

/// How many sockets an [`Egress`] has made and refused since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Made and protected.
    pub made: u64,
    /// Not made: forbidden destination, no route, or the protection failed. Failed connections do not count.
    pub refused: u64,
}

/// The outcome for one kind of socket of [`Egress::self_test`].
#[derive(Debug)]
pub struct SelfTest {
    /// What was made, e.g. `TCP/IPv6`.
    pub what: &'static str,
    /// Made, protected and read back, or the step that failed.
    pub result: Result<(), EgressError>,
}

/// The maker of outgoing sockets. Shared by all workers; every method takes `&self`.
pub struct Egress {
    strategy: RwLock<Arc<Strategy>>,
    pub(crate) forbidden: Forbidden,
    pub(crate) oracle: Box<dyn RouteOracle>,
    reach: ReachCache,
    pub(crate) registry: Arc<Registry>,
    pub(crate) breaker: Breaker,
    detours: Detours,
    congestion: Congestion,
    /// The strategy is a binding to a device, so that datagrams have to be checked for what lies beyond it.
    bound: AtomicBool,
    /// Whether sockets go to servers with host routes only.
    confined: AtomicBool,
    ports: Ports,
    made: AtomicU64,
    refused: AtomicU64,
    /// The TUN is in another network namespace than the sockets.
    pub(crate) apart: bool,
    /// The index of the capture's own device, where sockets are made beside it; else 0.
    device: AtomicU32,
    /// The guards that are left out on purpose.
    pub(crate) without: Without,
    /// Whether [`Safeguard::Order`] is left out and sockets are not protected yet.
    early: AtomicBool,
    #[cfg(any(test, feature = "test-util"))]
    unprotected: bool,
}

impl Egress {
    /// An egress that protects with `strategy` and sends nothing into the `forbidden` prefixes (those of the
    /// TUN and of fake-IP).
    ///
    /// # Errors
    /// [`EgressError::Unsupported`] where the operating system lacks the strategy, [`EgressError::Protect`] for
    /// a strategy that protects nothing.
    pub fn new(strategy: Strategy, forbidden: Vec<IpNet>) -> Result<Self, EgressError> {
        let oracle: Box<dyn RouteOracle> = match &strategy {
            Strategy::Netns(namespace) => Box::new(NamespaceRoutes(Arc::clone(namespace))),
            _ => Box::new(KernelRoutes),
        };
        Self::with_oracle(strategy, forbidden, oracle)
    }

    /// [`Self::new`] with somebody else than the kernel to ask for routes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_oracle(
        strategy: Strategy,
        forbidden: Vec<IpNet>,
        oracle: Box<dyn RouteOracle>,
    ) -> Result<Self, EgressError> {
        strategy.usable()?;
        Ok(Self {
            bound: AtomicBool::new(strategy.is_bind()),
            confined: AtomicBool::new(matches!(strategy, Strategy::HostRoute(_))),
            ports: Ports::default(),
            strategy: RwLock::new(Arc::new(strategy)),
            forbidden: Forbidden::new(forbidden),
            oracle,
            reach: ReachCache::default(),
            registry: Arc::default(),
            breaker: Breaker::default(),
            detours: Detours::default(),
            congestion: Congestion::of_host(),
            made: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            apart: false,
            device: AtomicU32::new(0),
            without: Without::default(),
            early: AtomicBool::new(false),
            #[cfg(any(test, feature = "test-util"))]
            unprotected: false,
        })
    }

    /// An egress for a TUN that is in the network namespace `tun`, another than the calling thread's, where the sockets are
    /// made: no route of this one leads there, and no packet of theirs can come back by it. They need no protection, and
    /// so no right. What [`Egress::strategy`] says has no meaning then.
    ///
    /// # Errors
    /// [`EgressError::Protect`] if it is the same namespace.
    pub fn apart_from(tun: u64, forbidden: Vec<IpNet>) -> Result<Self, EgressError> {
        let wrong =
            |why: String| EgressError::Protect { mechanism: "another network namespace", why, source: None };
        if oneway_route::netns().map_err(|error| wrong(error.to_string()))? == tun {
            return Err(wrong("the capture is in the same one".to_owned()));
        }
        let mut egress = Self::unmarked(forbidden);
        egress.apart = true;
        Ok(egress)
    }

    /// Lets sockets for datagrams that are made from now on hear nothing that comes by the capture's own device.
    pub fn set_device(&self, device: IfIndex) {
        self.device.store(device.0, Relaxed);
    }

    /// Whether it was made by [`Egress::apart_from`].
    pub fn is_apart(&self) -> bool {
        self.apart
    }

    fn unmarked(forbidden: Vec<IpNet>) -> Self {
        Self {
            strategy: RwLock::new(Arc::new(Strategy::Mark(oneway_route::Mark(1)))),
            forbidden: Forbidden::new(forbidden),
            oracle: Box::new(KernelRoutes),
            reach: ReachCache::default(),
            registry: Arc::default(),
            breaker: Breaker::default(),
            detours: Detours::default(),
            congestion: Congestion::of_host(),
            bound: AtomicBool::new(false),
            confined: AtomicBool::new(false),
            ports: Ports::default(),
            made: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            apart: false,
            device: AtomicU32::new(0),
            without: Without::default(),
            early: AtomicBool::new(false),
            #[cfg(any(test, feature = "test-util"))]
            unprotected: false,
        }
    }

    /// An egress without protection, for tests on loopback. It says that its strategy is a mark.
    #[cfg(any(test, feature = "test-util"))]
    #[doc(hidden)]
    pub fn unprotected_for_loopback_tests() -> Self {
        Self { unprotected: true, ..Self::unmarked(Vec::new()) }
    }

    /// Leaves guards out on purpose, to show what they are for.
    #[must_use]
    pub fn without(mut self, guards: Without) -> Self {
        self.early = AtomicBool::new(guards.has(Safeguard::Order));
        self.without = guards;
        self
    }

    /// The guards that are left out.
    pub fn left_out(&self) -> Without {
        self.without
    }

    /// Without [`Safeguard::Order`]: protects sockets from now on.
    pub fn protect_at_last(&self) {
        self.early.store(false, Relaxed);
    }

    /// Whether sockets of a family are not protected, because a guard is left out on purpose.
    pub(crate) fn is_unprotected(&self, family: Family) -> bool {
        self.without.any()
            && (self.without.has(Safeguard::Protect)
                || self.without.has(Safeguard::ProtectIpv6) && family == Family::V6
                || self.early.load(Relaxed))
    }

    /// What a socket of ours to a destination beyond the uplink asks the kernel for: [`Strategy::question`], with what
    /// sockets really have.
    pub fn question(&self, dst: IpAddr) -> RouteQuery {
        if self.is_unprotected(Family::of(dst)) { RouteQuery::to(dst) } else { self.strategy().question(dst) }
    }

    /// The strategy for sockets made from now on.
    pub fn strategy(&self) -> Arc<Strategy> {
        Arc::clone(&self.strategy.read())
    }

    /// Protects sockets made from now on in another way, e.g. because the uplink has changed. Existing sockets
    /// keep what they have.
    ///
    /// # Errors
    /// As [`Self::new`]; the old strategy stays.
    pub fn set_strategy(&self, strategy: Strategy) -> Result<(), EgressError> {
        strategy.usable()?;
        let (bound, confined) = (strategy.is_bind(), matches!(strategy, Strategy::HostRoute(_)));
        *self.strategy.write() = Arc::new(strategy);
        self.bound.store(bound, Relaxed);
        self.confined.store(confined, Relaxed);
        self.reach.clear();
        Ok(())
    }

    /// Who is asked for routes: the kernel, in the namespace that sockets are made in.
    pub fn routes(&self) -> &dyn RouteOracle {
        &*self.oracle
    }

    /// Replaces the forbidden prefixes.
    pub fn set_forbidden(&self, prefixes: Vec<IpNet>) {
        self.forbidden.set_prefixes(prefixes);
    }

    /// Replaces the list of own listeners: DNS, API, capture ports. One on the unspecified address stands for
    /// that port on every address of this host.
    pub fn set_listeners(&self, listeners: Vec<SocketAddr>) {
        self.forbidden.set_listeners(listeners);
    }

    /// Binds sockets of a family made from now on to a device, besides protecting them, or no longer: for when the host's own
    /// choice leads nowhere and another device does not. It has a meaning where [`Strategy::follows_the_host`].
    /// True if that is another one than before.
    pub fn set_detour(&self, family: Family, device: Option<Uplink>) -> bool {
        let news = self.detours.set(family, device);
        if news {
            self.reach.clear();
        }
        news
    }

    /// The device that [`Self::set_detour`] has set.
    pub fn detour(&self, family: Family) -> Option<Uplink> {
        self.detours.of(family)
    }

    /// Forgets what is remembered about routes. To be called when routes or addresses have changed; without it
    /// an old answer lives for one second.
    pub fn routes_changed(&self) {
        self.reach.clear();
    }

    /// What has been made and refused.
    pub fn counters(&self) -> Counters {
        Counters { made: self.made.load(Relaxed), refused: self.refused.load(Relaxed) }
    }

    /// Whether sockets may send to this address.
    ///
    /// # Errors
    /// [`EgressError::Forbidden`], [`EgressError::NoHostRoute`], [`EgressError::Quarantined`].
    pub fn check(&self, dst: IpAddr) -> Result<(), EgressError> {
        let dst = dst.to_canonical();
        if !self.without.has(Safeguard::Egress) {
            self.forbidden.check(dst)?;
        }
        self.confined(dst)?;
        self.breaker.check(dst)
    }

    /// Whether the strategy allows this destination at all.
    pub(crate) fn confined(&self, dst: IpAddr) -> Result<(), EgressError> {
        if self.confined.load(Relaxed)
            && !self.is_unprotected(Family::of(dst))
            && let Strategy::HostRoute(rule) = &*self.strategy()
        {
            rule.allows(dst)?;
        }
        Ok(())
    }

    /// Whether sockets may send to this address and port: [`Self::check`], and own listeners.
    ///
    /// # Errors
    /// [`EgressError::Forbidden`], [`EgressError::Quarantined`].
    pub fn check_addr(&self, dst: SocketAddr) -> Result<(), EgressError> {
        let dst = canonical(dst);
        self.check(dst.ip())?;
        if self.without.has(Safeguard::Egress) {
            return Ok(());
        }
        // If the kernel cannot be asked, a listener on every address is taken to be meant.
        self.forbidden.check_listeners(dst, || is_local(&*self.oracle, dst.ip()).unwrap_or(true))
    }

    /// Whether a socket of [`Self::udp`] may send to this address: [`Self::check_addr`], and for a bound socket
    /// that the destination lies beyond its device.
    ///
    /// # Errors
    /// [`EgressError::Forbidden`], [`EgressError::NoRoute`], [`EgressError::Route`].
    pub fn check_datagram(&self, dst: SocketAddr) -> Result<(), EgressError> {
        self.check_addr(dst)?;
        // Looked at first because it costs nothing, and most hosts have a mark.
        if self.bound.load(Relaxed) || self.detours.any() {
            let ip = dst.ip().to_canonical();
            if self.reach(ip)? == Reach::Local
                && let Some(Uplink { name: device, .. }) = self.device(Family::of(ip))
            {
                return Err(EgressError::NoRoute { dst: ip, device });
            }
        }
        Ok(())
    }

    /// Connects to `dst`. Takes as long as the kernel does; the caller sets its own limit by dropping the
    /// future, which closes the socket. `TCP_NODELAY` is on: what is relayed has been gathered by the sender.
    ///
    /// # Errors
    /// [`EgressError::Connect`] with the kernel's error; the others before anything is sent.
    pub async fn connect_tcp(&self, dst: SocketAddr) -> Result<Protected<TcpStream>, EgressError> {
        let dst = canonical(dst);
        let (stream, own, registered) = self.count(self.tcp_socket(dst))?;
        stream.writable().await.map_err(EgressError::Connect)?;
        has_connected(&stream).map_err(EgressError::Connect)?;
        // With a destination port in the ephemeral range on this host, TCP's simultaneous open (RFC 9293,
        // 3.5) can connect a socket to itself.
        if own == dst {
            return Err(EgressError::Connect(io::ErrorKind::ConnectionRefused.into()));
        }
        self.congestion.connected(&SockRef::from(&stream));
        Ok(Protected::new(stream, Some(registered)))
    }

    /// An unconnected UDP socket for destinations of one family beyond the uplink, on a free port. ICMP errors
    /// are queued for [`recv_error`](crate::recv_error). Each destination is to be checked with
    /// [`Self::check_datagram`] before sending.
    ///
    /// # Errors
    /// [`EgressError::Create`], [`EgressError::Protect`].
    pub fn udp(&self, family: Family) -> Result<Protected<UdpSocket>, EgressError> {
        self.count(self.udp_socket(family, Reach::Uplink))
    }

    /// A UDP socket that is connected to one destination (a relay), which may be on this host: the kernel keeps the
    /// route, and drops what others send.
    ///
    /// # Errors
    /// As [`Self::connect_tcp`].
    pub fn udp_for(&self, dst: SocketAddr) -> Result<Protected<UdpSocket>, EgressError> {
        let dst = canonical(dst);
        self.count(self.check_addr(dst).and_then(|()| {
            let reach = self.reach(dst.ip())?;
            let socket = self.udp_socket(Family::of(dst.ip()), reach)?;
            self.connect_udp(&socket, dst)?;
            Ok(socket)
        }))
    }

    /// Connects a socket of [`Self::udp_for`] to another destination of its family.
    ///
    /// # Errors
    /// [`EgressError::Forbidden`], [`EgressError::Connect`].
    pub fn connect_udp(&self, socket: &Protected<UdpSocket>, dst: SocketAddr) -> Result<(), EgressError> {
        let dst = canonical(dst);
        self.check_addr(dst)?;
        SockRef::from(&**socket).connect(&dst.into()).map_err(EgressError::Connect)
    }

    /// A socket for ICMP echo: a ping socket where the host allows it (`net.ipv4.ping_group_range`), else a raw
    /// one (`CAP_NET_RAW`) for requests with the identifier `id`. Destinations are to be checked with
    /// [`Self::check_datagram`]. ICMP errors of a ping socket are queued for [`next_error`](crate::next_error); a raw
    /// socket receives nothing, see [`Self::icmp_ear`].
    ///
    /// # Errors
    /// [`EgressError::Unsupported`] if neither is allowed.
    pub fn icmp(&self, family: Family, id: u16) -> Result<Protected<IcmpSocket>, EgressError> {
        self.count(self.icmp_socket(family, id))
    }

    /// What hears the answers for the raw sockets of [`Self::icmp`] whose identifier, modulo [`EARS`](crate::EARS), is
    /// `ear`. It hears nothing that comes by the capture's own device.
    ///
    /// # Errors
    /// [`EgressError::Create`].
    pub fn icmp_ear(&self, family: Family, ear: u16) -> Result<IcmpEar, EgressError> {
        let (domain, protocol, what) = icmp_of(family);
        let create = |source| EgressError::Create { what, source };
        let socket = self.fresh(domain, Type::RAW, protocol).map_err(create)?;
        let device = Some(IfIndex(self.device.load(Relaxed)));
        let device = device.filter(|device| device.0 != 0 && !self.elsewhere());
        raw_icmp::hear_part(&socket, family, ear, device).map_err(create)?;
        buffers::enlarge(&socket, UDP_BUFFER);
        Ok(IcmpEar { socket: UdpSocket::from_std(socket.into()).map_err(create)? })
    }

    /// Makes a socket of each family and protocol and reads its protection back. A family that the host lacks
    /// is an [`EgressError::Create`], ICMP without permission an [`EgressError::Unsupported`].
    pub fn self_test(&self) -> Vec<SelfTest> {
        let trial = |domain, ty, protocol, what| {
            let result = self
                .fresh(domain, ty, protocol)
                .map_err(|source| EgressError::Create { what, source })
                .and_then(|socket| {
                    let purpose = if ty == Type::STREAM { Purpose::Tcp } else { Purpose::Udp };
                    self.protect(&socket, family(domain), Reach::Uplink, purpose).map(drop)
                });
            SelfTest { what, result }
        };
        let icmp = |family, what| SelfTest { what, result: self.icmp_trial(family) };
        vec![
            trial(Domain::IPV4, Type::STREAM, Protocol::TCP, "TCP/IPv4"),
            trial(Domain::IPV6, Type::STREAM, Protocol::TCP, "TCP/IPv6"),
            trial(Domain::IPV4, Type::DGRAM, Protocol::UDP, "UDP/IPv4"),
            trial(Domain::IPV6, Type::DGRAM, Protocol::UDP, "UDP/IPv6"),
            icmp(Family::V4, "ICMP"),
            icmp(Family::V6, "ICMPv6"),
        ]
    }

    /// Where `dst` is, for a socket of the present strategy.
    fn reach(&self, dst: IpAddr) -> Result<Reach, EgressError> {
        match &*self.strategy() {
            _ if self.is_unprotected(Family::of(dst)) => Ok(Reach::Uplink),
            Strategy::Bind(uplinks) => {
                self.reach.bound(&*self.oracle, RouteQuery::to(dst), uplinks.get(Family::of(dst)))
            }
            Strategy::HostRoute(rule) => self.reach.by_host_route(&*self.oracle, dst, rule),
            // From the uplink's address a server on loopback would see a stranger.
            Strategy::SourceRule(_) if dst.is_loopback() => Ok(Reach::Local),
            _ => match self.detours.of(Family::of(dst)) {
                // It has the mark as well: what has none may be refused.
                Some(uplink) => {
                    // Asked with a source address and without a socket, IPv6 takes the device for a wish
                    // (`ip6_route_output_flags_noref`, net/ipv6/route.c).
                    let question = match &*self.strategy() {
                        Strategy::SourceRule(_) => RouteQuery::to(dst),
                        strategy => strategy.question(dst),
                    };
                    self.reach.bound(&*self.oracle, question, &uplink)
                }
                None => Ok(Reach::Uplink),
            },
        }
    }

    /// The device that sockets of a family are bound to.
    fn device(&self, family: Family) -> Option<Uplink> {
        match &*self.strategy() {
            Strategy::Bind(uplinks) => Some(uplinks.get(family).clone()),
            _ => self.detours.of(family),
        }
    }

    /// A fresh socket, of the namespace that the strategy names.
    pub(crate) fn fresh(&self, domain: Domain, ty: Type, protocol: Protocol) -> io::Result<Socket> {
        match &*self.strategy() {
            Strategy::Netns(namespace) if !self.is_unprotected(family(domain)) => {
                namespace.socket(domain, ty, protocol)
            }
            _ => new_socket::nonblocking(domain, ty, protocol),
        }
    }

    /// Protects a fresh socket and reads the protection back. Whether it is bound to an address by that.
    pub(crate) fn protect(
        &self,
        socket: &Socket,
        family: Family,
        reach: Reach,
        purpose: Purpose,
    ) -> Result<bool, EgressError> {
        if self.apart {
            return Ok(false);
        }
        #[cfg(any(test, feature = "test-util"))]
        if self.unprotected {
            return Ok(false);
        }
        let strategy = self.strategy();
        let set = !self.is_unprotected(family);
        let steps = Steps { set, read_back: !self.without.has(Safeguard::Proof) };
        let bound = strategy.apply(socket, (family, reach, purpose), &self.ports, steps)?;
        if strategy.follows_the_host()
            && reach == Reach::Uplink
            && let Some(uplink) = self.detours.of(family)
        {
            strategy::bind_device(socket, &uplink, steps)?;
        }
        Ok(bound)
    }

    /// Whether sockets are of another namespace, where others' addresses and ports are not ours.
    fn elsewhere(&self) -> bool {
        matches!(&*self.strategy(), Strategy::Netns(_))
    }

    /// Enters a UDP socket among our own.
    pub(crate) fn register_udp(&self, own: SocketAddr, handle: Handle) -> Registered {
        if self.elsewhere() { self.registry.elsewhere(handle) } else { self.registry.udp(own, handle) }
    }

    fn count<T>(&self, made: Result<T, EgressError>) -> Result<T, EgressError> {
        let counter = if made.is_ok() { &self.made } else { &self.refused };
        counter.fetch_add(1, Relaxed);
        made
    }

    /// A socket that is connecting, its own address, and its place among our own. It has an address only once its SYN has
    /// left. A worker that reads that SYN back before it is known here takes it for a new flow; the SYN of that one then is
    /// known.
    fn tcp_socket(&self, dst: SocketAddr) -> Result<(TcpStream, SocketAddr, Registered), EgressError> {
        self.check_addr(dst)?;
        let reach = self.reach(dst.ip())?;
        for _ in 1..PORTS_IN_USE {
            match self.tcp_socket_to(dst, reach) {
                Err(error) if source_rule::try_another(&error) && self.has_own_ports() => {}
                outcome => return outcome,
            }
        }
        self.tcp_socket_to(dst, reach)
    }

    fn has_own_ports(&self) -> bool {
        matches!(&*self.strategy(), Strategy::SourceRule(_))
    }

    fn tcp_socket_to(
        &self,
        dst: SocketAddr,
        reach: Reach,
    ) -> Result<(TcpStream, SocketAddr, Registered), EgressError> {
        let what = if dst.is_ipv4() { "TCP/IPv4" } else { "TCP/IPv6" };
        let create = |source| EgressError::Create { what, source };
        let domain = Domain::for_address(dst);
        let socket = self.fresh(domain, Type::STREAM, Protocol::TCP).map_err(create)?;
        self.protect(&socket, Family::of(dst.ip()), reach, Purpose::Tcp)?;
        socket.set_tcp_nodelay(true).map_err(create)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        socket.set_tcp_keepalive(&keepalive).map_err(create)?;
        // An urgent byte is one of the stream (RFC 6093, 6).
        socket.set_out_of_band_inline(true).map_err(create)?;
        self.congestion.before_connect(&socket);
        new_socket::begin_connect(&socket, &dst.into()).map_err(EgressError::Connect)?;
        let stream = TcpStream::from_std(socket.into()).map_err(create)?;
        let own = stream.local_addr().map_err(EgressError::Connect)?;
        let handle = Handle::of(&stream);
        let registered = if self.elsewhere() {
            self.registry.elsewhere(handle)
        } else {
            self.registry.tcp(own, dst, handle)
        };
        Ok((stream, own, registered))
    }

    fn udp_socket(&self, family: Family, reach: Reach) -> Result<Protected<UdpSocket>, EgressError> {
        let (domain, what, any) = match family {
            Family::V4 => (Domain::IPV4, "UDP/IPv4", SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            Family::V6 => (Domain::IPV6, "UDP/IPv6", SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        let create = |source| EgressError::Create { what, source };
        let socket = self.fresh(domain, Type::DGRAM, Protocol::UDP).map_err(create)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(true).map_err(create)?;
        }
        let bound = self.protect(&socket, family, reach, Purpose::Udp)?;
        let device = self.device.load(Relaxed);
        // In another namespace it is another device's number.
        if device != 0 && !self.elsewhere() && !self.is_unprotected(family) {
            own_device::hear_nothing_of(&socket, IfIndex(device)).map_err(create)?;
        }
        buffers::enlarge(&socket, UDP_BUFFER);
        icmp_error::enable(&socket, domain).map_err(create)?;
        if !bound {
            socket.bind(&any.into()).map_err(create)?;
        }
        let socket = UdpSocket::from_std(socket.into()).map_err(create)?;
        let own = socket.local_addr().map_err(create)?;
        let registered = self.register_udp(own, Handle::of(&socket));
        Ok(Protected::new(socket, Some(registered)))
    }

    fn icmp_socket(&self, family: Family, id: u16) -> Result<Protected<IcmpSocket>, EgressError> {
        let (socket, kind, what) = self.icmp_raw_socket(family)?;
        let create = |source| EgressError::Create { what, source };
        let socket = UdpSocket::from_std(socket.into()).map_err(create)?;
        let id = match kind {
            IcmpKind::Raw => id,
            IcmpKind::Ping => socket.local_addr().map_err(create)?.port(),
        };
        Ok(Protected::new(IcmpSocket { kind, id, socket }, None))
    }

    fn icmp_trial(&self, family: Family) -> Result<(), EgressError> {
        self.icmp_raw_socket(family).map(drop)
    }

    fn icmp_raw_socket(&self, family: Family) -> Result<(Socket, IcmpKind, &'static str), EgressError> {
        let (domain, protocol, what) = icmp_of(family);
        let create = |source| EgressError::Create { what, source };
        let (socket, kind) = match self.fresh(domain, Type::DGRAM, protocol) {
            Ok(socket) => (socket, IcmpKind::Ping),
            Err(_) => match self.fresh(domain, Type::RAW, protocol) {
                Ok(socket) => (socket, IcmpKind::Raw),
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(EgressError::Unsupported {
                        what: format!("{what} without privileges"),
                        instead: "put the group into net.ipv4.ping_group_range, or grant CAP_NET_RAW",
                    });
                }
                Err(source) => return Err(create(source)),
            },
        };
        if kind == IcmpKind::Raw {
            raw_icmp::hear_nothing(&socket, family).map_err(create)?;
        }
        self.protect(&socket, family, Reach::Uplink, Purpose::Icmp)?;
        if kind == IcmpKind::Ping {
            icmp_error::enable(&socket, domain).map_err(create)?;
            let any = match family {
                Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            // The kernel chooses the identifier, as it does a port: now and not with the first request.
            socket.bind(&SocketAddr::new(any, 0).into()).map_err(create)?;
        }
        Ok((socket, kind, what))
    }
}

fn icmp_of(family: Family) -> (Domain, Protocol, &'static str) {
    match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4, "ICMP"),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6, "ICMPv6"),
    }
}

fn family(domain: Domain) -> Family {
    if domain == Domain::IPV6 { Family::V6 } else { Family::V4 }
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress")
            .field("strategy", &*self.strategy())
            .field("forbidden", &self.forbidden)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

/// Whether the connection was made. One that was, and was reset since, still has what came before; the reset is said behind that.
fn has_connected(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        // Elsewhere than on Linux the socket keeps the reason to itself.
        Err(error) => Err(stream.take_error()?.unwrap_or(error)),
    }
}
