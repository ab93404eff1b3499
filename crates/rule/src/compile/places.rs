//! Rules on where addresses are: networks, countries, autonomous systems.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Databases;
use crate::cidr_set::{Cidrs, Entry};
use crate::geo::ip::is_lan;

/// The rules on one end's address.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    v4: Cidrs<u32>,
    v6: Cidrs<u128>,
    countries: Vec<Place<Box<str>>>,
    systems: Vec<Place<u32>>,
    /// The first rule that would have a name resolved.
    resolving: Option<u32>,
}

/// A country or a system, and its rule.
#[derive(Clone, Debug)]
struct Place<T> {
    what: T,
    order: u32,
    resolve: bool,
}

/// Rules on one end's address, being collected in their order.
#[derive(Debug, Default)]
pub(crate) struct PlacesBuilder {
    v4: Vec<Entry<u32>>,
    v6: Vec<Entry<u128>>,
    countries: Vec<Place<Box<str>>>,
    systems: Vec<Place<u32>>,
    resolving: Option<u32>,
}

impl PlacesBuilder {
    pub(crate) fn net(&mut self, net: IpNet, order: u32, resolve: bool) {
        self.note(order, resolve);
        match net {
            IpNet::V4(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                self.v4.push(Entry { first, last, order, resolve });
            }
            IpNet::V6(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                self.v6.push(Entry { first, last, order, resolve });
            }
        }
    }

    pub(crate) fn country(&mut self, code: Box<str>, order: u32, resolve: bool) {
        self.note(order, resolve);
        self.countries.push(Place { what: code, order, resolve });
    }

    pub(crate) fn system(&mut self, number: u32, order: u32, resolve: bool) {
        self.note(order, resolve);
        self.systems.push(Place { what: number, order, resolve });
    }

    fn note(&mut self, order: u32, resolve: bool) {
        // They come in the order of the rules.
        if resolve && self.resolving.is_none() {
            self.resolving = Some(order);
        }
    }

    pub(crate) fn build(self) -> Places {
        Places {
            v4: Cidrs::new(self.v4),
            v6: Cidrs::new(self.v6),
            countries: self.countries,
            systems: self.systems,
            resolving: self.resolving,
        }
    }
}

impl Places {
    /// The first rule that would have a name resolved.
    pub(crate) fn resolving(&self) -> Option<u32> {
        self.resolving
    }

    /// Whether there are no rules.
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.countries.is_empty() && self.systems.is_empty()
    }

    /// The first rule before `best` that the address belongs to. See [`Cidrs::find`] for `asked_at`.
    pub(crate) fn find(&self, ip: IpAddr, asked_at: u32, best: u32, databases: &Databases) -> Option<u32> {
        let found = match ip {
            IpAddr::V4(ip) => self.v4.find(ip.to_bits(), asked_at),
            IpAddr::V6(ip) => self.v6.find(ip.to_bits(), asked_at),
        };
        let mut best = found.map_or(best, |found| found.min(best));
        let found = self.country(ip, asked_at, best, databases);
        best = found.unwrap_or(best);
        if self.systems.first().is_some_and(|first| first.order < best)
            && let Some(number) = databases.asn.as_ref().and_then(|asn| asn.number(ip))
            && let Some(found) = first(&self.systems, asked_at, best, |system| *system == number)
        {
            best = found;
        }
        (best != super::names::NONE).then_some(best)
    }

    fn country(&self, ip: IpAddr, asked_at: u32, best: u32, databases: &Databases) -> Option<u32> {
        if self.countries.first()?.order >= best {
            return None;
        }
        let lan = is_lan(ip);
        let mut found = first(&self.countries, asked_at, best, |code| lan && **code == *"lan");
        if let Some(geoip) = &databases.geoip {
            geoip.any(ip, |code| {
                let best = found.unwrap_or(best);
                let one = first(&self.countries, asked_at, best, |own| own.eq_ignore_ascii_case(code));
                found = one.or(found);
                false
            });
        }
        found
    }

    pub(crate) fn memory(&self) -> usize {
        self.v4.memory() + self.v6.memory() + size_of::<Place<Box<str>>>() * self.countries.capacity()
    }
}

fn first<T>(places: &[Place<T>], asked_at: u32, best: u32, is: impl Fn(&T) -> bool) -> Option<u32> {
    let reached = places.iter().take_while(|place| place.order < best);
    let mut counts = reached.filter(|place| place.resolve || place.order >= asked_at);
    counts.find(|place| is(&place.what)).map(|place| place.order)
}
