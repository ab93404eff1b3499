//! Reading the whole state of a network namespace.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;

use super::netlink::{Netlink, parse_strictly};
use super::{decode, nft, serving, sysctl};
use crate::error::RouteError;
use crate::host::{Address, Link, NftSupport, Route, Rule, Snapshot};
use crate::id::{Family, IfIndex};

const ENODEV: i32 = 19;

pub(crate) fn snapshot() -> Result<Snapshot, RouteError> {
    Ok(Snapshot { serving: serving::serving()?, ..snapshot_again(nft::support()?)? })
}

/// All but what is asked for once: what nftables can do, and which ports are in use.
pub(crate) fn snapshot_again(nft: NftSupport) -> Result<Snapshot, RouteError> {
    let mut netlink = Netlink::routing()?;
    let links = netlink.links()?;
    let sysctls = sysctl::read_all(links.iter().map(|l| l.name.as_str()))?;
    Ok(Snapshot {
        addresses: netlink.addresses()?,
        routes: netlink.routes()?,
        rules: netlink.rules()?,
        links,
        sysctls,
        switches: sysctl::may_be_set(),
        nft,
        nft_tables: nft::tables()?,
        serving: Vec::new(),
    })
}

/// The device of this number; `None` when there is none.
pub(crate) fn link(index: IfIndex) -> Result<Option<Link>, RouteError> {
    Netlink::routing()?.link_of(index)
}

impl Netlink {
    pub(super) fn links(&mut self) -> Result<Vec<Link>, RouteError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump("list the links", &request, |message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(decode::link(link)),
            _ => None,
        })
    }

    pub(super) fn addresses(&mut self) -> Result<Vec<Address>, RouteError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump("list the addresses", &request, |message| match message {
            RouteNetlinkMessage::NewAddress(address) => decode::address(address),
            _ => None,
        })
    }

    pub(super) fn routes(&mut self) -> Result<Vec<Route>, RouteError> {
        let mut routes = Vec::new();
        for family in Family::ALL {
            let mut message = RouteMessage::default();
            message.header.address_family = decode::family_number(family);
            let request = RouteNetlinkMessage::GetRoute(message);
            routes.append(&mut self.dump("list the routes", &request, |message| match message {
                RouteNetlinkMessage::NewRoute(route) => decode::route(route),
                _ => None,
            })?);
        }
        self.resolve(&mut routes)?;
        Ok(routes)
    }

    pub(super) fn rules(&mut self) -> Result<Vec<Rule>, RouteError> {
        let mut rules = Vec::new();
        for family in Family::ALL {
            let mut message = RuleMessage::default();
            message.header.family = decode::family_number(family);
            let request = RouteNetlinkMessage::GetRule(message);
            rules.append(&mut self.dump("list the rules", &request, |message| match message {
                RouteNetlinkMessage::NewRule(rule) => decode::rule(rule),
                _ => None,
            })?);
        }
        // A kernel without IPv6 answers a dump of that family with those of all families.
        rules.dedup();
        Ok(rules)
    }

    /// The name of a device; `None` when it is gone.
    pub(super) fn link_name(&mut self, index: IfIndex) -> Result<Option<String>, RouteError> {
        self.link_of(index).map(|link| link.map(|link| link.name))
    }

    fn link_of(&mut self, index: IfIndex) -> Result<Option<Link>, RouteError> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        self.one_link(&format!("find device {index}"), message)
    }

    /// A device by name; `None` when there is none.
    pub(super) fn link_named(&mut self, name: &str) -> Result<Option<Link>, RouteError> {
        let mut message = LinkMessage::default();
        message.attributes.push(netlink_packet_route::link::LinkAttribute::IfName(name.into()));
        self.one_link(&format!("find device {name}"), message)
    }

    fn one_link(&mut self, what: &str, message: LinkMessage) -> Result<Option<Link>, RouteError> {
        let mut found = None;
        let outcome = self.request(what, RouteNetlinkMessage::GetLink(message), 0, |message| {
            if let RouteNetlinkMessage::NewLink(link) = parse_strictly(what, &message)? {
                found = Some(decode::link(&link));
            }
            Ok(())
        })?;
        match outcome {
            Ok(()) => Ok(found),
            Err(refusal) if refusal.errno() == ENODEV => Ok(None),
            Err(refusal) => Err(refusal.of(what)),
        }
    }
}
