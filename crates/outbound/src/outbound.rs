//! The outbounds behind one type.

use std::net::SocketAddr;
use std::sync::Arc;

use oneway_egress::{Egress, Protected};
use oneway_flow::Target;
use oneway_route::Family;
use tokio::net::TcpStream;

use crate::config::{OutboundConfig, Protocol};
use crate::proxy::{Proxy, Timeouts};
use crate::shadowsocks::ShadowStream;
use crate::socks5::pipelining;
use crate::{Answer, DialError, HttpConnect, Resolve, Socks4, Socks5, UdpPath, direct, trojan, tunnel, udp};

/// A connection to the destination.
#[derive(Debug)]
pub struct Connected {
    /// Carries the destination's bytes from here on.
    pub stream: Protected<TcpStream>,
    /// The destination's first bytes, if they came together with the proxy's reply. They come before what the
    /// stream holds.
    pub early: Vec<u8>,
}

/// A way that a flow can leave by. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Outbound {
    /// Without a proxy.
    Direct,
    /// Refuses.
    Block,
    /// SOCKS5.
    Socks5(Arc<Proxy>),
    /// SOCKS4 or SOCKS4a.
    Socks4(Arc<Proxy>),
    /// HTTP `CONNECT`.
    Http(Arc<Proxy>),
    /// Trojan.
    Trojan(Arc<Proxy>),
    /// Shadowsocks.
    Shadowsocks(Arc<Proxy>),
}

impl Outbound {
    /// An outbound as configured. `resolver` is asked by [`Self::resolve`] for the proxy's name, and for the
    /// relay's where a SOCKS5 proxy gives one.
    pub fn new(config: &OutboundConfig, timeouts: Timeouts, resolver: Arc<dyn Resolve>) -> Self {
        let proxy = match config {
            OutboundConfig::Direct => return Self::Direct,
            OutboundConfig::Block => return Self::Block,
            OutboundConfig::Proxy(proxy) => Arc::new(Proxy::new(proxy.clone(), timeouts, resolver)),
        };
        match proxy.config().protocol {
            Protocol::Socks5 => Self::Socks5(proxy),
            Protocol::Socks4 | Protocol::Socks4a => Self::Socks4(proxy),
            Protocol::Http => Self::Http(proxy),
            Protocol::Trojan => Self::Trojan(proxy),
            Protocol::Shadowsocks(_) => Self::Shadowsocks(proxy),
        }
    }

    /// The proxy, where there is one.
    pub fn proxy(&self) -> Option<&Arc<Proxy>> {
        match self {
            Self::Direct | Self::Block => None,
            Self::Socks5(proxy)
            | Self::Socks4(proxy)
            | Self::Http(proxy)
            | Self::Trojan(proxy)
            | Self::Shadowsocks(proxy) => Some(proxy),
        }
    }

    /// Finds the addresses of the proxy, where there is one: [`Proxy::resolve`].
    ///
    /// # Errors
    /// [`DialError::Resolve`].
    pub async fn resolve(&self) -> Result<Arc<[SocketAddr]>, DialError> {
        match self.proxy() {
            Some(proxy) => proxy.resolve().await,
            None => Ok(Arc::from([])),
        }
    }

    /// Connects to `target`. When this returns a connection, the destination has accepted it; but for Trojan and
    /// Shadowsocks, which do not tell: there the server has.
    ///
    /// # Errors
    /// [`DialError`], whose [`answer`](DialError::answer) is what the client must see.
    pub async fn connect(&self, egress: &Arc<Egress>, target: &Target) -> Result<Connected, DialError> {
        match self {
            Self::Direct => direct::connect(egress, target.addr).await,
            Self::Block => Err(DialError::Blocked),
            proxied => Box::pin(proxied.connect_by_proxy(egress, target)).await,
        }
    }

    async fn connect_by_proxy(&self, egress: &Arc<Egress>, target: &Target) -> Result<Connected, DialError> {
        match self {
            Self::Direct | Self::Block => Err(DialError::Blocked),
            Self::Socks5(proxy) => {
                let machine = Socks5::connect(target, proxy.credentials());
                let mut machine = machine.map_err(|fault| proxy.fault(fault))?;
                let connected = proxy.dial(egress, &mut machine).await?;
                pipelining::learn(proxy, egress);
                Ok(connected)
            }
            Self::Socks4(proxy) => {
                let user = proxy.credentials().map_or("", |credentials| credentials.user());
                let names = proxy.config().protocol == Protocol::Socks4a;
                let machine = Socks4::connect(target, user, names);
                proxy.dial(egress, &mut machine.map_err(|fault| proxy.fault(fault))?).await
            }
            Self::Http(proxy) => {
                let machine = HttpConnect::connect(target, proxy.credentials());
                proxy.dial(egress, &mut machine.map_err(|fault| proxy.fault(fault))?).await
            }
            Self::Trojan(proxy) => {
                let request = trojan::connect(proxy.password(), target);
                let request = request.map_err(|fault| proxy.fault(fault))?;
                let carrier = proxy.connect_by_tls(egress).await?;
                tunnel::open(carrier, request, Vec::new()).map_err(|source| proxy.no_tunnel(source))
            }
            Self::Shadowsocks(proxy) => {
                let key = proxy.key().map_err(|source| proxy.broke(source))?;
                let carrier = proxy.connect(egress).await?;
                let stream = ShadowStream::new(carrier, key, target).map_err(|fault| proxy.fault(fault))?;
                tunnel::open(stream, Vec::new(), Vec::new()).map_err(|source| proxy.no_tunnel(source))
            }
        }
    }

    /// Whether datagrams can leave by it: whether [`Self::udp`] is of use. That they are refused is no way to leave.
    pub fn carries_udp(&self) -> bool {
        match self {
            Self::Direct | Self::Trojan(_) | Self::Shadowsocks(_) => true,
            // Its relay would be sent the datagrams in the clear.
            Self::Socks5(proxy) => proxy.config().tls.is_none(),
            Self::Block | Self::Socks4(_) | Self::Http(_) => false,
        }
    }

    /// Opens a path for the datagrams of one client socket, to destinations of `family`. What it has to keep for a while
    /// takes its room from `backlog`.
    ///
    /// # Errors
    /// [`DialError::Unsupported`] where the protocol has no datagrams.
    pub async fn udp(
        &self,
        egress: &Arc<Egress>,
        family: Family,
        backlog: &Arc<udp::Backlog>,
    ) -> Result<UdpPath, DialError> {
        match self {
            Self::Direct => udp::direct(egress, family).map_err(DialError::Udp),
            Self::Block => Err(DialError::Blocked),
            Self::Socks5(proxy) if self.carries_udp() => Box::pin(udp::socks5(egress, proxy, backlog)).await,
            Self::Trojan(proxy) => Box::pin(udp::trojan(egress, proxy)).await,
            Self::Shadowsocks(proxy) => udp::shadowsocks(egress, proxy).await,
            Self::Socks5(proxy) | Self::Socks4(proxy) | Self::Http(proxy) => Err(DialError::Unsupported {
                proxy: Arc::clone(proxy.label()),
                what: "UDP",
                answer: Answer::IcmpPort,
            }),
        }
    }
}
