//! Whether this host lets in what the system stack hands to its own TCP.
//!
//! A captured connection comes in by the device, from an address of its network, to a listener of ours there. A packet filter
//! that drops what begins outside and is not asked for (the default of ufw and firewalld) drops it as well, and each client
//! would wait for an answer that never comes. No rule of ours could let in what another table drops (nft(8), "verdict
//! statements"). So a connection is begun before anything is captured, the way that captured ones take.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use oneway_capture::tun::Queue;
use oneway_capture::{FRAME_HEADER, MAX_FRAME};
use oneway_wire::emit::{TcpHeader, tcp_segment};
use oneway_wire::ip::{IpView, protocol};
use oneway_wire::tcp::{Flags, TcpView};

use super::device::Peers;
use super::guarded::Listeners;
use crate::error::EngineError;

/// How long an answer may take. The kernel gives it before the call returns that hands the SYN over, unless it is busy.
const WITHIN: Duration = Duration::from_millis(1500);

/// After which the SYN is sent again: faults that were asked for lose it as well.
const AGAIN: Duration = Duration::from_millis(100);

/// Between two looks at the device.
const PAUSE: Duration = Duration::from_millis(1);

/// A port that names given to clients may have, too: none are given yet.
const PORT: u16 = 40_000;

/// The sequence number that it begins with.
const ISN: u32 = 0;

/// Packets that went by the device meanwhile, to be counted with the others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Packets {
    pub(super) read: usize,
    pub(super) written: usize,
}

/// Begins a connection to a listener of each family by the device, and fails unless it is answered. What else comes by the
/// device meanwhile is dropped: nothing is captured yet.
///
/// # Errors
/// [`EngineError::NotLetIn`], or that the device does not work.
pub(super) fn prove(
    tun: &str,
    queues: &[Queue],
    listeners: &Listeners,
    addresses: &[IpNet],
) -> Result<Packets, EngineError> {
    let mut packets = Packets::default();
    let Peers { v4, v6, .. } = Peers::of(addresses);
    for listener in listeners.first().into_iter().flatten() {
        let local = listener.local_addr().map_err(EngineError::Worker)?;
        let peer = SocketAddr::new(if local.is_ipv4() { v4.into() } else { v6.into() }, PORT);
        let answered = is_answered(queues, peer, local, &mut packets)
            .map_err(|source| EngineError::DeviceLost { name: tun.to_owned(), source })?;
        if !answered {
            return Err(EngineError::NotLetIn { tun: tun.to_owned(), from: peer.ip(), to: local.ip() });
        }
    }
    Ok(packets)
}

/// Whether a SYN from `peer` is answered by `local`.
fn is_answered(
    queues: &[Queue],
    peer: SocketAddr,
    local: SocketAddr,
    packets: &mut Packets,
) -> io::Result<bool> {
    let Some(first) = queues.first() else { return Ok(false) };
    let send = |packets: &mut Packets, seq, flags| -> io::Result<()> {
        packets.written += 1;
        let header = TcpHeader { seq, ack: 0, flags, window: u16::MAX, options: &[] };
        let mut frame = vec![0; FRAME_HEADER];
        tcp_segment(&mut frame, peer, local, &header, &[]).map_err(io::Error::other)?;
        first.write(&frame)
    };
    let mut frame = vec![0; MAX_FRAME];
    let begun = Instant::now();
    let mut sent = None::<Instant>;
    while begun.elapsed() < WITHIN {
        if sent.is_none_or(|at| at.elapsed() >= AGAIN) {
            sent = Some(Instant::now());
            send(packets, ISN, Flags::SYN)?;
        }
        first.flush_faults()?;
        for queue in queues {
            loop {
                let read = queue.read(&mut frame);
                packets.read += usize::from(read.is_ok());
                match read {
                    Ok(len) if answers(frame.get(FRAME_HEADER..len).unwrap_or_default(), peer, local) => {
                        // The listener forgets it.
                        send(packets, ISN.wrapping_add(1), Flags::RST)?;
                        return Ok(true);
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(false)
}

/// Whether a packet is the listener's SYN-ACK.
fn answers(packet: &[u8], peer: SocketAddr, local: SocketAddr) -> bool {
    let Ok(ip) = IpView::parse(packet) else { return false };
    let ends: (IpAddr, IpAddr) = (ip.src(), ip.dst());
    if ip.protocol() != protocol::TCP || ends != (local.ip(), peer.ip()) {
        return false;
    }
    TcpView::parse(ip.payload()).is_ok_and(|tcp| {
        (tcp.src_port(), tcp.dst_port()) == (local.port(), peer.port())
            && tcp.flags().contains(Flags::SYN | Flags::ACK)
            && tcp.ack() == ISN.wrapping_add(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(from: SocketAddr, to: SocketAddr, ack: u32, flags: Flags) -> Vec<u8> {
        let header = TcpHeader { seq: 7, ack, flags, window: 1000, options: &[] };
        let mut packet = Vec::new();
        tcp_segment(&mut packet, from, to, &header, &[]).unwrap();
        packet
    }

    #[test]
    fn only_the_listeners_own_consent_counts() {
        for (peer, local) in
            [("10.1.0.2:40000", "10.1.0.1:99"), ("[fd00::2]:40000", "[fd00::1]:99")].map(|(peer, local)| {
                let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
                (parse(peer), parse(local))
            })
        {
            let consent = Flags::SYN | Flags::ACK;
            assert!(answers(&packet(local, peer, 1, consent), peer, local));
            let another = SocketAddr::new(local.ip(), 98);
            assert!(!answers(&packet(another, peer, 1, consent), peer, local));
            assert!(!answers(&packet(peer, local, 1, consent), peer, local));
            assert!(!answers(&packet(local, peer, 2, consent), peer, local), "of another connection");
            assert!(!answers(&packet(local, peer, 1, Flags::RST | Flags::ACK), peer, local), "refused");
            assert!(!answers(&[], peer, local));
        }
    }
}
