//! Datagrams that a task carries.
//!
//! The flow has a socket whose datagrams end in this program, behind the header of a SOCKS5 relay; what becomes of them on
//! the way to the proxy is the task's affair.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;

use oneway_egress::Protected;
use oneway_flow::Target;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::UdpCounters;
use super::relayed::Relayed;
use super::socks5::send;
use crate::socks5::datagram::HEADER_MAX;

/// A datagram with its header.
pub(super) const DATAGRAM_MAX: usize = 65_535 + HEADER_MAX;

/// A socket that leads to a task.
#[derive(Debug)]
pub struct TunnelledUdp {
    socket: Protected<UdpSocket>,
    relayed: Relayed,
    task: AbortHandle,
    over: watch::Receiver<bool>,
}

impl Drop for TunnelledUdp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TunnelledUdp {
    /// `carry` has the other end of `socket`, and ends with this.
    pub(super) fn start(
        socket: Protected<UdpSocket>,
        carry: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> Self {
        let (ending, over) = watch::channel(false);
        let task = tokio::spawn(async move {
            let ended = carry.await;
            tracing::debug!(?ended, "a tunnel of datagrams is over");
            ending.send_replace(true);
        });
        Self { socket, relayed: Relayed::default(), task: task.abort_handle(), over }
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The payload of a received datagram, and its true source; none if it is to be dropped.
    pub(super) fn unwrap(&self, slot: &[u8], datagram: Range<usize>) -> Option<(Range<usize>, SocketAddr)> {
        self.relayed.unwrap(slot, datagram)
    }

    pub(super) fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        let mut header = [0; HEADER_MAX];
        let len = self.relayed.header(&mut header, dst)?;
        send(&self.socket, &[IoSlice::new(header.get(..len).unwrap_or_default()), IoSlice::new(payload)])
    }

    pub(super) async fn control_closed(&self) {
        // The sender lives as long as the task, and the task as long as this handle.
        let _ = self.over.clone().wait_for(|over| *over).await;
    }

    pub(super) fn counters(&self) -> UdpCounters {
        self.relayed.counters()
    }
}
