//! Datagrams by way of a Shadowsocks server: each sealed for itself.

use std::io;
use std::sync::Arc;

use oneway_egress::{Egress, Protected, datagram_pair, try_error};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::tunnelled::{DATAGRAM_MAX, TunnelledUdp};
use super::{UdpPath, may_be_earlier};
use crate::DialError;
use crate::proxy::Proxy;
use crate::shadowsocks::Packets;

/// Datagrams of one direction before the other gets its turn.
const TURNS: usize = 32;

pub(crate) async fn open(egress: &Arc<Egress>, proxy: &Proxy) -> Result<UdpPath, DialError> {
    let key = proxy.key().map_err(|source| proxy.broke(source))?;
    let addr = proxy.preferred_addr().map_err(|source| proxy.broke(source))?;
    let outer = egress.udp_for(addr).map_err(DialError::Udp)?;
    let (socket, own) = datagram_pair().map_err(DialError::Udp)?;
    let packets = Packets::new(key).map_err(|source| proxy.broke(source))?;
    Ok(UdpPath::Tunnelled(TunnelledUdp::start(socket, carry(outer, packets, own))))
}

async fn carry(outer: Protected<UdpSocket>, mut packets: Packets, own: UdpSocket) -> io::Result<()> {
    loop {
        tokio::select! {
            ready = outer.ready(Interest::READABLE | Interest::ERROR) => {
                if ready?.is_error() {
                    // About the server, not about any destination.
                    while let Ok(Some(_)) = try_error(&outer) {}
                }
                down(&outer, &mut packets, &own)?;
            }
            ready = own.readable() => {
                ready?;
                if !up(&outer, &mut packets, &own)? {
                    return Ok(());
                }
            }
        }
        tokio::task::consume_budget().await;
    }
}

/// False when the flow's end is closed.
fn up(outer: &UdpSocket, packets: &mut Packets, own: &UdpSocket) -> io::Result<bool> {
    let mut datagram = vec![0; DATAGRAM_MAX];
    for _ in 0..TURNS {
        match own.try_recv(&mut datagram) {
            // What is sent has a header.
            Ok(0) => return Ok(false),
            // What the network does not take is lost, as any datagram may be.
            Ok(len) => drop(outer.try_send(&packets.seal(datagram.get(..len).unwrap_or_default())?)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn down(outer: &UdpSocket, packets: &mut Packets, own: &UdpSocket) -> io::Result<()> {
    let mut packet = vec![0; DATAGRAM_MAX];
    for _ in 0..TURNS {
        match outer.try_recv(&mut packet) {
            Ok(len) => {
                if let Ok(datagram) = packets.open(packet.get_mut(..len).unwrap_or_default()) {
                    drop(own.try_send(&datagram));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if may_be_earlier(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
