//! Where a host's routes are, for who asks much.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Deref;

use ipnet::IpNet;

use super::{Outcome, Packet};
use crate::host::{Route, Snapshot};
use crate::id::{Family, Table};

/// A host that many questions are asked about: a router's routes are not gone through for each.
#[derive(Debug)]
pub struct Model<'a> {
    host: &'a Snapshot,
    index: Option<Index>,
}

/// The routes to each network of a table, in the snapshot's order, and the lengths of networks that there are.
#[derive(Debug, Default)]
struct Index {
    routes: HashMap<(Table, IpNet), Vec<usize>>,
    lengths: BTreeSet<(Family, u8)>,
}

impl<'a> Model<'a> {
    /// For many questions.
    pub fn of(host: &'a Snapshot) -> Self {
        let mut index = Index::default();
        for (at, route) in host.routes.iter().enumerate() {
            index.routes.entry((route.table, route.dst.trunc())).or_default().push(at);
            index.lengths.insert((route.family(), route.dst.prefix_len()));
        }
        Self { host, index: Some(index) }
    }

    /// For one.
    pub(super) fn for_one(host: &'a Snapshot) -> Self {
        Self { host, index: None }
    }

    /// [`decide`](super::decide)
    pub fn decide(&self, packet: &Packet) -> Vec<Outcome> {
        super::decide_in(self, packet)
    }

    /// [`decide_socket`](super::decide_socket)
    pub fn decide_socket(&self, packet: &Packet) -> Vec<Outcome> {
        super::decide_socket_in(self, packet)
    }

    pub(super) fn host(&self) -> &'a Snapshot {
        self.host
    }

    /// The routes of a table to networks that hold an address, in the snapshot's order.
    pub(super) fn routes_to(&self, table: Table, dst: IpAddr) -> Vec<(usize, &'a Route)> {
        let routes = &self.host.routes;
        let Some(index) = &self.index else {
            let to = |(_, route): &(usize, &Route)| route.table == table && route.dst.contains(&dst);
            return routes.iter().enumerate().filter(to).collect();
        };
        let family = Family::of(dst);
        let lengths = index.lengths.range((family, 0)..=(family, u8::MAX));
        let nets = lengths.filter_map(|(_, length)| Some(IpNet::new(dst, *length).ok()?.trunc()));
        let mut found: Vec<usize> =
            nets.filter_map(|net| index.routes.get(&(table, net))).flatten().copied().collect();
        found.sort_unstable();
        found.into_iter().filter_map(|at| Some((at, routes.get(at)?))).collect()
    }
}

impl Deref for Model<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        self.host
    }
}
