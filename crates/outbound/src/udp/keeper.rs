//! Keeps the association with a SOCKS5 relay: it lives as long as the TCP connection that asked for it
//! (RFC 1928, section 6), and is made anew when a datagram is to be sent after that has ended.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneway_egress::{Egress, Protected};
use parking_lot::Mutex;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Fate;
use super::backlog::Backlog;
use super::socks5::send;
use crate::proxy::Proxy;
use crate::socks5::BoundAddr;
use crate::{DialError, ProxyFault, Socks5};

/// Datagrams that wait for a new association, so that the first ones after a loss are only late.
const WAITING: usize = 16;
const WAITING_BYTES: usize = 64 * 1024;

/// Between attempts to make a new association while datagrams keep coming.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// A relay, and the connection that it lives with.
#[derive(Debug)]
pub(super) struct Association {
    control: Protected<TcpStream>,
    pub(super) relay: SocketAddr,
}

/// What the path and its keeper share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: Protected<UdpSocket>,
    state: Mutex<State>,
    /// Tells the keeper that there is something to send.
    wanted: Notify,
}

#[derive(Debug)]
struct State {
    /// None while the association is lost.
    relay: Option<SocketAddr>,
    waiting: Waiting,
    /// The last attempt to make a new association has failed.
    failed: bool,
}

/// Datagrams that wait for a relay.
struct Waiting {
    datagrams: VecDeque<(Vec<u8>, Fate)>,
    bytes: usize,
    backlog: Arc<Backlog>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let datagrams = self.datagrams.len();
        f.debug_struct("Waiting").field("datagrams", &datagrams).field("bytes", &self.bytes).finish()
    }
}

impl Waiting {
    /// Keeps a datagram, if there is room for it.
    fn keep(&mut self, header: &[u8], payload: &[u8], fate: Fate) -> bool {
        let len = header.len() + payload.len();
        let fits =
            self.datagrams.len() < WAITING && self.bytes + len <= WAITING_BYTES && self.backlog.take(len);
        if fits {
            self.bytes += len;
            self.datagrams.push_back(([header, payload].concat(), fate));
        }
        fits
    }

    /// Takes them all.
    fn take(&mut self) -> VecDeque<(Vec<u8>, Fate)> {
        self.backlog.give_back(self.datagrams.len(), std::mem::take(&mut self.bytes));
        std::mem::take(&mut self.datagrams)
    }

    /// Drops them all.
    fn lose(&mut self) {
        for (_, fate) in self.take() {
            fate(false);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lose();
    }
}

impl Link {
    pub(super) fn new(socket: Protected<UdpSocket>, relay: SocketAddr, backlog: Arc<Backlog>) -> Self {
        let waiting = Waiting { datagrams: VecDeque::new(), bytes: 0, backlog };
        let state = State { relay: Some(relay), waiting, failed: false };
        Self { socket, state: Mutex::new(state), wanted: Notify::new() }
    }

    pub(super) fn relay(&self) -> Option<SocketAddr> {
        self.state.lock().relay
    }

    /// Holds a datagram back until there is a relay again, and sees to it that there will be. `fate` is told, once, what has
    /// become of it, unless this fails.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] if the proxy has just refused a new association;
    /// [`io::ErrorKind::WouldBlock`] if there is no room.
    pub(super) fn keep_until_remade(&self, header: &[u8], payload: &[u8], fate: Fate) -> io::Result<()> {
        self.wanted.notify_one();
        let mut state = self.state.lock();
        if state.relay.is_some() {
            drop(state);
            return send(&self.socket, &[IoSlice::new(header), IoSlice::new(payload)]).map(|()| fate(true));
        }
        if state.failed {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if state.waiting.keep(header, payload, fate) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn lost(&self) {
        self.state.lock().relay = None;
    }

    fn failed(&self) {
        let mut state = self.state.lock();
        state.failed = true;
        state.waiting.lose();
    }

    fn remade(&self, relay: SocketAddr) {
        let waiting = {
            let mut state = self.state.lock();
            state.relay = Some(relay);
            state.failed = false;
            state.waiting.take()
        };
        for (datagram, fate) in waiting {
            // What does not fit the socket's buffer is lost, as any datagram may be.
            fate(send(&self.socket, &[IoSlice::new(&datagram)]).is_ok());
        }
    }
}

/// The task that keeps the association. Ends with this handle.
#[derive(Debug)]
pub(super) struct Keeper {
    task: AbortHandle,
    lost: watch::Receiver<bool>,
}

impl Keeper {
    pub(super) fn start(
        link: Arc<Link>,
        association: Association,
        egress: Arc<Egress>,
        proxy: Arc<Proxy>,
    ) -> Self {
        let (lost, watching) = watch::channel(false);
        let task =
            tokio::spawn(async move { keep(&link, association.control, &egress, &proxy, &lost).await });
        Self { task: task.abort_handle(), lost: watching }
    }

    /// Waits until the association is lost.
    pub(super) async fn lost(&self) {
        // The sender lives as long as the task, and the task as long as this handle.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(
    link: &Link,
    mut control: Protected<TcpStream>,
    egress: &Arc<Egress>,
    proxy: &Arc<Proxy>,
    lost: &watch::Sender<bool>,
) {
    let mut pause = Duration::ZERO;
    loop {
        let made = Instant::now();
        closed(&control).await;
        link.lost();
        drop(control);
        lost.send_replace(true);
        tracing::debug!(proxy = %proxy.label(), "the UDP association has ended");
        // A proxy that ends each association at once is not to be asked for another with each datagram.
        if made.elapsed() < RETRY_MOST {
            sleep(pause).await;
            pause = (pause * 2).clamp(RETRY_FIRST, RETRY_MOST);
        } else {
            pause = Duration::ZERO;
        }
        let association = remake(link, egress, proxy).await;
        control = association.control;
        lost.send_replace(false);
        link.remade(association.relay);
    }
}

/// Makes a new association, once something is to be sent; after failures again, whenever something is.
async fn remake(link: &Link, egress: &Arc<Egress>, proxy: &Arc<Proxy>) -> Association {
    let mut pause = RETRY_FIRST;
    loop {
        link.wanted.notified().await;
        match again(link, egress, proxy).await {
            Ok(association) => return association,
            Err(error) => tracing::debug!(%error, "no new UDP association"),
        }
        link.failed();
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MOST);
    }
}

async fn again(link: &Link, egress: &Arc<Egress>, proxy: &Arc<Proxy>) -> Result<Association, DialError> {
    let association = Box::pin(associate(egress, proxy)).await?;
    // The client's mapping is the socket, which stays; it can only reach relays of its own family.
    let same_family =
        link.socket.local_addr().is_ok_and(|local| local.is_ipv4() == association.relay.is_ipv4());
    if !same_family {
        let what = "its relay has moved to another address family".to_owned();
        return Err(proxy.fault(ProxyFault::Garbage { protocol: "SOCKS5", what }));
    }
    egress.connect_udp(&link.socket, association.relay).map_err(DialError::Udp)?;
    Ok(association)
}

/// What is read of a control connection before its association is given up.
const MOST_SAID: usize = 16 * 1024;

/// Waits for the end of the control connection. Nothing is said on it after the reply (RFC 1928, 7); a little is ignored, and
/// who says more keeps this worker from its other work.
async fn closed(control: &TcpStream) {
    let mut scrap = [0; 1024];
    let mut said = 0;
    while said < MOST_SAID {
        if control.readable().await.is_err() {
            return;
        }
        match control.try_read(&mut scrap) {
            Ok(0) => return,
            Ok(len) => said += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Asks the proxy for a relay.
pub(super) async fn associate(egress: &Egress, proxy: &Proxy) -> Result<Association, DialError> {
    let mut machine = Socks5::udp_associate(proxy.credentials());
    let connected = proxy.dial(egress, &mut machine).await?;
    let control = connected.stream;
    let broke = |source| DialError::ProxyBroke { proxy: Arc::clone(proxy.label()), source };
    let server = control.peer_addr().map_err(broke)?;
    let bound = match machine.bound() {
        Some(BoundAddr::Ip(addr)) => *addr,
        Some(BoundAddr::Name(name, port)) => named(proxy, name, *port, server).await?,
        None => SocketAddr::new(server.ip(), 0),
    };
    let relay = relay(bound, server.ip());
    if relay.port() == 0 {
        let what = "its UDP relay has port 0".to_owned();
        return Err(proxy.fault(ProxyFault::Garbage { protocol: "SOCKS5", what }));
    }
    egress.check_addr(relay).map_err(DialError::Udp)?;
    Ok(Association { control, relay })
}

/// Where the relay is. Proxies that listen on every address, or sit behind a translation on the same host, say
/// the unspecified address or loopback and mean the one that they were reached by.
fn relay(bound: SocketAddr, server: IpAddr) -> SocketAddr {
    let ip = bound.ip();
    let meant = if ip.is_unspecified() || (ip.is_loopback() && !server.is_loopback()) { server } else { ip };
    SocketAddr::new(meant.to_canonical(), bound.port())
}

/// The address of a relay given by name.
async fn named(proxy: &Proxy, name: &str, port: u16, server: SocketAddr) -> Result<SocketAddr, DialError> {
    if name.is_empty() || name.eq_ignore_ascii_case(&proxy.config().host) {
        return Ok(SocketAddr::new(server.ip(), port));
    }
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let failed = |source| DialError::Resolve { proxy: Arc::clone(proxy.label()), source };
    let found = timeout(proxy.timeouts().connect, proxy.resolver().resolve(name, port));
    let addrs = found.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    let same_family = addrs.iter().find(|addr| addr.is_ipv4() == server.is_ipv4());
    match same_family.or(addrs.first()) {
        Some(addr) => Ok(*addr),
        None => Err(failed(io::Error::other(format!("its UDP relay {name:?} has no address")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "both ends are of this test")]
    async fn a_control_connection_that_talks_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let say = |len| {
            let words = vec![0; len];
            let server = &server;
            async move {
                let mut said = 0;
                while said < len {
                    server.writable().await.unwrap();
                    said += server.try_write(&words[said..]).unwrap_or(0);
                }
            }
        };
        say(MOST_SAID - 1).await;
        assert!(tokio::time::timeout(Duration::from_millis(200), closed(&control)).await.is_err());
        say(MOST_SAID).await;
        tokio::time::timeout(Duration::from_secs(5), closed(&control)).await.unwrap();
    }

    #[test]
    fn relay_addresses_that_mean_the_server() {
        let at =
            |bound: &str, server: &str| relay(bound.parse().unwrap(), server.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:9000", "192.0.2.1"), "192.0.2.1:9000");
        assert_eq!(at("[::]:9000", "192.0.2.1"), "192.0.2.1:9000");
        assert_eq!(at("0.0.0.0:9000", "2001:db8::1"), "[2001:db8::1]:9000");
        assert_eq!(at("127.0.0.1:9000", "192.0.2.1"), "192.0.2.1:9000");
        assert_eq!(at("127.0.0.1:9000", "127.0.0.1"), "127.0.0.1:9000");
        assert_eq!(at("[::1]:9000", "2001:db8::1"), "[2001:db8::1]:9000");
        assert_eq!(at("198.51.100.7:9000", "192.0.2.1"), "198.51.100.7:9000");
        assert_eq!(at("[::ffff:198.51.100.7]:9000", "192.0.2.1"), "198.51.100.7:9000");
    }
}
