//! Which changes of ours are not on the host any more.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};

use super::netlink::Netlink;
use super::{decode, nft, resolved, resolver, sysctl};
use crate::change::{Change, RouteSpec};
use crate::error::RouteError;
use crate::host::{Address, Link, PROTOCOL, Route, Rule};
use crate::id::{Family, Table};

const ENOENT: i32 = 2;

/// What IPv6 makes of a route without a metric (`IP6_RT_PRIO_USER`).
const IPV6_METRIC: u32 = 1024;

/// For each change whether it is missing. What was changed in other ways than ours is missing too, since it does not do
/// what it was made for.
pub(crate) fn missing(changes: &[&Change]) -> Result<Vec<bool>, RouteError> {
    let mut seen = Seen::default();
    changes.iter().map(|change| seen.lacks(change)).collect()
}

/// Lists that were read, each once and only if it is asked for.
#[derive(Default)]
struct Seen {
    netlink: Option<Netlink>,
    links: Option<Vec<Link>>,
    addresses: Option<Vec<Address>>,
    rules: Option<Vec<Rule>>,
    routes: Vec<(Table, Vec<Route>)>,
}

impl Seen {
    fn netlink(&mut self) -> Result<&mut Netlink, RouteError> {
        if self.netlink.is_none() {
            self.netlink = Some(Netlink::routing()?);
        }
        self.netlink.as_mut().ok_or(RouteError::Unsupported { what: "talk to the kernel" })
    }

    fn link(&mut self, name: &str) -> Result<Option<Link>, RouteError> {
        if self.links.is_none() {
            self.links = Some(self.netlink()?.links()?);
        }
        Ok(self.links.iter().flatten().find(|link| link.name == name).cloned())
    }

    fn lacks(&mut self, change: &Change) -> Result<bool, RouteError> {
        match change {
            Change::Link { name, mtu, .. } => {
                Ok(!self.link(name)?.is_some_and(|link| link.up && link.mtu == *mtu))
            }
            Change::Address { name, net } => {
                let Some(link) = self.link(name)? else { return Ok(true) };
                if self.addresses.is_none() {
                    self.addresses = Some(self.netlink()?.addresses()?);
                }
                let mut all = self.addresses.iter().flatten();
                Ok(!all.any(|address| address.index == link.index && address.net == *net))
            }
            Change::Group { name, group, .. } => Ok(self.link(name)?.is_none_or(|link| link.group != *group)),
            Change::Route(spec) => self.lacks_route(spec),
            Change::Rule(spec) => {
                if self.rules.is_none() {
                    self.rules = Some(self.netlink()?.rules()?);
                }
                // What newer kernels tell besides is nothing that we have asked for.
                let mut all = self.rules.iter().flatten();
                Ok(!all.any(|rule| Rule { other: Vec::new(), ..rule.clone() } == *spec))
            }
            // Who removes it has to find it empty, and a new one has another number: that is another plan.
            Change::Cgroup { .. } => Ok(false),
            Change::Nft(table) => nft::intact(&table.name, &table.chains()).map(|intact| !intact),
            Change::Refuse(table) => nft::intact(&table.name, &table.chains()).map(|intact| !intact),
            Change::Redirect(table) => nft::intact(&table.name, &table.chains()).map(|intact| !intact),
            Change::Tproxy(table) => nft::intact(&table.name, &table.chains()).map(|intact| !intact),
            Change::ResolvConf(file) => Ok(resolver::lacks(file)),
            Change::LinkDomains(link) => resolved::is_wide(&link.name),
            Change::LinkDns { name, nameserver } => resolved::lacks(name, *nameserver),
            Change::Sysctl { path, new, .. } => {
                Ok(sysctl::read(path)?.as_deref().map(str::trim) != Some(new.trim()))
            }
        }
    }

    fn lacks_route(&mut self, spec: &RouteSpec) -> Result<bool, RouteError> {
        let index = match &spec.dev {
            Some(name) => match self.link(name)? {
                Some(link) => Some(link.index),
                None => return Ok(true),
            },
            None => None,
        };
        if !self.routes.iter().any(|(table, _)| *table == spec.table) {
            let found = self.netlink()?.routes_of(spec.table)?;
            self.routes.push((spec.table, found));
        }
        let same = |route: &Route| {
            let metric = spec.metric == route.metric
                || spec.metric == 0 && route.dst.addr().is_ipv6() && route.metric == IPV6_METRIC;
            route.protocol == PROTOCOL
                && route.dst == spec.dst.trunc()
                && route.kind == spec.kind()
                && metric
                && (index.is_none() || route.oif == index)
                && route.prefsrc == spec.src
                && route.gateway == spec.gateway
        };
        let all = self.routes.iter().filter(|(table, _)| *table == spec.table).flat_map(|(_, routes)| routes);
        Ok(!all.into_iter().any(same))
    }
}

impl Netlink {
    /// The routes of one table. The kernel filters, where it can: others may have a million.
    fn routes_of(&mut self, table: Table) -> Result<Vec<Route>, RouteError> {
        let mut routes = Vec::new();
        for family in Family::ALL {
            let mut message = RouteMessage::default();
            message.header.address_family = decode::family_number(family);
            message.attributes.push(RouteAttribute::Table(table.0));
            // Old kernels do not filter.
            let found =
                self.dump(
                    "list our routes",
                    &RouteNetlinkMessage::GetRoute(message),
                    |message| match message {
                        RouteNetlinkMessage::NewRoute(route) => {
                            decode::route(route).filter(|route| route.table == table)
                        }
                        _ => None,
                    },
                );
            match found {
                Ok(mut found) => routes.append(&mut found),
                // No table: nothing in it.
                Err(e) if e.raw_os_error() == Some(ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(routes)
    }
}
