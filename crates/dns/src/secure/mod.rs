//! DNS over TLS (RFC 7858), over HTTPS (RFC 8484) and over QUIC (RFC 9250): one connection to a server, kept, for many questions at a time.

mod health;
mod https;
mod quic;
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RecordType};
use oneway_egress::{Egress, Protected};
use oneway_tls::{QuicClient, TlsClient, TlsError, TlsSettings, TlsStream};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::exchange::{self, By, Dropped, ExchangeError};
use crate::message::Asked;
use crate::plain::Plain;
use crate::{Upstream, accept};
use health::Health;

type Stream = TlsStream<Protected<TcpStream>>;

/// Makes a connection. Boxed, as looking for a server's name may need another server's.
type Making = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long a connection may take, with the handshakes. Nobody waits longer for an answer either.
const CONNECT: Duration = Duration::from_secs(5);

/// When a question on a connection from before is asked again on a new one: a firewall or a translation on the way may
/// have forgotten the old one, and then nothing ever comes back.
const STALE: Duration = Duration::from_millis(1500);

/// Addresses of a server's name that are tried.
const MOST_ADDRESSES: usize = 4;

/// How long an address of a server's name is kept, at least and at most.
const LEAST_TTL: Duration = Duration::from_secs(30);
const MOST_TTL: Duration = Duration::from_secs(3600);

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// By address.
    Addr(SocketAddr),
    /// By name, which upstreams that are given by address are asked for, and port.
    Name(Arc<str>, u16),
}

/// The protocol spoken on TLS, or by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecureKind {
    /// Messages as over TCP.
    Tls,
    /// HTTP/2, by POST to this path.
    Https {
        /// With its slash.
        path: String,
    },
    /// Messages on streams of QUIC.
    Quic,
}

/// A server that is asked by TLS.
pub struct Secure {
    place: Place,
    kind: SecureKind,
    settings: TlsSettings,
    /// Made when first needed, as it reads files.
    trust: Mutex<Option<Trust>>,
    connections: Mutex<Connections>,
    found: Mutex<Option<(Arc<[SocketAddr]>, Instant)>>,
    health: Health,
}

/// The connection that is kept, and the one that is being made: one at a time, however many wait for it. A server that says
/// nothing is tried as often as somebody asks, but no more often than it takes to see that.
#[derive(Default)]
struct Connections {
    kept: Option<Connection>,
    made: Option<Made>,
}

/// What becomes of a connection that is being made.
type Made = watch::Receiver<Option<Result<Connection, Arc<ExchangeError>>>>;

/// How the server is told from others.
#[derive(Clone)]
enum Trust {
    /// On TCP.
    Tls(TlsClient),
    /// On UDP.
    Quic(QuicClient),
}

/// A connection that questions can be sent on. Cheap to clone.
#[derive(Clone)]
enum Connection {
    Tls(tls::Pipe),
    Https(https::Pipe),
    Quic(quic::Pipe),
}

impl Connection {
    fn is_open(&self) -> bool {
        match self {
            Self::Tls(pipe) => pipe.is_open(),
            Self::Https(pipe) => pipe.is_open(),
            Self::Quic(pipe) => pipe.is_open(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tls(one), Self::Tls(other)) => one.is(other),
            (Self::Https(one), Self::Https(other)) => one.is(other),
            (Self::Quic(one), Self::Quic(other)) => one.is(other),
            _ => false,
        }
    }

    /// The bytes of the answer to a message, whose number they have.
    async fn ask(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Tls(pipe) => pipe.ask(bytes).await,
            Self::Https(pipe) => pipe.ask(bytes).await,
            Self::Quic(pipe) => pipe.ask(bytes).await,
        }
    }
}

impl Secure {
    /// A server whose certificate is known by `settings`, and otherwise by its address or name. Nothing is connected yet.
    pub fn new(place: Place, kind: SecureKind, mut settings: TlsSettings) -> Self {
        settings.alpn = vec![match kind {
            SecureKind::Tls => "dot".to_owned(),
            SecureKind::Https { .. } => "h2".to_owned(),
            SecureKind::Quic => "doq".to_owned(),
        }];
        Self {
            place,
            kind,
            settings,
            trust: Mutex::default(),
            connections: Mutex::default(),
            found: Mutex::default(),
            health: Health::default(),
        }
    }

    /// Where it is, if that is known without asking.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self.place {
            Place::Addr(addr) => Some(addr),
            Place::Name(..) => None,
        }
    }

    /// Its name, if that has to be resolved.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.place {
            Place::Addr(_) => None,
            Place::Name(name, _) => Some(name),
        }
    }

    /// Reads what is needed to know the server by.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn prepare(&self) -> Result<(), TlsError> {
        self.trust().map(drop)
    }

    fn trust(&self) -> Result<Trust, TlsError> {
        let mut trust = self.trust.lock();
        if let Some(trust) = &*trust {
            return Ok(trust.clone());
        }
        let host = match &self.place {
            Place::Addr(addr) => addr.ip().to_string(),
            Place::Name(name, _) => name.to_string(),
        };
        let made = match self.kind {
            SecureKind::Quic => Trust::Quic(QuicClient::new(&host, &self.settings)?),
            SecureKind::Tls | SecureKind::Https { .. } => Trust::Tls(TlsClient::new(&host, &self.settings)?),
        };
        Ok(trust.insert(made).clone())
    }

    /// Why it has not answered when it was last asked, if so.
    pub(crate) fn failing(&self) -> Option<String> {
        self.health.failing()
    }

    /// Asks it. `others` are asked for its name, if it is given by one.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        egress: &Arc<Egress>,
        others: &Arc<[Upstream]>,
        query: &Message,
        bytes: &[u8],
        dropped: &Dropped,
    ) -> Result<Message, ExchangeError> {
        let answer = self.exchange(egress, others, query, bytes, dropped).await;
        self.health.observe(self, answer.as_ref().err());
        answer
    }

    async fn exchange(
        self: &Arc<Self>,
        egress: &Arc<Egress>,
        others: &Arc<[Upstream]>,
        query: &Message,
        bytes: &[u8],
        dropped: &Dropped,
    ) -> Result<Message, ExchangeError> {
        let (connection, is_new) = self.connection(egress, others, None).await?;
        let first = timeout(STALE, connection.ask(bytes));
        let answer = if is_new {
            connection.ask(bytes).await
        } else {
            match first.await {
                Ok(Ok(answer)) => Ok(answer),
                // Servers close what is idle (RFC 7766, 6.2.3).
                Ok(Err(_)) | Err(_) => {
                    let (connection, _) = self.connection(egress, others, Some(&connection)).await?;
                    connection.ask(bytes).await
                }
            }
        };
        exchange::judge(accept(query, &answer?), dropped)
    }

    /// The connection, made if there is none but `useless`; and whether it is a new one.
    async fn connection(
        self: &Arc<Self>,
        egress: &Arc<Egress>,
        others: &Arc<[Upstream]>,
        useless: Option<&Connection>,
    ) -> Result<(Connection, bool), ExchangeError> {
        let mut made = {
            let mut connections = self.connections.lock();
            let is_useful =
                |kept: &Connection| kept.is_open() && !useless.is_some_and(|useless| useless.is(kept));
            if let Some(kept) = connections.kept.as_ref().filter(|kept| is_useful(kept)) {
                return Ok((kept.clone(), false));
            }
            connections.kept = None;
            match &connections.made {
                Some(made) => made.clone(),
                None => connections.made.insert(self.make(egress, others)).clone(),
            }
        };
        let made = made.wait_for(Option::is_some).await.ok().and_then(|made| made.clone());
        match made {
            Some(Ok(connection)) => Ok((connection, true)),
            Some(Err(error)) => Err(error.again()),
            None => Err(io::Error::other("the runtime is shutting down").into()),
        }
    }

    /// Makes a connection, in a task of its own, so that it is not given up when somebody else answers sooner: it is for the next
    /// question, too.
    fn make(self: &Arc<Self>, egress: &Arc<Egress>, others: &Arc<[Upstream]>) -> Made {
        let (done, made) = watch::channel(None);
        let (server, egress, others) = (Arc::clone(self), Arc::clone(egress), Arc::clone(others));
        let making: Making = Box::pin(async move {
            let _end = Ends(&server);
            let made = timeout(CONNECT, server.connect(&egress, &others)).await;
            let made = made.unwrap_or(Err(ExchangeError::Silent)).map_err(Arc::new);
            // Whoever has asked may not wait for it any more.
            if let Err(error) = &made {
                server.health.observe(&server, Some(error));
            }
            server.connections.lock().kept = made.as_ref().ok().cloned();
            done.send_replace(Some(made));
        });
        tokio::spawn(making);
        made
    }

    async fn connect(
        &self,
        egress: &Arc<Egress>,
        others: &Arc<[Upstream]>,
    ) -> Result<Connection, ExchangeError> {
        let trust = self.trust().map_err(io::Error::from)?;
        let addresses = match &self.place {
            Place::Addr(addr) => Arc::from([*addr]),
            Place::Name(name, port) => self.find(egress, others, name, *port).await?,
        };
        let end = Instant::now() + CONNECT;
        let mut failed = ExchangeError::Silent;
        for (n, addr) in addresses.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
            match timeout_at(Instant::now() + share, self.connect_to(egress, *addr, &trust)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failed = error,
                Err(_) => {}
            }
        }
        // Perhaps it is somewhere else now.
        *self.found.lock() = None;
        Err(failed)
    }

    async fn connect_to(
        &self,
        egress: &Egress,
        addr: SocketAddr,
        trust: &Trust,
    ) -> Result<Connection, ExchangeError> {
        let tls = match trust {
            Trust::Quic(client) => {
                return Ok(Connection::Quic(quic::Pipe::new(egress.udp_for(addr)?, addr, client).await?));
            }
            Trust::Tls(client) => client,
        };
        let stream = tls.connect(egress.connect_tcp(addr).await?).await?;
        Ok(match &self.kind {
            SecureKind::Https { path } => {
                Connection::Https(https::Pipe::new(stream, &self.authority(), path).await?)
            }
            SecureKind::Tls | SecureKind::Quic => Connection::Tls(tls::Pipe::new(stream)),
        })
    }

    /// Host and port as in a URL; the port only if it is not that of HTTPS (RFC 9110, 4.2.2).
    fn authority(&self) -> String {
        match &self.place {
            Place::Addr(SocketAddr::V6(addr)) if addr.port() == https::PORT => format!("[{}]", addr.ip()),
            Place::Addr(addr) if addr.port() == https::PORT => addr.ip().to_string(),
            Place::Addr(addr) => addr.to_string(),
            Place::Name(name, https::PORT) => name.to_string(),
            Place::Name(name, port) => format!("{name}:{port}"),
        }
    }

    /// The addresses of its name, from those servers that have an address themselves. It never enters the capture, as all
    /// that is asked is asked by protected sockets, and it cannot turn in a circle, as those have no name to ask for.
    async fn find(
        &self,
        egress: &Arc<Egress>,
        others: &Arc<[Upstream]>,
        name: &str,
        port: u16,
    ) -> Result<Arc<[SocketAddr]>, ExchangeError> {
        if let Some((found, until)) = &*self.found.lock()
            && *until > Instant::now()
        {
            return Ok(Arc::clone(found));
        }
        let mut name = Name::from_ascii(name).map_err(|error| io::Error::other(error.to_string()))?;
        name.set_fqdn(true);
        let mut failed = ExchangeError::Io(io::Error::other("its name has no address"));
        let end = Instant::now() + CONNECT;
        let nobody: Arc<[Upstream]> = Arc::from([]);
        let known: Vec<&Upstream> = others.iter().filter(|other| other.addr().is_some()).collect();
        for (n, other) in known.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let until = Instant::now() + left / u32::try_from(known.len() - n).unwrap_or(u32::MAX);
            let (dropped, plain) = (Dropped::default(), Plain::default());
            let by = By { egress, carrier: None, others: &nobody, plain: &plain };
            let ask = |kind| {
                let query = Asked::own(name.clone(), kind).outgoing();
                exchange::ask(by, other, query, until, &dropped)
            };
            let (v4, v6) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
            let mut addresses: Vec<SocketAddr> = Vec::new();
            let mut ttl = MOST_TTL;
            for answer in [v4, v6] {
                match answer {
                    Ok(answer) => {
                        for record in &answer.answers {
                            let Some(ip) = record.data.ip_addr() else { continue };
                            ttl = ttl.min(Duration::from_secs(record.ttl.into()));
                            if egress.check(ip).is_ok() && addresses.len() < MOST_ADDRESSES {
                                addresses.push(SocketAddr::new(ip, port));
                            }
                        }
                    }
                    Err(error) => failed = error,
                }
            }
            if !addresses.is_empty() {
                let found: Arc<[SocketAddr]> = addresses.into();
                *self.found.lock() =
                    Some((Arc::clone(&found), Instant::now() + ttl.clamp(LEAST_TTL, MOST_TTL)));
                return Ok(found);
            }
        }
        Err(failed)
    }
}

/// Takes note that no connection is being made any more, also where the task has ended early.
struct Ends<'a>(&'a Secure);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.connections.lock().made = None;
    }
}

impl fmt::Display for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = match &self.kind {
            SecureKind::Tls => ("tls", ""),
            SecureKind::Https { path } => ("https", path.as_str()),
            SecureKind::Quic => ("quic", ""),
        };
        match &self.place {
            Place::Addr(addr) => write!(f, "{scheme}://{addr}{path}"),
            Place::Name(name, port) => write!(f, "{scheme}://{name}:{port}{path}"),
        }
    }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secure").field(&self.to_string()).finish()
    }
}

#[cfg(test)]
mod tests;
