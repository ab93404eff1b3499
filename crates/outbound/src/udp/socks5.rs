//! Datagrams by way of a SOCKS5 relay.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use oneway_egress::{Egress, Protected, segments};
use oneway_flow::Target;
use socket2::SockRef;
use tokio::net::UdpSocket;

use super::backlog::Backlog;
use super::keeper::{self, Keeper, Link};
use super::relayed::Relayed;
use super::{Fate, UdpCounters, UdpPath, past_earlier_errors, send_segments};
use crate::DialError;
use crate::proxy::Proxy;
use crate::socks5::datagram::HEADER_MAX;

/// One socket to the relay, and the connection that keeps the relay alive.
#[derive(Debug)]
pub struct Socks5Udp {
    link: Arc<Link>,
    keeper: Keeper,
    relayed: Relayed,
    /// Whether the kernel takes several datagrams as one.
    segments: bool,
}

thread_local! {
    /// Where datagrams are put together with their headers. Used within one call only.
    static WRAPPED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The most that a datagram of IPv4 carries.
const PAYLOAD_MAX: usize = 65_507;

pub(crate) async fn open(
    egress: &Arc<Egress>,
    proxy: &Arc<Proxy>,
    backlog: &Arc<Backlog>,
) -> Result<UdpPath, DialError> {
    let association = keeper::associate(egress, proxy).await?;
    let socket: Protected<UdpSocket> = egress.udp_for(association.relay).map_err(DialError::Udp)?;
    let segments = segments::enable(&socket);
    let link = Arc::new(Link::new(socket, association.relay, Arc::clone(backlog)));
    let keeper = Keeper::start(Arc::clone(&link), association, Arc::clone(egress), Arc::clone(proxy));
    Ok(UdpPath::Socks5(Socks5Udp { link, keeper, relayed: Relayed::default(), segments }))
}

impl Socks5Udp {
    pub(super) fn socket(&self) -> &UdpSocket {
        &self.link.socket
    }

    /// Hands the payloads of what was received on, with their true source: datagrams of `size` bytes, of which the last
    /// may be shorter. As [`UdpPath::try_recv`].
    pub(super) fn unwrap(
        &self,
        slot: &mut [u8],
        received: Range<usize>,
        size: usize,
        from: SocketAddr,
        each: &mut impl FnMut(&mut [u8], Range<usize>, usize, SocketAddr),
    ) {
        // The kernel lets only the relay through; this one came before the socket was connected to it, from anybody
        // or from a relay that is no more.
        if self.link.relay() != Some(from) {
            return self.relayed.is_foreign();
        }
        self.relayed.unwrap_joined(slot, received, size, each);
    }

    pub(super) fn takes_segments(&self) -> bool {
        self.segments
    }

    pub(super) fn try_send_segments(
        &self,
        payload: &[u8],
        size: usize,
        dst: &Target,
    ) -> (usize, io::Result<()>) {
        let mut header = [0; HEADER_MAX];
        let len = match self.relayed.header(&mut header, dst) {
            Ok(len) => len,
            Err(error) => return (0, Err(error)),
        };
        let (header, size) = (header.get(..len).unwrap_or_default(), size.max(1));
        let together = (PAYLOAD_MAX / (size + len)).clamp(1, segments::MOST);
        let mut sent = 0;
        for datagrams in payload.chunks(size * together) {
            if self.link.relay().is_none() {
                return (sent, Err(io::ErrorKind::NotConnected.into()));
            }
            let (gone, result) = WRAPPED.with_borrow_mut(|wrapped| {
                wrapped.clear();
                for datagram in datagrams.chunks(size) {
                    wrapped.extend_from_slice(header);
                    wrapped.extend_from_slice(datagram);
                }
                send_segments(&self.link.socket, wrapped, size + len, None)
            });
            sent += gone;
            if result.is_err() {
                return (sent, result);
            }
        }
        (sent, Ok(()))
    }

    pub(super) fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        let mut header = [0; HEADER_MAX];
        let len = self.relayed.header(&mut header, dst)?;
        if self.link.relay().is_none() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        send(&self.link.socket, &[IoSlice::new(&header[..len]), IoSlice::new(payload)])
    }

    /// As [`UdpPath::keep`].
    pub(super) fn keep(&self, payload: &[u8], dst: &Target, fate: Fate) -> io::Result<()> {
        let mut header = [0; HEADER_MAX];
        let len = self.relayed.header(&mut header, dst)?;
        self.link.keep_until_remade(&header[..len], payload, fate)
    }

    pub(super) async fn control_closed(&self) {
        self.keeper.lost().await;
    }

    pub(super) fn counters(&self) -> UdpCounters {
        self.relayed.counters()
    }
}

/// One datagram to the relay out of several slices, without putting them together first. The reactor is not asked:
/// a socket that can take nothing says so itself, and a new one can.
pub(super) fn send(socket: &UdpSocket, slices: &[IoSlice<'_>]) -> io::Result<()> {
    past_earlier_errors(|| SockRef::from(socket).send_vectored(slices)).map(drop)
}
