//! Bare datagrams.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use oneway_egress::{Egress, EgressError, IcmpErrorEvent, Protected, next_error};
use oneway_flow::Target;
use oneway_route::Family;
use tokio::net::UdpSocket;

use super::{UdpPath, past_earlier_errors};
use crate::DialError;

/// One socket to everywhere.
#[derive(Debug)]
pub struct DirectUdp {
    socket: Protected<UdpSocket>,
    egress: Arc<Egress>,
}

pub(crate) async fn open(egress: &Arc<Egress>, family: Family) -> Result<UdpPath, DialError> {
    let socket = egress.udp(family).map_err(DialError::Udp)?;
    // A new socket is not known to be writable until the reactor has said so, and `try_send_to` does not wait.
    socket.writable().await.map_err(|source| DialError::Udp(EgressError::Create { what: "UDP", source }))?;
    Ok(UdpPath::Direct(DirectUdp { socket, egress: Arc::clone(egress) }))
}

impl DirectUdp {
    pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<(Range<usize>, SocketAddr)> {
        loop {
            self.socket.readable().await?;
            match self.try_recv(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    pub(super) fn try_recv(&self, buf: &mut [u8]) -> io::Result<(Range<usize>, SocketAddr)> {
        let (len, from) = past_earlier_errors(|| self.socket.try_recv_from(buf))?;
        Ok((0..len, from))
    }

    pub(super) fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        let addr = SocketAddr::new(dst.addr.ip().to_canonical(), dst.addr.port());
        self.egress.check_datagram(addr).map_err(refused)?;
        past_earlier_errors(|| self.socket.try_send_to(payload, addr)).map(drop)
    }

    pub(super) async fn icmp_error(&self) -> io::Result<IcmpErrorEvent> {
        next_error(&self.socket).await
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A guard's refusal in the kernel's terms, so that [`Answer::to_io`](crate::Answer::to_io) fits both.
fn refused(error: EgressError) -> io::Error {
    let kind = match error {
        EgressError::NoRoute { .. } => io::ErrorKind::NetworkUnreachable,
        _ => io::ErrorKind::ConnectionRefused,
    };
    io::Error::new(kind, error)
}
