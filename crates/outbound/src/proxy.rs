//! A proxy server: its addresses, and the way to it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use oneway_egress::{Egress, EgressError, Protected};
use oneway_tls::{TlsClient, TlsError, TlsStream};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{Credentials, Protocol, ProxyConfig};
use crate::drive::{self, Broken};
use crate::handshake::Handshake;
use crate::shadowsocks::Key;
use crate::socks5::pipelining::Pipelining;
use crate::{Connected, DialError, ProxyFault, Resolve, tunnel};

/// How long a proxy may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To accept the connection, over all its addresses.
    pub connect: Duration,
    /// To finish the handshake after that; the proxy connects to the destination meanwhile.
    pub handshake: Duration,
}

impl Default for Timeouts {
    /// 10 s and 30 s.
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), handshake: Duration::from_secs(30) }
    }
}

/// A proxy server as it is at run time.
pub struct Proxy {
    config: ProxyConfig,
    /// Names the proxy in errors: its URL without user and password.
    label: Arc<str>,
    timeouts: Timeouts,
    resolver: Arc<dyn Resolve>,
    addrs: RwLock<Arc<[SocketAddr]>>,
    /// Which of the addresses worked last, and is tried first.
    preferred: AtomicUsize,
    /// What is known of the address that worked last.
    pipelining: Pipelining,
    /// For a proxy that is spoken to by TLS; or why that cannot be.
    tls: Option<Result<TlsClient, Arc<TlsError>>>,
    /// What the password of a Shadowsocks server stands for; or what is wrong with it.
    key: Option<Result<Arc<Key>, String>>,
}

impl Proxy {
    /// A proxy whose addresses are known if its host is an address, and otherwise after [`Self::resolve`].
    pub fn new(config: ProxyConfig, timeouts: Timeouts, resolver: Arc<dyn Resolve>) -> Self {
        let literal =
            config.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip.to_canonical(), config.port));
        let tls = config.tls.as_ref();
        let tls = tls.map(|settings| TlsClient::new(&config.host, settings).map_err(Arc::new));
        let key = match config.protocol {
            Protocol::Shadowsocks(method) => {
                let password = config.credentials.as_ref().map_or("", Credentials::password);
                Some(Key::new(method, password).map(Arc::new))
            }
            _ => None,
        };
        Self {
            label: config.to_string().into(),
            config,
            timeouts,
            resolver,
            addrs: RwLock::new(literal.into_iter().collect()),
            preferred: AtomicUsize::new(0),
            pipelining: Pipelining::default(),
            tls,
            key,
        }
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// Its URL without user and password.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The addresses that are tried in turn.
    pub fn addrs(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.addrs.read())
    }

    /// Replaces the addresses; flows that exist stay where they are.
    pub fn set_addrs(&self, addrs: Vec<SocketAddr>) {
        *self.addrs.write() = addrs.into();
        self.preferred.store(0, Relaxed);
        self.pipelining.forget();
    }

    /// Asks the resolver for the addresses and keeps them. An address given in place of a name is kept as it is.
    ///
    /// # Errors
    /// [`DialError::Resolve`]; the addresses of before stay.
    pub async fn resolve(&self) -> Result<Arc<[SocketAddr]>, DialError> {
        self.resolve_by(&*self.resolver).await
    }

    /// The same by another resolver.
    ///
    /// # Errors
    /// As there.
    pub async fn resolve_by(&self, resolver: &dyn Resolve) -> Result<Arc<[SocketAddr]>, DialError> {
        if self.config.host.parse::<IpAddr>().is_err() {
            let failed = |source| DialError::Resolve { proxy: Arc::clone(&self.label), source };
            let addrs = resolver.resolve(&self.config.host, self.config.port).await.map_err(failed)?;
            if addrs.is_empty() {
                return Err(failed(std::io::Error::other("it has none")));
            }
            if *addrs != *self.addrs() {
                self.set_addrs(addrs);
            }
        }
        Ok(self.addrs())
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.config.credentials.as_ref()
    }

    /// Whether the protocol and the configuration allow it.
    pub(crate) fn may_pipeline(&self) -> bool {
        self.config.pipeline && self.config.credentials.is_none() && self.config.tls.is_none()
    }

    pub(crate) fn pipelining(&self) -> &Pipelining {
        &self.pipelining
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    pub(crate) fn resolver(&self) -> &dyn Resolve {
        &*self.resolver
    }

    pub(crate) fn fault(&self, fault: ProxyFault) -> DialError {
        DialError::Proxy { proxy: Arc::clone(&self.label), fault }
    }

    /// Connects and runs the handshake. The future is boxed: while it waits, which most flows never do again,
    /// it is larger than all the rest of a flow.
    pub(crate) async fn dial(
        &self,
        egress: &Egress,
        machine: &mut (dyn Handshake + Send),
    ) -> Result<Connected, DialError> {
        let stream = self.connect(egress).await?;
        let pipelined = self.pipelining.is_known_to_work();
        let done = self.greet(stream, machine, pipelined).await;
        // A refusal is an answer. All else may come of the request that was sent ahead.
        let answered =
            matches!(done, Ok(_) | Err(DialError::Proxy { fault: ProxyFault::Refused { .. }, .. }));
        if pipelined && !answered {
            self.pipelining.forget();
        }
        done
    }

    /// The same, with messages sent together although the proxy is not known to take them.
    pub(crate) async fn dial_pipelined(
        &self,
        egress: &Egress,
        machine: &mut (dyn Handshake + Send),
    ) -> Result<Connected, DialError> {
        let stream = self.connect(egress).await?;
        self.greet(stream, machine, true).await
    }

    /// Runs the handshake.
    async fn greet(
        &self,
        mut stream: Protected<TcpStream>,
        machine: &mut (dyn Handshake + Send),
        pipelined: bool,
    ) -> Result<Connected, DialError> {
        if self.tls.is_some() {
            let mut carrier = Box::pin(self.by_tls(stream)).await?;
            let early = self.shake_hands(&mut carrier, machine, pipelined).await?;
            return tunnel::open(carrier, Vec::new(), early).map_err(|source| self.no_tunnel(source));
        }
        let early = self.shake_hands(&mut stream, machine, pipelined).await?;
        Ok(Connected { stream, early })
    }

    /// Connects, and makes TLS of it.
    pub(crate) async fn connect_by_tls(
        &self,
        egress: &Egress,
    ) -> Result<TlsStream<Protected<TcpStream>>, DialError> {
        let stream = self.connect(egress).await?;
        self.by_tls(stream).await
    }

    async fn by_tls(
        &self,
        stream: Protected<TcpStream>,
    ) -> Result<TlsStream<Protected<TcpStream>>, DialError> {
        let failed = |source| DialError::Tls { proxy: Arc::clone(&self.label), source };
        let client = match &self.tls {
            Some(Ok(client)) => client,
            Some(Err(error)) => return Err(failed(io::Error::other(Arc::clone(error)))),
            None => return Err(failed(io::Error::other("it is configured without TLS"))),
        };
        match timeout(self.timeouts.handshake, client.connect(stream)).await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(DialError::HandshakeTimeout {
                proxy: Arc::clone(&self.label),
                after: self.timeouts.handshake,
                requested: false,
            }),
        }
    }

    pub(crate) fn no_tunnel(&self, source: EgressError) -> DialError {
        DialError::Tunnel { proxy: Arc::clone(&self.label), source }
    }

    /// The password alone, where there is no user.
    pub(crate) fn password(&self) -> &str {
        self.credentials().map_or("", Credentials::password)
    }

    /// What the password of a Shadowsocks server stands for.
    pub(crate) fn key(&self) -> io::Result<Arc<Key>> {
        match &self.key {
            Some(Ok(key)) => Ok(Arc::clone(key)),
            Some(Err(why)) => Err(io::Error::other(why.clone())),
            None => Err(io::Error::other("it is no Shadowsocks server")),
        }
    }

    pub(crate) fn broke(&self, source: io::Error) -> DialError {
        DialError::ProxyBroke { proxy: Arc::clone(&self.label), source }
    }

    /// The address that worked last, for what cannot be tried.
    pub(crate) fn preferred_addr(&self) -> io::Result<SocketAddr> {
        let addrs = self.addrs();
        let at = self.preferred.load(Relaxed) % addrs.len().max(1);
        addrs.get(at).copied().ok_or_else(|| io::Error::other("its name has not been resolved"))
    }

    async fn shake_hands(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        machine: &mut (dyn Handshake + Send),
        pipelined: bool,
    ) -> Result<Vec<u8>, DialError> {
        match timeout(self.timeouts.handshake, drive::run(stream, machine, pipelined)).await {
            Ok(Ok(early)) => Ok(early),
            Ok(Err(Broken::Fault(fault))) => Err(self.fault(fault)),
            Ok(Err(Broken::Io(source))) => {
                Err(DialError::ProxyBroke { proxy: Arc::clone(&self.label), source })
            }
            Err(_) => Err(DialError::HandshakeTimeout {
                proxy: Arc::clone(&self.label),
                after: self.timeouts.handshake,
                requested: machine.requested(),
            }),
        }
    }

    /// Tries the addresses in turn, the one that worked last first. Each gets its share of the time left, so
    /// that a dead one does not use up that of the others.
    pub(crate) async fn connect(&self, egress: &Egress) -> Result<Protected<TcpStream>, DialError> {
        let addrs = self.addrs();
        let begin = Instant::now();
        let end = begin + self.timeouts.connect;
        let first = self.preferred.load(Relaxed);
        let mut failed: Option<(SocketAddr, Option<EgressError>)> = None;
        for n in 0..addrs.len() {
            let at = (first + n) % addrs.len();
            let left = end.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addrs.len() - n).unwrap_or(u32::MAX);
            match timeout_at(Instant::now() + share, egress.connect_tcp(addrs[at])).await {
                Ok(Ok(stream)) => {
                    if self.preferred.swap(at, Relaxed) != at {
                        self.pipelining.forget();
                    }
                    return Ok(stream);
                }
                Ok(Err(source)) => failed = Some((addrs[at], Some(source))),
                // An error says more than silence.
                Err(_) => failed = failed.or(Some((addrs[at], None))),
            }
        }
        let proxy = Arc::clone(&self.label);
        Err(match failed {
            Some((addr, Some(source))) => DialError::ProxyDown { proxy, addr, source },
            Some((_, None)) => DialError::ProxySilent { proxy, after: self.timeouts.connect },
            None => {
                DialError::Resolve { proxy, source: std::io::Error::other("its name has not been resolved") }
            }
        })
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("config", &self.config)
            .field("addrs", &self.addrs())
            .finish_non_exhaustive()
    }
}
