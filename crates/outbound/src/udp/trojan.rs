//! Datagrams by way of a Trojan server: in a stream of their own.
//!
//! The flow has a socket whose datagrams end in this program, behind the header of a SOCKS5 relay; a task moves them to
//! and from the stream.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use oneway_egress::{Egress, Protected, datagram_pair};
use oneway_flow::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::relayed::Relayed;
use super::socks5::{send, unspeakable};
use super::{UdpCounters, UdpPath};
use crate::DialError;
use crate::proxy::Proxy;
use crate::socks5::datagram::{HEADER_MAX, encode_header};
use crate::trojan;
use crate::tunnel::Carrier;

/// Read from the stream at once.
const CHUNK: usize = 16 * 1024;

/// A datagram with its header.
const DATAGRAM_MAX: usize = 65_535 + HEADER_MAX;

/// A socket that leads to a task, and the task's stream to the server.
#[derive(Debug)]
pub struct TrojanUdp {
    socket: Protected<UdpSocket>,
    relayed: Relayed,
    task: AbortHandle,
    over: watch::Receiver<bool>,
}

impl Drop for TrojanUdp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn open(egress: &Arc<Egress>, proxy: &Arc<Proxy>) -> Result<UdpPath, DialError> {
    let request = trojan::associate(proxy.password()).map_err(|fault| proxy.fault(fault))?;
    let carrier = proxy.connect_by_tls(egress).await?;
    let (socket, own) = datagram_pair().map_err(DialError::Udp)?;
    let (ending, over) = watch::channel(false);
    let task = tokio::spawn(async move {
        let ended = carry(carrier, request, own).await;
        tracing::debug!(?ended, "a stream of datagrams is over");
        ending.send_replace(true);
    });
    Ok(UdpPath::Trojan(TrojanUdp { socket, relayed: Relayed::default(), task: task.abort_handle(), over }))
}

async fn carry(carrier: impl Carrier, request: Vec<u8>, own: UdpSocket) -> io::Result<()> {
    let (mut read, mut write) = split(carrier);
    let up = async {
        write.write_all(&request).await?;
        write.flush().await?;
        loop {
            own.readable().await?;
            let mut datagram = vec![0; DATAGRAM_MAX];
            // All that wait, then the cipher and the network.
            loop {
                match own.try_recv(&mut datagram) {
                    // The flow's end is closed: what is sent has a header.
                    Ok(0) => return Ok(()),
                    Ok(len) => {
                        if let Ok(framed) = trojan::frame(datagram.get(..len).unwrap_or_default()) {
                            write.write_all(&framed).await?;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            drop(datagram);
            write.flush().await?;
        }
    };
    let down = async {
        let mut held = Vec::new();
        loop {
            let mut chunk = vec![0; CHUNK];
            let len = read.read(&mut chunk).await?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            held.extend_from_slice(chunk.get(..len).unwrap_or_default());
            let mut at = 0;
            let malformed =
                |_| io::Error::new(io::ErrorKind::InvalidData, "what it sends is no Trojan datagram");
            while let Some((datagram, len)) =
                trojan::unframe(held.get(at..).unwrap_or_default()).map_err(malformed)?
            {
                at += len;
                match own.try_send(&datagram) {
                    Ok(_) => {}
                    // The flow does not take them: lost, as any datagram may be.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            held.drain(..at);
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

impl TrojanUdp {
    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The payload of a received datagram, and its true source; none if it is to be dropped.
    pub(super) fn unwrap(&self, slot: &[u8], datagram: Range<usize>) -> Option<(Range<usize>, SocketAddr)> {
        self.relayed.unwrap(slot, datagram)
    }

    pub(super) fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        let mut header = [0; HEADER_MAX];
        let len = encode_header(&mut header, dst).map_err(unspeakable)?;
        if let Some(host) = &dst.host {
            self.relayed.remember(host, dst.addr);
        }
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
