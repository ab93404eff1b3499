//! What the workers share, made.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use oneway_capture::shortcut::Shortcuts;
use oneway_egress::Egress;
use oneway_flow::FlowTable;
use oneway_route::Safeguard;
use oneway_stack::fragment::Reassembler;
use oneway_stack::nat::{Nat, NatConfig};
use oneway_stack::tcp::{self, IsnGenerator};
use tokio::sync::watch;

use super::device::Peers;
use super::guarded::Listeners;
use super::memory::memory;
use crate::config::StackKind;
use crate::dispatch::Dispatch;
use crate::dns::Dns;
use crate::guard::Guard;
use crate::limits::Limits;
use crate::stats::Stats;
use crate::worker::{self, Owners, Shared};

/// What belongs to one of the two stacks.
pub(super) struct Stacks {
    pub(super) stack: StackKind,
    pub(super) tcp: tcp::Config,
    pub(super) owners: Owners,
    pub(super) shortcuts: Option<Shortcuts>,
}

pub(super) fn shared(
    dispatch: Dispatch,
    dns: Dns,
    egress: Arc<Egress>,
    limits: Limits,
    addresses: &[IpNet],
    listeners: &Listeners,
    Stacks { stack, tcp, owners, shortcuts }: Stacks,
) -> Shared {
    let Peers { v4, v6, count } = Peers::of(addresses);
    let without = egress.left_out();
    let answers = dns.answers();
    Shared {
        nat: Nat::new(NatConfig {
            first_peer_v4: v4,
            first_peer_v6: v6,
            peers: count,
            // Closed connections keep their names for a while, at no descriptor's cost.
            max_connections: limits.tcp_connections.saturating_mul(8),
        }),
        shortcuts,
        flows: Arc::new(FlowTable::default()),
        stack,
        tcp: Arc::new(tcp),
        isn: IsnGenerator::new(),
        owners,
        paths: worker::Paths::default(),
        memory: Arc::new(worker::Budget::of_machine(memory())),
        tcp_live: AtomicUsize::new(0),
        epoch: Instant::now(),
        stats: Stats::default(),
        dispatch: ArcSwap::from_pointee(dispatch),
        replaced: watch::Sender::default(),
        dns,
        egress,
        guard: Guard::new(addresses.to_vec()).answering(answers).left_out(without.has(Safeguard::Ingress)),
        dials: worker::Dials::default(),
        udp: worker::Sessions::new(&limits),
        quic: worker::QuicNames::default(),
        echo: worker::EchoSessions::default(),
        flushed: AtomicUsize::new(0),
        fragments: parking_lot::Mutex::new(Reassembler::new(Default::default())),
        not_let_in: parking_lot::Mutex::default(),
        said_limited: parking_lot::Mutex::default(),
        not_recorded: parking_lot::Mutex::default(),
        listeners: listeners.iter().flatten().filter_map(|l| l.local_addr().ok()).collect(),
        router_v4: v4.into(),
        router_v6: v6.into(),
        limits,
    }
}
