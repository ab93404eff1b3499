//! Datagrams by way of a SOCKS5 relay.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use oneway_egress::{Egress, Protected};
use oneway_flow::Target;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::UdpSocket;

use super::keeper::{self, Keeper, Link};
use super::{UdpCounters, UdpPath, past_earlier_errors};
use crate::proxy::Proxy;
use crate::socks5::datagram::{HEADER_MAX, Rejected, Source, decode_header, encode_header};
use crate::{DialError, ProxyFault};

/// So many names that datagrams were sent to are remembered, for proxies that answer with names.
const NAMES: usize = 32;

/// One socket to the relay, and the connection that keeps the relay alive.
#[derive(Debug)]
pub struct Socks5Udp {
    link: Arc<Link>,
    keeper: Keeper,
    names: Mutex<Vec<(Arc<str>, SocketAddr)>>,
    foreign: AtomicU64,
    fragments: AtomicU64,
    malformed: AtomicU64,
}

pub(crate) async fn open(egress: &Arc<Egress>, proxy: &Arc<Proxy>) -> Result<UdpPath, DialError> {
    let association = keeper::associate(egress, proxy).await?;
    let socket: Protected<UdpSocket> = egress.udp_for(association.relay).map_err(DialError::Udp)?;
    let link = Arc::new(Link::new(socket, association.relay));
    let keeper = Keeper::start(Arc::clone(&link), association, Arc::clone(egress), Arc::clone(proxy));
    Ok(UdpPath::Socks5(Socks5Udp {
        link,
        keeper,
        names: Mutex::default(),
        foreign: AtomicU64::new(0),
        fragments: AtomicU64::new(0),
        malformed: AtomicU64::new(0),
    }))
}

impl Socks5Udp {
    pub(super) fn socket(&self) -> &UdpSocket {
        &self.link.socket
    }

    /// The payload of a received datagram, and its true source; none if it is to be dropped.
    pub(super) fn unwrap(
        &self,
        slot: &[u8],
        datagram: Range<usize>,
        from: SocketAddr,
    ) -> Option<(Range<usize>, SocketAddr)> {
        // The kernel lets only the relay through; this one came before the socket was connected to it, from anybody
        // or from a relay that is no more.
        if self.link.relay() != Some(from) {
            self.foreign.fetch_add(1, Relaxed);
            return None;
        }
        match decode_header(slot.get(datagram.clone()).unwrap_or_default()) {
            Ok(header) => match self.source(header.source) {
                Some(source) => return Some((datagram.start + header.len..datagram.end, source)),
                None => self.malformed.fetch_add(1, Relaxed),
            },
            Err(Rejected::Fragment) => self.fragments.fetch_add(1, Relaxed),
            Err(Rejected::Malformed) => self.malformed.fetch_add(1, Relaxed),
        };
        None
    }

    pub(super) fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        let mut header = [0; HEADER_MAX];
        let len = encode_header(&mut header, dst).map_err(unspeakable)?;
        if let Some(host) = &dst.host {
            self.remember(host, dst.addr);
        }
        if self.link.relay().is_none() {
            return self.link.keep_until_remade(&header[..len], payload);
        }
        send(&self.link.socket, &[IoSlice::new(&header[..len]), IoSlice::new(payload)])
    }

    pub(super) async fn control_closed(&self) {
        self.keeper.lost().await;
    }

    pub(super) fn counters(&self) -> UdpCounters {
        UdpCounters {
            foreign: self.foreign.load(Relaxed),
            fragments: self.fragments.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
        }
    }

    fn remember(&self, host: &Arc<str>, addr: SocketAddr) {
        let mut names = self.names.lock();
        if names.last().is_some_and(|(name, at)| *at == addr && name == host) {
            return;
        }
        names.retain(|(name, at)| at.port() != addr.port() || name != host);
        if names.len() == NAMES {
            names.remove(0);
        }
        names.push((Arc::clone(host), addr));
    }

    /// The address of a source. A name is that of a destination: the client knows it by the address it used.
    fn source(&self, source: Source<'_>) -> Option<SocketAddr> {
        match source {
            Source::Ip(addr) => Some(addr),
            Source::Name(name, port) => {
                let names = self.names.lock();
                names
                    .iter()
                    .rev()
                    .find(|(known, at)| at.port() == port && **known == *name)
                    .map(|(_, at)| *at)
            }
        }
    }
}

/// One datagram to the relay out of several slices, without putting them together first. The reactor is not asked:
/// a socket that can take nothing says so itself, and a new one can.
pub(super) fn send(socket: &UdpSocket, slices: &[IoSlice<'_>]) -> io::Result<()> {
    past_earlier_errors(|| SockRef::from(socket).send_vectored(slices)).map(drop)
}

/// Nobody is there by such a name.
fn unspeakable(fault: ProxyFault) -> io::Error {
    io::Error::new(io::ErrorKind::HostUnreachable, fault)
}
