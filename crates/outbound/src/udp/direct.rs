//! Bare datagrams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use oneway_egress::{Egress, EgressError, Protected, segments};
use oneway_flow::Target;
use oneway_route::Family;
use socket2::{SockAddr, SockRef};
use tokio::net::UdpSocket;

use super::{UdpPath, past_earlier_errors, send_segments};

/// One socket to everywhere.
#[derive(Debug)]
pub struct DirectUdp {
    socket: Protected<UdpSocket>,
    egress: Arc<Egress>,
    /// Whether the kernel takes several datagrams as one.
    segments: bool,
}

pub(crate) fn open(egress: &Arc<Egress>, family: Family) -> Result<UdpPath, EgressError> {
    let socket = egress.udp(family)?;
    let segments = segments::enable(&socket);
    Ok(UdpPath::Direct(DirectUdp { socket, egress: Arc::clone(egress), segments }))
}

impl DirectUdp {
    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        let addr = SockAddr::from(self.checked(dst)?);
        // Without asking the reactor: a socket that can take nothing says so itself, and a new one can.
        past_earlier_errors(|| SockRef::from(self.socket()).send_to(payload, &addr)).map(drop)
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
        let addr = match self.checked(dst) {
            Ok(addr) => addr,
            Err(error) => return (0, Err(error)),
        };
        send_segments(self.socket(), payload, size, Some(addr))
    }

    /// Where a datagram goes, if it may go there.
    fn checked(&self, dst: &Target) -> io::Result<SocketAddr> {
        let addr = SocketAddr::new(dst.addr.ip().to_canonical(), dst.addr.port());
        self.egress.check_datagram(addr).map_err(refused)?;
        Ok(addr)
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
