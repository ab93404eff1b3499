//! What the packet filter hands to our own sockets, by `REDIRECT` or TPROXY, in place of the device.
//!
//! TCP the kernel has accepted before we hear of it, so that "connect means connected" cannot hold here: when the outbound
//! refuses, the client is reset at once. Datagrams are taken for what would have come by the device, and answered by it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use oneway_capture::listener::original_destination;
use oneway_capture::tproxy::Datagrams;
use oneway_egress::Transport;
use oneway_flow::{End, Inbound, Network, Relay, Tunnel, reset_on_close};
use oneway_outbound::Connected;
use oneway_wire::emit::udp_datagram;
use oneway_wire::ip::IpView;
use oneway_wire::virtio::VirtioNetHdr;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::dials::Place;
use super::tcp::{Live, Tie};
use super::{Worker, accepted};
use crate::dispatch::Subject;
use crate::guard::Destination;

/// Datagrams that are taken in one turn.
const TURN: usize = 64;

/// The sockets of one worker.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    /// Whether they are transparent, so that what is accepted has the address that it was meant for as its own.
    pub(crate) transparent: bool,
    pub(crate) listeners: Vec<std::net::TcpListener>,
    pub(crate) datagrams: Vec<Datagrams>,
}

impl Worker {
    /// Takes in what is handed over, for as long as the worker lives.
    pub(super) fn take_handed(self: &Rc<Self>, handed: Handed) -> io::Result<()> {
        for listener in handed.listeners {
            let listener = TcpListener::from_std(listener)?;
            tokio::task::spawn_local(Rc::clone(self).accept_handed(listener, handed.transparent));
        }
        for datagrams in handed.datagrams {
            let datagrams = datagrams.into_async()?;
            tokio::task::spawn_local(Rc::clone(self).receive_handed(datagrams));
        }
        Ok(())
    }

    async fn receive_handed(self: Rc<Self>, datagrams: AsyncFd<Datagrams>) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let mut packet = Vec::new();
        loop {
            let Ok(mut ready) = datagrams.readable().await else { return };
            for _ in 0..TURN {
                match datagrams.get_ref().recv(&mut buffer) {
                    Ok((length, Some((client, dst)))) => {
                        packet.clear();
                        let payload = buffer.get(..length).unwrap_or_default();
                        self.datagram_handed(client, dst, payload, &mut packet);
                    }
                    Ok(_) => self.shared.stats.malformed.add(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        break;
                    }
                    // An error of an earlier datagram: the next one may do better.
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive what was handed over");
                        break;
                    }
                }
            }
            self.end_datagrams();
            tokio::task::yield_now().await;
        }
    }

    fn datagram_handed(
        self: &Rc<Self>,
        client: SocketAddr,
        dst: SocketAddr,
        payload: &[u8],
        packet: &mut Vec<u8>,
    ) {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let (client, dst) = (canonical(client), canonical(dst));
        // Sent to the socket itself, by nobody's hand.
        if dst.ip().is_loopback() {
            return self.shared.stats.guarded.add();
        }
        if udp_datagram(packet, client, dst, payload).is_ok()
            && let Ok(ip) = IpView::parse(packet)
        {
            self.udp(&VirtioNetHdr::default(), &ip, Inbound::Tproxy);
        }
    }

    async fn accept_handed(self: Rc<Self>, listener: TcpListener, transparent: bool) {
        loop {
            match listener.accept().await {
                Ok((stream, client)) => {
                    tokio::task::spawn_local(Rc::clone(&self).connection_handed(stream, client, transparent));
                }
                // Out of descriptors, or the client was gone. Without the pause a full table would spin.
                Err(error) => {
                    tracing::debug!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn connection_handed(self: Rc<Self>, client: TcpStream, from: SocketAddr, transparent: bool) {
        // Whatever ends it before it is carried: the client hears a reset when its socket is dropped.
        reset_on_close(&client);
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if let Some((live, flow, connected)) = self.connect_handed(&client, from, transparent).await {
            let _live = live;
            let _ = SockRef::from(&client).set_linger(None);
            let Connected { mut stream, early } = connected;
            let tie = stream.take_tie().map(Tie);
            let relay = Relay {
                client,
                upstream: stream,
                tunnel: tie.as_ref().map(|tie| tie as &dyn Tunnel),
                early,
                up: &flow.up,
                down: &flow.down,
                half_closed_limit: self.shared.limits.half_closed,
            };
            match relay.run(&self.pipes, self.ended(flow.id)).await {
                End::Closed => {}
                End::Reset { .. } | End::Silent | End::Stopped => self.shared.stats.tcp_reset.add(),
            }
        }
    }

    /// Connects the outbound for it; none if it is to be reset.
    async fn connect_handed(
        self: &Rc<Self>,
        client: &TcpStream,
        from: SocketAddr,
        transparent: bool,
    ) -> Option<(Live, oneway_flow::FlowGuard, Connected)> {
        let shared = &self.shared;
        let own = client.local_addr().ok()?;
        let dst = if transparent { own } else { original_destination(client).ok()? };
        let dst = SocketAddr::new(dst.ip().to_canonical(), dst.port());
        // Whoever dials the listener itself was not handed over, and would be sent to where it is.
        let ordinary = matches!(shared.guard.classify_port(dst), Destination::Ordinary);
        if !ordinary || dst.ip().is_loopback() || !transparent && own == dst {
            shared.stats.guarded.add();
            return None;
        }
        // Its SYN has come here and was answered by our listener: a socket of ours that is handed over is connected by that.
        if shared.egress.returned(Transport::Tcp, from, dst) {
            return None;
        }
        shared.stats.tcp_opened.add();
        if self.draining() {
            return None;
        }
        let place = Place::take(shared, from.ip());
        let Some((_place, live)) = place.and_then(|place| Some((place, Live::new(shared)?))) else {
            shared.limited(from.ip());
            return None;
        };
        // Nothing is looked for in what was handed over.
        let Some(mut destined) = shared.dns.destined(dst, false) else {
            shared.stats.guarded.add();
            return None;
        };
        let subject = Subject {
            network: Network::Tcp,
            source: from,
            inbound: if transparent { Inbound::Tproxy } else { Inbound::Redirect },
            target: &destined.judged,
            is_fake: destined.pin.is_some(),
            dscp: 0,
        };
        let dispatch = shared.dispatch.load_full();
        let mut choice = dispatch.choose_to_dial(&subject).await;
        let first = choice.entry;
        let target = destined.target.clone();
        let (rule, outbound) = self.labels(&choice, &target);
        let flow = shared.flows.enter(subject.arrival(), target.clone(), rule, outbound);
        let result = tokio::select! {
            result = self.dial_by(&dispatch, &mut choice, &subject, &destined) => result,
            () = accepted::has_reset(client) => return None,
            () = accepted::has_left(client, from, dst) => {
                shared.stats.tcp_timed_out.add();
                return None;
            }
            // The kernel has answered its SYN, so that it tells nothing any more.
            () = sleep(shared.limits.dial) => {
                shared.stats.tcp_timed_out.add();
                return None;
            }
            () = self.ended(flow.id) => return None,
        };
        let flow = self.as_it_went(flow, first, &choice);
        let (flow, result) = self.holding(flow, &mut destined, result);
        match result {
            Ok(connected) => {
                shared.stats.tcp_connected.add();
                flow.set_established();
                Some((live, flow, connected))
            }
            Err(error) => {
                tracing::debug!(client = %from, %target, rule = %flow.rule, outbound = %choice.entry.name, %error, "not connected");
                shared.not_connected(&error, from.ip());
                None
            }
        }
    }
}
