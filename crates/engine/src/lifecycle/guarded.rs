//! What is ready before anything is captured: the protected egress, what the kernel says of it, and the listeners.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use ipnet::IpNet;
use oneway_capture::listener::listen_on_device;
use oneway_egress::{Egress, EgressError, Finding, Strategy};
use oneway_route::{Family, IfIndex, Link, Safeguard, Snapshot, Without};

use super::device::Place;
use super::watching;
use crate::error::EngineError;
use crate::watched::Proof;

/// The listeners of each worker.
pub(super) type Listeners = Vec<Vec<TcpListener>>;

/// What is ready before anything is captured.
pub(super) struct Guarded {
    pub(super) egress: Arc<Egress>,
    pub(super) listeners: Listeners,
    /// The device's MTU.
    pub(super) mtu: u16,
    /// The device.
    pub(super) index: IfIndex,
}

/// Makes the protected egress and the listeners of so many workers.
pub(super) fn protect(
    tun: &str,
    place: Place,
    workers: usize,
    addresses: &[IpNet],
    (strategy, without): (&Strategy, Without),
    pools: &[IpNet],
) -> Result<Guarded, EngineError> {
    let link = match place {
        Place::Here => link_of(tun)?,
        Place::Apart { netns, mtu, listeners, .. } => {
            let forbidden = forbidden(addresses, pools);
            return protect_apart(netns, mtu, listeners, workers, &forbidden, without);
        }
    };
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let mut own = Vec::with_capacity(addresses.len());
        for net in addresses {
            let address = net.addr();
            let listener = listen_on_device(SocketAddr::new(address, 0), tun)
                .map_err(|source| EngineError::Listen { address, source })?;
            own.push(listener);
        }
        listeners.push(own);
    }
    let egress = Egress::new(strategy.clone(), forbidden(addresses, pools))?.without(without);
    egress.set_device(link.index);
    egress.set_listeners(listeners.iter().flatten().filter_map(|l| l.local_addr().ok()).collect());
    // Without an uplink to bind to no socket can be made, and none will be before there is one.
    let tests = if strategy.is_unbound() { Vec::new() } else { egress.self_test() };
    let absent = |what: &str| match strategy {
        Strategy::SourceRule(rule) if what.ends_with("v6") => rule.sources.v6.is_none(),
        Strategy::SourceRule(rule) => rule.sources.v4.is_none(),
        _ => false,
    };
    for test in tests {
        match test.result {
            Ok(()) | Err(EgressError::Create { .. } | EgressError::Unsupported { .. }) => {}
            Err(_) if absent(test.what) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
    Ok(Guarded { egress: Arc::new(egress), listeners, mtu, index: link.index })
}

/// The same for a device in another network namespace, where the listeners are already.
fn protect_apart(
    netns: u64,
    mtu: u16,
    given: Vec<TcpListener>,
    workers: usize,
    forbidden: &[IpNet],
    without: Without,
) -> Result<Guarded, EngineError> {
    let each = given.len().checked_div(workers).unwrap_or(0);
    let mut given = given.into_iter();
    let listeners = (0..workers).map(|_| given.by_ref().take(each).collect()).collect();
    let egress = Egress::apart_from(netns, forbidden.to_vec())?.without(without);
    // No device of this namespace has this number.
    let index = IfIndex(0);
    Ok(Guarded { egress: Arc::new(egress), listeners, mtu, index })
}

/// The TUN's networks, and those whose addresses only stand for names.
pub(super) fn forbidden(addresses: &[IpNet], pools: &[IpNet]) -> Vec<IpNet> {
    addresses.iter().map(IpNet::trunc).chain(pools.iter().copied()).collect()
}

fn link_of(device: &str) -> Result<Link, EngineError> {
    Snapshot::take()?.link(device).cloned().ok_or_else(|| EngineError::DeviceLost {
        name: device.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// Asks the kernel where our own sockets' packets to the proxies, and to one far address of each family, would go.
pub(super) fn prove(egress: &Egress, tun: IfIndex, proxies: &[IpAddr]) -> Result<Proof, EngineError> {
    let destinations: Vec<_> = proxies.iter().copied().chain(Family::ALL.map(watching::far)).collect();
    let verdicts = egress.prove(egress.routes(), tun, &destinations);
    if let Some(looping) = verdicts.iter().find(|v| v.finding == Finding::Loops)
        && !egress.left_out().has(Safeguard::Proof)
    {
        return Err(EngineError::Loops(format!("{}: {}", looping.dst, looping.why)));
    }
    let unproven = verdicts.iter().find(|v| !v.loop_free);
    Ok(match unproven {
        Some(verdict) => {
            Proof { proven: false, loops: false, why: format!("{}: {}", verdict.dst, verdict.why) }
        }
        None => Proof { proven: true, loops: false, why: "every socket's protection reads back".to_owned() },
    })
}
