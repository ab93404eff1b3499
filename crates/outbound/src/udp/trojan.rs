//! Datagrams by way of a Trojan server: in a stream of their own.

use std::io;
use std::sync::Arc;

use oneway_egress::{Egress, datagram_pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::UdpSocket;

use super::UdpPath;
use super::tunnelled::{DATAGRAM_MAX, TunnelledUdp};
use crate::DialError;
use crate::proxy::Proxy;
use crate::trojan;
use crate::tunnel::Carrier;

/// Read from the stream at once.
const CHUNK: usize = 16 * 1024;

pub(crate) async fn open(egress: &Arc<Egress>, proxy: &Arc<Proxy>) -> Result<UdpPath, DialError> {
    let request = trojan::associate(proxy.password()).map_err(|fault| proxy.fault(fault))?;
    let carrier = proxy.connect_by_tls(egress).await?;
    let (socket, own) = datagram_pair().map_err(DialError::Udp)?;
    Ok(UdpPath::Tunnelled(TunnelledUdp::start(socket, carry(carrier, request, own))))
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
