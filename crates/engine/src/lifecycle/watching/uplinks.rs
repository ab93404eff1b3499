//! Following the uplinks: where our sockets are bound, and which flows have lost their way.
//!
//! With a mark the kernel follows main by itself. What is left is to reset the flows whose address or device is gone, which
//! would otherwise hang until their programs' patience ends, and to help out where main's best default route leads nowhere.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use oneway_egress::{RouteOracle, Strategy, Uplink};
use oneway_flow::{FlowInfo, Network};
use oneway_route::{
    Address, Family, IfIndex, Link, RouteKind, RouteQuery, Snapshot, Table, Uplinks, destroy_tcp, query,
};

use super::elsewhere::Elsewhere;
use super::{Watcher, far};
use crate::lifecycle::protection;

/// A link that lost its carrier, or a default route that is gone, may be back in a moment, and its flows go on.
const PATIENCE: Duration = Duration::from_secs(3);

/// What of the host matters to flows: the device's own part left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    links: Vec<Link>,
    addresses: Vec<(IfIndex, IpAddr)>,
    defaults: Vec<(Option<IfIndex>, Option<IpAddr>, u32)>,
    /// Whether this was taken at all.
    taken: bool,
}

impl Outline {
    fn of(host: &Snapshot, tun: IfIndex) -> Self {
        let mut outline = Self {
            links: host.links.iter().filter(|link| link.index != tun).cloned().collect(),
            addresses: host
                .addresses
                .iter()
                .filter(|address| address.index != tun)
                .map(|address: &Address| (address.index, address.net.addr()))
                .collect(),
            defaults: host
                .routes
                .iter()
                .filter(|route| route.table == Table::MAIN && route.dst.prefix_len() == 0)
                .map(|route| (route.oif, route.gateway, route.metric))
                .collect(),
            taken: true,
        };
        outline.links.sort_by_key(|link| link.index);
        outline.addresses.sort();
        outline.defaults.sort();
        outline
    }

    /// The addresses that are not there in `now` any more.
    fn without(&self, now: &Self) -> Vec<IpAddr> {
        let gone = |address: &IpAddr| now.addresses.iter().all(|(_, other)| other != address);
        self.addresses.iter().map(|(_, address)| *address).filter(gone).collect()
    }
}

impl Watcher {
    /// Takes note of the uplinks that were found.
    pub(super) fn uplinks(&mut self, host: Snapshot, uplinks: Uplinks) {
        let at_home = Outline::of(&host, self.tun.0);
        let gone = std::mem::replace(&mut self.home, at_home).without(&self.home);
        self.end_connections_from(&gone);
        let (host, uplinks) = match self.elsewhere.as_ref().map(Elsewhere::look) {
            None => (host, uplinks),
            // Those of the namespace that our sockets are made in, where there is no device of ours.
            Some(Ok(there)) => {
                let uplinks = oneway_route::find_uplinks(&there, "", None);
                (there, uplinks)
            }
            Some(Err(error)) => return self.failed("cannot look at the namespace of our sockets", &error),
        };
        let tun = if self.elsewhere.is_some() { IfIndex(0) } else { self.tun.0 };
        let known = self.watched.uplinks();
        if known != uplinks {
            for family in &self.families {
                let name = |uplinks: &Uplinks| {
                    uplinks.get(*family).map_or_else(|| "none".to_owned(), |uplink| uplink.name.clone())
                };
                let (old, new) = (name(&known), name(&uplinks));
                if old != new {
                    tracing::info!("the {family} uplink was {old} and is {new}");
                }
            }
        }
        let outline = Outline::of(&host, tun);
        if outline == self.outline && known == uplinks {
            return;
        }
        let before = std::mem::replace(&mut self.outline, outline);
        let first = !before.taken;
        self.egress.routes_changed();
        self.bind(&uplinks);
        let detoured = self.detour(&host, &uplinks);
        self.watched.set_uplinks(uplinks);
        if !first {
            self.reset_stale(false, detoured);
            self.patience = Some(Instant::now() + PATIENCE);
        }
    }

    /// Ends the captured connections from addresses that are gone. Their programs would wait for ever: a reset would be for
    /// an address that nobody has.
    fn end_connections_from(&mut self, gone: &[IpAddr]) {
        if gone.is_empty() {
            return;
        }
        let lost = |flow: &FlowInfo| {
            flow.arrival.network == Network::Tcp && gone.contains(&flow.arrival.source.ip())
        };
        for flow in self.shared.flows.list().into_iter().filter(lost) {
            if let Err(error) = destroy_tcp(flow.arrival.source, flow.target.addr) {
                // Without the right, or on a kernel without this, they wait as they would without us.
                return tracing::debug!(%error, "connections from an address that is gone are left alone");
            }
        }
    }

    /// Where sockets are bound to the uplink: the one that it is now.
    fn bind(&mut self, uplinks: &Uplinks) {
        let (strategy, _) = self.watched.strategy();
        if !matches!(strategy, Strategy::Bind(_)) {
            return;
        }
        let now = protection::uplinks(uplinks).map_or_else(Strategy::unbound, Strategy::Bind);
        if now == strategy {
            return;
        }
        if let Err(error) = self.egress.set_strategy(now.clone()) {
            return self.failed("cannot bind to the new uplink", &error);
        }
        tracing::info!("sockets were protected by {strategy}, and new ones are by {now}");
        self.watched.set_strategy(now.clone(), "the uplink was chosen again".to_owned());
        // They are bound to a device that is not the uplink, even if another one has its name and its address by now.
        let routes = self.egress.routes();
        let moved = |own: IpAddr| bound(&strategy, Family::of(own)) != bound(&now, Family::of(own));
        let count = self.egress.reset(|own, peer| moved(own) && !is_local(routes, peer));
        self.watched.reset(count);
        self.end_sessions();
    }

    /// Where the host's own choice for our sockets leads nowhere, although there is an uplink: binds them to that. Whether
    /// this has changed.
    fn detour(&mut self, host: &Snapshot, uplinks: &Uplinks) -> bool {
        if self.egress.is_apart() {
            return false;
        }
        let (strategy, _) = self.watched.strategy();
        if !strategy.follows_the_host() {
            return false;
        }
        let mut changed = false;
        for family in Family::ALL {
            let wanted = uplinks.get(family).filter(|best| {
                let chosen = query(&strategy.question(far(family))).ok().and_then(|way| way.oif);
                let chosen =
                    chosen.filter(|index| *index != best.index).and_then(|index| host.link_at(index));
                chosen.is_some_and(|link| host.leads_nowhere(link))
            });
            let device = wanted.map(Uplink::from);
            let news = self.egress.set_detour(family, device);
            changed |= news;
            if let Some(uplink) = wanted.filter(|_| news) {
                tracing::warn!(
                    "this host's best {family} default route leads nowhere; our own sockets use {} instead",
                    uplink.name
                );
            }
        }
        if changed {
            self.end_sessions();
        }
        changed
    }

    /// Ends the sessions of datagrams, whose sockets are bound to a device that is not the right one any more.
    pub(super) fn end_sessions(&self) {
        self.shared.udp.end(|_| true);
        self.shared.echo.forget();
    }

    /// Resets the flows that have lost their way. What may come back by itself is left alone until `patience_is_over`; the
    /// flows of a device that new sockets are bound to are told from older ones only when they have just begun to be.
    pub(super) fn reset_stale(&mut self, patience_is_over: bool, detoured: bool) {
        let (strategy, _) = self.watched.strategy();
        let [v4, v6] = Family::ALL.map(|family| self.egress.detour(family).filter(|_| !detoured));
        let (outline, routes) = (&self.outline, self.egress.routes());
        // Many flows have the same ends.
        let mut known = HashMap::new();
        let count = self.egress.reset(|own, peer| {
            let detour = if own.is_ipv6() { &v6 } else { &v4 };
            let owner = outline.addresses.iter().find(|(_, address)| *address == own);
            if detour.as_ref().is_some_and(|uplink| owner.is_some_and(|(owner, _)| *owner == uplink.index)) {
                return false;
            }
            *known
                .entry((own, peer))
                .or_insert_with(|| is_stale(outline, routes, &strategy, own, peer, patience_is_over))
        });
        if count > 0 {
            tracing::info!(flows = count, "reset flows whose uplink is gone");
            self.watched.reset(count);
        }
    }
}

/// What sockets of a family are bound to, where that is what protects them.
fn bound(strategy: &Strategy, family: Family) -> Option<&Uplink> {
    match strategy {
        Strategy::Bind(uplinks) => Some(uplinks.get(family)),
        _ => None,
    }
}

/// Whether this host has the address.
fn is_local(routes: &dyn RouteOracle, address: IpAddr) -> bool {
    routes.route(&RouteQuery::to(address)).is_ok_and(|way| way.kind == RouteKind::Local)
}

/// Whether a flow from this address of ours to that peer has lost its way.
fn is_stale(
    outline: &Outline,
    routes: &dyn RouteOracle,
    strategy: &Strategy,
    own: IpAddr,
    peer: IpAddr,
    patience_is_over: bool,
) -> bool {
    if !is_local(routes, own) {
        return true;
    }
    if is_local(routes, peer) {
        return false;
    }
    let owner = outline.addresses.iter().find(|(_, address)| *address == own).map(|(index, _)| *index);
    let link = owner.and_then(|index| outline.links.iter().find(|link| link.index == index));
    // An address of no device in particular, of loopback for example, is reached by any.
    let Some(link) = link.filter(|link| !link.loopback && link.kind.as_deref() != Some("dummy")) else {
        return false;
    };
    if bound(strategy, Family::of(own)).is_some_and(|uplink| uplink.index != link.index) {
        return patience_is_over || !strategy.is_unbound();
    }
    let way = strategy.question(peer);
    if !link.up || !link.carrier {
        return patience_is_over;
    }
    let (Ok(with), Ok(fresh)) = (routes.route(&RouteQuery { src: Some(own), ..way }), routes.route(&way))
    else {
        return false;
    };
    match with.oif {
        None => patience_is_over,
        Some(oif) if oif == link.index => false,
        // By another device. If a new flow would use this address nevertheless, that is how the host wants it.
        Some(_) => way.src.is_none() && fresh.prefsrc != Some(own),
    }
}
