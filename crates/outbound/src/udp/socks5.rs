//! Datagrams by way of a SOCKS5 relay.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use oneway_egress::{Egress, Protected};
use oneway_flow::Target;
use socket2::SockRef;
use tokio::net::UdpSocket;

use super::keeper::{self, Keeper, Link};
use super::relayed::Relayed;
use super::{UdpCounters, UdpPath, past_earlier_errors};
use crate::proxy::Proxy;
use crate::socks5::datagram::{HEADER_MAX, encode_header};
use crate::{DialError, ProxyFault};

/// One socket to the relay, and the connection that keeps the relay alive.
#[derive(Debug)]
pub struct Socks5Udp {
    link: Arc<Link>,
    keeper: Keeper,
    relayed: Relayed,
}

pub(crate) async fn open(egress: &Arc<Egress>, proxy: &Arc<Proxy>) -> Result<UdpPath, DialError> {
    let association = keeper::associate(egress, proxy).await?;
    let socket: Protected<UdpSocket> = egress.udp_for(association.relay).map_err(DialError::Udp)?;
    let link = Arc::new(Link::new(socket, association.relay));
    let keeper = Keeper::start(Arc::clone(&link), association, Arc::clone(egress), Arc::clone(proxy));
    Ok(UdpPath::Socks5(Socks5Udp { link, keeper, relayed: Relayed::default() }))
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
            self.relayed.is_foreign();
            return None;
        }
        self.relayed.unwrap(slot, datagram)
    }

    pub(super) fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        let mut header = [0; HEADER_MAX];
        let len = encode_header(&mut header, dst).map_err(unspeakable)?;
        if let Some(host) = &dst.host {
            self.relayed.remember(host, dst.addr);
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
        self.relayed.counters()
    }
}

/// One datagram to the relay out of several slices, without putting them together first. The reactor is not asked:
/// a socket that can take nothing says so itself, and a new one can.
pub(super) fn send(socket: &UdpSocket, slices: &[IoSlice<'_>]) -> io::Result<()> {
    past_earlier_errors(|| SockRef::from(socket).send_vectored(slices)).map(drop)
}

/// Nobody is there by such a name.
pub(super) fn unspeakable(fault: ProxyFault) -> io::Error {
    io::Error::new(io::ErrorKind::HostUnreachable, fault)
}
