//! A plan for a host that a plan was made real on, and that others have changed since.

use super::{Plan, PlanError, Request, Step, Uplinks, capture, congestion, uplink};
use crate::change::Change;
use crate::host::{NftTableId, PROTOCOL, Snapshot};
use crate::nft::Memory;

/// Decides again for the host as it is now: what depends on the uplinks, on other programs' rules and on their tables. The
/// device, its addresses, the mark and the strategy stay.
///
/// # Errors
/// As [`plan`](super::plan). The plan of before still is what is made.
pub fn plan_again(request: &Request, before: &Plan, host: &Snapshot) -> Result<Plan, PlanError> {
    let host = without(before, request.device_is_ours, host);
    let pinned_is_gone = request.interface.as_ref().is_some_and(|name| host.link(name).is_none());
    let request = Request {
        tun_name: Some(before.tun_name.clone()),
        tun_addresses: before.tun_addresses.clone(),
        mark: before.mark.or(request.mark),
        // The sockets of connections that it remembers do not.
        track: before.steps.iter().any(tracks),
        protect: before.protect,
        // The sockets that there are keep their ports, and the device its group.
        ports: before.sources.map(|sources| sources.ports),
        group: before.group,
        interface: request.interface.clone().filter(|_| !pinned_is_gone),
        ..request.clone()
    };
    let mut plan = capture::plan(&request, &host)?;
    if pinned_is_gone {
        // Another one would not be what was asked for.
        plan.uplinks = Uplinks::default();
    }
    // The device is as it was made, and how it was before that is known from then. Its IPv6 may have been switched off since,
    // with that of all devices.
    let ipv6 = capture::ipv6_switch(&plan.tun_name);
    let switch = |step: &Step| matches!(&step.change, Change::Sysctl { path, .. } if *path == ipv6);
    let device = |step: &Step| {
        switch(step)
            || matches!(&step.change, Change::Link { .. } | Change::Address { .. } | Change::Group { .. })
    };
    let known = before.steps.iter().any(switch);
    let switched_off = plan.steps.iter().find(|step| switch(step) && !known).cloned();
    plan.steps.retain(|step| !device(step));
    let kept = before.steps.iter().filter(|step| device(step)).cloned();
    plan.steps = switched_off.into_iter().chain(kept).chain(plan.steps).collect();
    // So is the file: others may have written another one since, which is what comes back in the end.
    let file = |step: &&Step| matches!(step.change, Change::ResolvConf(_));
    if let Some(made) = before.steps.iter().find(file)
        && let Some(step) = plan.steps.iter_mut().find(|step| file(&&**step))
    {
        *step = made.clone();
    }
    Ok(plan)
}

fn tracks(step: &Step) -> bool {
    matches!(&step.change, Change::Nft(table) if table.memory == Memory::Tracking)
}

/// The uplinks of both families as they are now. `pinned` restricts them to one device; while that is not there, there is
/// no uplink.
pub fn find_uplinks(host: &Snapshot, tun: &str, pinned: Option<&str>) -> Uplinks {
    uplink::uplinks(host, tun, pinned).unwrap_or_default()
}

/// [`find_uplinks`] without [`Safeguard::Uplink`](crate::Safeguard::Uplink): other programs' tunnels count like any device,
/// and our own does where there is nothing else.
pub fn find_uplinks_unguarded(host: &Snapshot) -> Uplinks {
    uplink::unguarded(host)
}

/// The host as it would be without us.
fn without(plan: &Plan, device_is_ours: bool, host: &Snapshot) -> Snapshot {
    let mut host = host.clone();
    let index = host.link(&plan.tun_name).map(|link| link.index);
    host.rules.retain(|rule| rule.protocol != PROTOCOL);
    let ours = |table| table == plan.table || plan.divert.is_some_and(|divert| table == divert.table);
    host.routes.retain(|route| !ours(route.table) && (index.is_none() || route.oif != index));
    if device_is_ours {
        host.links.retain(|link| Some(link.index) != index);
        host.addresses.retain(|address| Some(address.index) != index);
    }
    for step in &plan.steps {
        match &step.change {
            Change::Sysctl { path, old, new } => {
                if let Some(value) = host.sysctls.get_mut(path)
                    && value.trim() == new.trim()
                {
                    value.clone_from(old);
                }
            }
            // It is about connections from before; those of now are known to it.
            Change::Nft(table) => host.serving.clone_from(&table.serving),
            _ => {}
        }
    }
    let named = |step: &Step| matches!(&step.change, Change::Route(route) if route.congestion.is_some());
    congestion::keep(&mut host, plan.steps.iter().any(named));
    let ours = |table: &NftTableId| table.ours;
    host.nft_tables.retain(|table| !ours(table));
    host
}
