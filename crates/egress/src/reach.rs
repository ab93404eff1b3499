//! Whether a destination lies on this host or beyond a device.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use oneway_route::{RouteKind, RouteQuery};
use parking_lot::Mutex;

use crate::{EgressError, HostRoute, RouteOracle, Uplink};

/// Where a destination is, seen from a socket that may be bound to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Loopback or one of the host's own addresses: a bound socket would put the packet on the wire instead.
    Local,
    /// Beyond a device.
    Uplink,
}

/// Answers are kept this long, so that a burst of datagrams to one host asks the kernel once. Short, because
/// routes and addresses change while running.
const FRESH: Duration = Duration::from_secs(1);
const CACHED: usize = 64;

/// Asks where destinations are, with a small memory of recent answers.
#[derive(Debug, Default)]
pub(crate) struct ReachCache {
    recent: Mutex<Vec<(IpAddr, Instant, Reach)>>,
}

impl ReachCache {
    pub(crate) fn clear(&self) {
        self.recent.lock().clear();
    }

    /// Where `dst` is for a socket that would be bound to `device`.
    ///
    /// # Errors
    /// [`EgressError::NoRoute`] if the device has no route to it, in which case the kernel would take the
    /// destination for on-link (`ip_route_output_key_hash_rcu` in net/ipv4/route.c) and ask for it by ARP.
    pub(crate) fn bound(
        &self,
        oracle: &dyn RouteOracle,
        question: RouteQuery,
        device: &Uplink,
    ) -> Result<Reach, EgressError> {
        let dst = question.dst;
        if dst.is_loopback() {
            return Ok(Reach::Local);
        }
        let now = Instant::now();
        if let Some(reach) = self.recall(dst, now) {
            return Ok(reach);
        }
        let reach = ask(oracle, question, device)?;
        self.remember(dst, now, reach);
        Ok(reach)
    }

    /// Where `dst` is for a socket that goes to servers with host routes only.
    ///
    /// # Errors
    /// [`EgressError::NoHostRoute`], [`EgressError::NoRoute`] if the kernel would take another route.
    pub(crate) fn by_host_route(
        &self,
        oracle: &dyn RouteOracle,
        dst: IpAddr,
        rule: &HostRoute,
    ) -> Result<Reach, EgressError> {
        let now = Instant::now();
        if let Some(reach) = self.recall(dst, now) {
            return Ok(reach);
        }
        let reach = rule.ask(oracle, dst)?;
        self.remember(dst, now, reach);
        Ok(reach)
    }

    fn recall(&self, dst: IpAddr, now: Instant) -> Option<Reach> {
        let recent = self.recent.lock();
        let found = recent.iter().find(|(ip, at, _)| *ip == dst && now.duration_since(*at) < FRESH);
        found.map(|(.., reach)| *reach)
    }

    fn remember(&self, dst: IpAddr, now: Instant, reach: Reach) {
        let mut recent = self.recent.lock();
        recent.retain(|(ip, at, _)| *ip != dst && now.duration_since(*at) < FRESH);
        if recent.len() == CACHED {
            recent.remove(0);
        }
        recent.push((dst, now, reach));
    }
}

/// [`ReachCache::bound`] without the memory. The question carries what the socket carries besides the device.
pub(crate) fn ask(
    oracle: &dyn RouteOracle,
    question: RouteQuery,
    Uplink { index, name }: &Uplink,
) -> Result<Reach, EgressError> {
    let dst = question.dst;
    if is_local(oracle, dst)? {
        return Ok(Reach::Local);
    }
    let answer =
        oracle.route(&question.bound(*index)).map_err(|source| EgressError::Route { dst, source })?;
    // Without a table the answer is the kernel's guess that the destination is on-link (K2).
    let routed = answer.kind == RouteKind::Unicast && answer.oif == Some(*index) && answer.table.is_some();
    if routed { Ok(Reach::Uplink) } else { Err(EgressError::NoRoute { dst, device: name.clone() }) }
}

/// Whether the kernel would deliver `dst` to this host itself.
pub(crate) fn is_local(oracle: &dyn RouteOracle, dst: IpAddr) -> Result<bool, EgressError> {
    if dst.is_loopback() {
        return Ok(true);
    }
    let query = RouteQuery::to(dst);
    let answer = oracle.route(&query).map_err(|source| EgressError::Route { dst, source })?;
    Ok(answer.kind == RouteKind::Local)
}
