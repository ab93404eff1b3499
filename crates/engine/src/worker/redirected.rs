//! TCP that the packet filter has redirected to our listeners: the kernel has accepted it before we hear of it.
//!
//! So "connect means connected" cannot hold here. When the outbound refuses, the client is reset at once.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use oneway_capture::listener::original_destination;
use oneway_egress::Transport;
use oneway_flow::{End, Network, Relay};
use oneway_outbound::{Answer, Connected, DialError};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::Worker;
use super::tcp::{Dialing, Live};
use crate::dispatch::Subject;
use crate::guard::Destination;

impl Worker {
    /// Takes in what was redirected.
    pub(super) async fn accept_redirected(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, client)) => {
                    tokio::task::spawn_local(Rc::clone(&self).redirected(stream, client));
                }
                // Out of descriptors, or the client was gone. Without the pause a full table would spin.
                Err(error) => {
                    tracing::debug!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn redirected(self: Rc<Self>, client: TcpStream, from: SocketAddr) {
        // Whatever ends it before it is carried: the client hears a reset when its socket is dropped.
        let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if let Some((live, flow, connected)) = self.connect_redirected(&client, from).await {
            let _live = live;
            let _ = SockRef::from(&client).set_linger(None);
            let Connected { stream, early } = connected;
            let relay = Relay {
                client,
                upstream: stream,
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
    async fn connect_redirected(
        self: &Rc<Self>,
        client: &TcpStream,
        from: SocketAddr,
    ) -> Option<(Live, oneway_flow::FlowGuard, Connected)> {
        let shared = &self.shared;
        let dst = original_destination(client).ok()?;
        let dst = SocketAddr::new(dst.ip().to_canonical(), dst.port());
        // Whoever dials the listener itself was not redirected, and would be sent to where it is.
        let ordinary = matches!(shared.guard.classify(dst.ip()), Destination::Ordinary);
        if !ordinary || dst.ip().is_loopback() || client.local_addr().ok() == Some(dst) {
            shared.stats.guarded.add();
            return None;
        }
        if shared.egress.returned(Transport::Tcp, from, dst) {
            return None;
        }
        shared.stats.tcp_opened.add();
        if self.draining() {
            return None;
        }
        let live = if self.dialing.get() < shared.limits.dialing { Live::new(shared) } else { None };
        let Some(live) = live else {
            shared.stats.tcp_limited.add();
            return None;
        };
        self.dialing.set(self.dialing.get() + 1);
        let _dialing = Dialing(&self.dialing);
        let Some(mut destined) = shared.dns.destined(dst) else {
            shared.stats.guarded.add();
            return None;
        };
        let subject = Subject {
            network: Network::Tcp,
            source: from,
            target: &destined.judged,
            is_fake: destined.pin.is_some(),
            dscp: 0,
        };
        let dispatch = shared.dispatch.load_full();
        let choice = dispatch.choose_waiting(&subject).await;
        let target = destined.target.clone();
        let (rule, outbound) = self.labels(&choice, &target);
        let flow = shared.flows.enter(Network::Tcp, from, target.clone(), rule, outbound);
        let result = tokio::select! {
            result = self.connect(choice.entry, &destined) => result,
            () = gone(client) => return None,
            () = self.ended(flow.id) => return None,
        };
        let allowed = || self.still_allowed(&dispatch, choice.entry, &subject);
        let result = if result.is_err() || allowed() { result } else { Err(DialError::Blocked) };
        if shared.dns.hijacks(target.addr).is_none() {
            choice.entry.observe(result.as_ref().err());
        }
        let flow = flow.holding(destined.pin.take());
        match result {
            Ok(connected) => {
                shared.stats.tcp_connected.add();
                flow.set_established();
                Some((live, flow, connected))
            }
            Err(error) => {
                tracing::debug!(client = %from, %target, outbound = %choice.entry.name, %error, "not connected");
                match error.answer() {
                    Answer::Silent => shared.stats.tcp_timed_out.add(),
                    _ => shared.stats.tcp_refused.add(),
                }
                None
            }
        }
    }
}

/// Waits until the client has reset the connection.
async fn gone(client: &TcpStream) {
    loop {
        match client.ready(tokio::io::Interest::ERROR).await {
            Ok(ready) if ready.is_error() => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
