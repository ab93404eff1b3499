//! The server that clients want to reach: one port for each thing that a connection can do to a proxy.

mod http;
mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::ServerThread;
use crate::error::LabError;
use crate::ns::NetNs;

/// Port numbers of the services, the same on every address of an [`Origin`]. On all others it is closed.
pub mod port {
    /// TCP and UDP: sends back what comes. Half-close is answered by half-close; datagrams may be of any size.
    pub const ECHO: u16 = 7;
    /// TCP and UDP: reads, says nothing.
    pub const DISCARD: u16 = 9;
    /// TCP: sends the pattern for ever.
    pub const CHARGEN: u16 = 19;
    /// TCP: HTTP/1.1 with keep-alive. `/` a line of text, `/client` the client's address as seen from here,
    /// `/bytes/N` N bytes of the pattern, and `POST /sum` the sum over the body.
    pub const HTTP: u16 = 80;
    /// TCP: reads until FIN, then answers with [`Sum`](crate::pattern::Sum) as a line of text and closes.
    pub const SUM: u16 = 1001;
    /// TCP: resets the connection when the first byte comes.
    pub const RESET: u16 = 1002;
    /// TCP: like [`SUM`], with a small window and about 1 MB/s.
    pub const SLOW: u16 = 1003;
    /// TCP: nobody accepts and the backlog is full: SYNs vanish.
    pub const HANG: u16 = 1004;
    /// TCP: accepts, and never reads or writes.
    pub const SILENT: u16 = 1005;
    /// TCP: sends `bye\n` and FIN at once, then reads until FIN.
    pub const FIN_FIRST: u16 = 1006;
    /// TCP: resets the connection at once; without a proxy between, `connect` itself may report it.
    pub const RESET_AT_ONCE: u16 = 1007;
    /// TCP and UDP: answers with the client's address, as text.
    pub const CLIENT: u16 = 1010;
    /// UDP: answers what came, from the port [`STRANGER`] of the same address.
    pub const FROM_OTHER_PORT: u16 = 2001;
    /// UDP: answers what came, from the same port of another address of the origin.
    pub const FROM_OTHER_ADDRESS: u16 = 2002;
    /// UDP: asked with a number in text, answers with one datagram of that many bytes of the pattern.
    pub const SIZED: u16 = 2004;
    /// UDP: asked with a number in text, answers with that many datagrams, each with its number in text.
    pub const BURST: u16 = 2005;
    /// UDP: the port that answers to [`FROM_OTHER_PORT`] come from.
    pub const STRANGER: u16 = 2101;
}

/// The transport of what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What came from one client address and port to one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// TCP or UDP.
    pub network: Network,
    /// The address and port that it came to.
    pub server: SocketAddr,
    /// The address and port that it came from.
    pub client: SocketAddr,
    /// Connections (TCP) or datagrams (UDP).
    pub count: u64,
    /// Bytes of payload received.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Tally {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What came, by network, server and client.
#[derive(Debug, Default)]
struct Book {
    entries: Mutex<BTreeMap<(Network, SocketAddr, SocketAddr), Arc<Tally>>>,
    open: AtomicU64,
}

impl Book {
    fn enter(&self, network: Network, server: SocketAddr, client: SocketAddr) -> Arc<Tally> {
        let tally = self.entries.lock().entry((network, server, client)).or_default().clone();
        tally.count.fetch_add(1, Ordering::Relaxed);
        tally
    }
}

/// Counts a connection as open while it exists.
struct Open(Arc<Book>);

impl Open {
    fn new(book: &Arc<Book>) -> Self {
        book.open.fetch_add(1, Ordering::Relaxed);
        Self(book.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The origin, running. See [`port`] for what it does.
#[derive(Debug)]
pub struct Origin {
    book: Arc<Book>,
    _thread: ServerThread,
}

impl Origin {
    /// Starts all services on each of `addresses`, which the namespace must own.
    ///
    /// # Errors
    /// [`LabError::Server`] when a port cannot be bound.
    pub fn start(namespace: &NetNs, addresses: &[IpAddr]) -> Result<Self, LabError> {
        let book = Arc::new(Book::default());
        let (books, addresses) = (book.clone(), addresses.to_vec());
        let thread = ServerThread::start(namespace, "origin", move || async move {
            for address in &addresses {
                tcp::start(*address, &books)?;
            }
            udp::start(&addresses, &books)
        })?;
        Ok(Self { book, _thread: thread })
    }

    /// What came so far, sorted by network, server and client.
    pub fn seen(&self) -> Vec<Seen> {
        self.book
            .entries
            .lock()
            .iter()
            .map(|((network, server, client), tally)| Seen {
                network: *network,
                server: *server,
                client: *client,
                count: tally.count.load(Ordering::Relaxed),
                bytes: tally.bytes.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Connections accepted so far, on all ports.
    pub fn tcp_connections(&self) -> u64 {
        self.count(Network::Tcp)
    }

    /// Datagrams received so far, on all ports.
    pub fn udp_datagrams(&self) -> u64 {
        self.count(Network::Udp)
    }

    /// The addresses and ports from which anything came to `port`.
    pub fn clients(&self, network: Network, port: u16) -> BTreeSet<SocketAddr> {
        let mine = |seen: &Seen| seen.network == network && seen.server.port() == port;
        self.seen().into_iter().filter(mine).map(|seen| seen.client).collect()
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> u64 {
        self.book.open.load(Ordering::Relaxed)
    }

    /// Forgets what came so far.
    pub fn forget(&self) {
        self.book.entries.lock().clear();
    }

    fn count(&self, network: Network) -> u64 {
        self.seen().iter().filter(|seen| seen.network == network).map(|seen| seen.count).sum()
    }
}
