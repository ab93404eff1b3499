//! A SOCKS server: version 5 (RFC 1928, 1929) with CONNECT and UDP ASSOCIATE, and versions 4 and 4a, on one port.

mod associate;
mod serve;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use super::{ServerThread, Zone, listen};
use crate::error::LabError;
use crate::ns::NetNs;

/// Reply codes of RFC 1928, section 6.
pub mod reply {
    /// It worked.
    pub const SUCCEEDED: u8 = 0;
    /// It did not, for no reason below.
    pub const FAILURE: u8 = 1;
    /// The rules of the server do not allow it.
    pub const NOT_ALLOWED: u8 = 2;
    /// There is no route to the target's network.
    pub const NET_UNREACHABLE: u8 = 3;
    /// The target's host cannot be reached, or its name is unknown.
    pub const HOST_UNREACHABLE: u8 = 4;
    /// The target refused the connection.
    pub const REFUSED: u8 = 5;
    /// The target did not answer in time.
    pub const TTL_EXPIRED: u8 = 6;
    /// The server does not know the command.
    pub const COMMAND_NOT_SUPPORTED: u8 = 7;
    /// The server does not know the type of address.
    pub const ADDRESS_NOT_SUPPORTED: u8 = 8;
}

/// What the server says in `BND.ADDR` when asked for UDP ASSOCIATE.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BindAnswer {
    /// The address that the relay has.
    #[default]
    True,
    /// `0.0.0.0` or `::`, as many servers do: the client is to use the server's address.
    Unspecified,
    /// `127.0.0.1` or `::1`, as servers behind a forwarder do.
    Loopback,
    /// A name.
    Domain(String),
}

/// What the server asks for and how it behaves.
#[derive(Debug, Clone)]
pub struct SocksOptions {
    /// User name and password that it demands. For version 4 only the name counts.
    pub user: Option<(String, String)>,
    /// How it resolves names.
    pub zone: Zone,
    /// What it says in `BND.ADDR` for UDP.
    pub bind_answer: BindAnswer,
    /// Sends its answers byte by byte, each in a segment of its own.
    pub split: bool,
    /// Whether it carries UDP; otherwise the answer is [`reply::COMMAND_NOT_SUPPORTED`].
    pub udp: bool,
    /// Whether it hangs up instead of that answer, as OpenSSH's `ssh -D` does.
    pub hangs_up: bool,
    /// Whether it can reach IPv6 targets; otherwise the answer is [`reply::NET_UNREACHABLE`].
    pub ipv6: bool,
    /// How long it tries to connect before the answer is [`reply::TTL_EXPIRED`].
    pub connect_timeout: Duration,
    /// How long it waits before each answer.
    pub delay: Duration,
}

impl Default for SocksOptions {
    fn default() -> Self {
        Self {
            user: None,
            zone: Zone::new(),
            bind_answer: BindAnswer::True,
            split: false,
            udp: true,
            hangs_up: false,
            ipv6: true,
            connect_timeout: Duration::from_secs(3),
            delay: Duration::ZERO,
        }
    }
}

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocksCommand {
    /// Command 1.
    Connect,
    /// Command 3.
    UdpAssociate,
    /// Any other.
    Other(u8),
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocksRequest {
    /// 4 or 5.
    pub version: u8,
    /// Who asked.
    pub client: SocketAddr,
    /// What was asked for.
    pub command: SocksCommand,
    /// The target, `host:port` as the client wrote it: a name or an address.
    pub target: String,
    /// The reply code in the terms of version 5, see [`reply`].
    pub reply: u8,
}

/// What the server did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocksCounters {
    /// Connections accepted from clients.
    pub clients: u64,
    /// Bytes carried over TCP, in both directions.
    pub carried: u64,
    /// UDP associations made.
    pub associations: u64,
    /// UDP associations that exist now.
    pub associations_open: u64,
    /// Datagrams carried from clients to targets.
    pub datagrams_out: u64,
    /// Datagrams carried from anybody to clients.
    pub datagrams_in: u64,
    /// Datagrams thrown away: malformed, in fragments, or from somebody else than the client.
    pub datagrams_dropped: u64,
}

#[derive(Debug, Default)]
struct Counts {
    clients: AtomicU64,
    carried: Arc<AtomicU64>,
    associations: AtomicU64,
    associations_open: AtomicU64,
    datagrams_out: AtomicU64,
    datagrams_in: AtomicU64,
    datagrams_dropped: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    options: Mutex<SocksOptions>,
    exit: Exit,
    requests: Mutex<Vec<SocksRequest>>,
    counts: Counts,
    kill_connections: watch::Sender<u64>,
    kill_associations: watch::Sender<u64>,
}

/// The SOCKS server, running.
#[derive(Debug)]
pub struct SocksServer {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    _thread: ServerThread,
}

impl SocksServer {
    /// Starts it on each of `addresses`. What it sends to targets comes from those addresses too, unless they are
    /// loopback addresses.
    ///
    /// # Errors
    /// [`LabError::Server`] when an address cannot be bound.
    pub fn start(
        namespace: &NetNs,
        addresses: &[SocketAddr],
        options: SocksOptions,
    ) -> Result<Self, LabError> {
        let shared = Arc::new(Shared {
            options: Mutex::new(options),
            exit: outgoing(addresses),
            requests: Mutex::default(),
            counts: Counts::default(),
            kill_connections: watch::Sender::new(0),
            kill_associations: watch::Sender::new(0),
        });
        let (inside, listening) = (shared.clone(), addresses.to_vec());
        let thread = ServerThread::start(namespace, "socks", move || async move {
            for address in listening {
                let listener = listen(address, None)?;
                let inside = inside.clone();
                tokio::spawn(async move {
                    while let Ok((stream, client)) = listener.accept().await {
                        inside.counts.clients.fetch_add(1, Ordering::Relaxed);
                        tokio::spawn(serve::serve(stream, client, inside.clone()));
                    }
                });
            }
            Ok(())
        })?;
        Ok(Self { shared, addresses: addresses.to_vec(), _thread: thread })
    }

    /// The addresses that it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Changes its behaviour for all requests from now on.
    pub fn set_options(&self, options: SocksOptions) {
        *self.shared.options.lock() = options;
    }

    /// A copy of its options, to be changed and set again.
    pub fn options(&self) -> SocksOptions {
        self.shared.options.lock().clone()
    }

    /// The requests that came so far.
    pub fn requests(&self) -> Vec<SocksRequest> {
        self.shared.requests.lock().clone()
    }

    /// The requests for `target`, `host:port` as the client wrote it.
    pub fn requests_for(&self, target: &str) -> Vec<SocksRequest> {
        self.requests().into_iter().filter(|request| request.target == target).collect()
    }

    /// Forgets the requests that came so far.
    pub fn forget(&self) {
        self.shared.requests.lock().clear();
    }

    /// What it did so far.
    pub fn counters(&self) -> SocksCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.shared.counts;
        SocksCounters {
            clients: read(&counts.clients),
            carried: read(&counts.carried),
            associations: read(&counts.associations),
            associations_open: read(&counts.associations_open),
            datagrams_out: read(&counts.datagrams_out),
            datagrams_in: read(&counts.datagrams_in),
            datagrams_dropped: read(&counts.datagrams_dropped),
        }
    }

    /// Resets every TCP connection that it carries now.
    pub fn kill_connections(&self) {
        self.shared.kill_connections.send_modify(|generation| *generation += 1);
    }

    /// Ends every UDP association that exists now, by closing its TCP connection.
    pub fn kill_associations(&self) {
        self.shared.kill_associations.send_modify(|generation| *generation += 1);
    }
}

/// The addresses from which a proxy sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

/// A proxy sends from the addresses it listens on, so that its targets can tell it from others in its namespace.
pub(crate) fn outgoing(addresses: &[SocketAddr]) -> Exit {
    let first = |ipv4: bool| {
        let mut usable = addresses.iter().map(SocketAddr::ip).filter(move |ip| ip.is_ipv4() == ipv4);
        usable.find(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    Exit { v4: first(true), v6: first(false) }
}

impl Exit {
    fn source(&self, ipv4: bool) -> Option<IpAddr> {
        if ipv4 { self.v4 } else { self.v6 }
    }

    /// Connects to `target`; a time-out is an error of that kind.
    pub(crate) async fn connect(&self, target: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source(target.is_ipv4()) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        match tokio::time::timeout(timeout, socket.connect(target)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Sends `bytes` as one segment, or each byte as its own.
pub(crate) async fn send(stream: &mut TcpStream, bytes: &[u8], split: bool) -> io::Result<()> {
    if !split {
        return stream.write_all(bytes).await;
    }
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        // Long enough for the other side to see the byte alone.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
