//! The flows that live now, for people to look at.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{Arrival, Target};

/// One flow: who, where to, by which outbound, and how much so far.
#[derive(Debug)]
pub struct Flow {
    /// Unique among the flows of this process.
    pub id: u64,
    /// How it has come.
    pub arrival: Arrival,
    /// Where it wants to go. Of a UDP session: the first destination.
    pub target: Target,
    /// The rule that decided.
    pub rule: Arc<str>,
    /// The outbound that carries it.
    pub outbound: Arc<str>,
    /// Payload bytes from the client that the other side has taken.
    pub up: AtomicU64,
    /// Payload bytes from the other side that the client's side has taken.
    pub down: AtomicU64,
    started: Instant,
    established: AtomicBool,
    over: AtomicBool,
}

impl Flow {
    /// Marks the flow as over while its guard still lives, as that of a connection at rest in TIME-WAIT does: it is not
    /// listed any more.
    pub fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Marks the flow as connected, and says so in the log, once.
    pub fn set_established(&self) {
        if !self.established.swap(true, Ordering::Relaxed) {
            let Self { arrival: Arrival { network, source, .. }, target, rule, outbound, .. } = self;
            tracing::debug!(client = %source, %target, %rule, %outbound, "{network} flow is open");
        }
    }
}

/// What a flow looked like at one moment.
#[derive(Clone, Debug)]
pub struct FlowInfo {
    /// See [`Flow::id`].
    pub id: u64,
    /// See [`Flow::arrival`].
    pub arrival: Arrival,
    /// See [`Flow::target`].
    pub target: Target,
    /// See [`Flow::rule`].
    pub rule: Arc<str>,
    /// See [`Flow::outbound`].
    pub outbound: Arc<str>,
    /// See [`Flow::up`].
    pub up: u64,
    /// See [`Flow::down`].
    pub down: u64,
    /// Time since its first packet.
    pub age: Duration,
    /// Whether it is connected, or still being dialled.
    pub established: bool,
}

/// The flows that live now. New ones cost the same however many there are.
#[derive(Debug, Default)]
pub struct FlowTable {
    shards: [Mutex<HashMap<u64, Arc<Flow>>>; 16],
    next: AtomicU64,
    live: AtomicUsize,
    ended_up: AtomicU64,
    ended_down: AtomicU64,
}

impl FlowTable {
    /// Enters a flow; it leaves when the guard is dropped.
    pub fn enter(
        self: &Arc<Self>,
        arrival: Arrival,
        target: Target,
        rule: Arc<str>,
        outbound: Arc<str>,
    ) -> FlowGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let flow = Arc::new(Flow {
            id,
            arrival,
            target,
            rule,
            outbound,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            started: Instant::now(),
            established: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        self.shard(id).lock().insert(id, Arc::clone(&flow));
        self.live.fetch_add(1, Ordering::Relaxed);
        FlowGuard { table: Arc::clone(self), flow, held: None }
    }

    /// How many flows live now.
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Whether no flow lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Payload bytes of all flows, those that have ended included: up, and down.
    pub fn total_bytes(&self) -> (u64, u64) {
        let ended = (self.ended_up.load(Ordering::Relaxed), self.ended_down.load(Ordering::Relaxed));
        self.shards.iter().fold(ended, |sum, shard| {
            shard.lock().values().fold(sum, |(up, down), flow| {
                (up + flow.up.load(Ordering::Relaxed), down + flow.down.load(Ordering::Relaxed))
            })
        })
    }

    /// All live flows but those that are over, oldest first.
    pub fn list(&self) -> Vec<FlowInfo> {
        let mut flows = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.lock();
            let listed = shard.values().filter(|f| !f.over.load(Ordering::Relaxed));
            flows.extend(listed.map(|f| FlowInfo {
                id: f.id,
                arrival: f.arrival,
                target: f.target.clone(),
                rule: Arc::clone(&f.rule),
                outbound: Arc::clone(&f.outbound),
                up: f.up.load(Ordering::Relaxed),
                down: f.down.load(Ordering::Relaxed),
                age: f.started.elapsed(),
                established: f.established.load(Ordering::Relaxed),
            }));
        }
        flows.sort_by_key(|f| f.id);
        flows
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Flow>>> {
        let [first, ..] = &self.shards;
        self.shards.get(id as usize % self.shards.len()).unwrap_or(first)
    }
}

/// A flow's place in the table; dropping it takes the flow out.
#[derive(Debug)]
pub struct FlowGuard {
    table: Arc<FlowTable>,
    flow: Arc<Flow>,
    held: Option<Box<dyn Any + Send + Sync>>,
}

impl FlowGuard {
    /// Keeps `what` for as long as the flow lives, such as the guard of an address that it uses.
    #[must_use]
    pub fn holding(mut self, what: impl Any + Send + Sync) -> Self {
        self.held = Some(Box::new(what));
        self
    }

    /// The flow, for what is counted later. Once the guard is dropped that is in vain.
    pub fn flow(&self) -> Arc<Flow> {
        Arc::clone(&self.flow)
    }
}

impl Deref for FlowGuard {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.flow
    }
}

impl Drop for FlowGuard {
    fn drop(&mut self) {
        self.table.ended_up.fetch_add(self.flow.up.load(Ordering::Relaxed), Ordering::Relaxed);
        self.table.ended_down.fetch_add(self.flow.down.load(Ordering::Relaxed), Ordering::Relaxed);
        self.table.shard(self.flow.id).lock().remove(&self.flow.id);
        self.table.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Inbound, Network};

    #[test]
    fn a_flow_is_listed_for_as_long_as_its_guard_lives() {
        let table = Arc::new(FlowTable::default());
        let source = "192.0.2.1:50000".parse().unwrap();
        let arrival = Arrival { network: Network::Tcp, source, inbound: Inbound::Tun, dscp: 0 };
        let target = Target::from_addr("198.51.100.1:443".parse().unwrap());
        let guards: Vec<_> =
            (0..40).map(|_| table.enter(arrival, target.clone(), "MATCH".into(), "direct".into())).collect();
        guards[7].up.store(99, Ordering::Relaxed);
        let list = table.list();
        assert_eq!(list.len(), 40);
        assert_eq!(list.iter().filter(|f| f.up == 99).count(), 1);
        guards[7].set_over();
        assert!(table.list().len() == 39 && table.list().iter().all(|f| f.up == 0));
        assert_eq!((table.len(), table.total_bytes()), (40, (99, 0)), "it is there still");
        let held = Arc::new(());
        let holding =
            table.enter(arrival, target, "MATCH".into(), "direct".into()).holding(Arc::clone(&held));
        assert_eq!(Arc::strong_count(&held), 2);
        drop(holding);
        assert_eq!(Arc::strong_count(&held), 1);
        drop(guards);
        assert_eq!(table.total_bytes(), (99, 0));
        assert!(table.is_empty());
        assert!(table.list().is_empty());
    }
}
