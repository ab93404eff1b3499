//! An ordered list of rules, and its compiled form.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use oneway_flow::{Network, Target};

use crate::cidr_set::{Cidrs, Entry};

/// The number of an outbound in the configuration's order; what it means is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboundId(pub u32);

impl fmt::Display for OutboundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outbound {}", self.0)
    }
}

/// A rule on the destination address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrRule {
    /// The destination network. An IPv4 network never matches an IPv6 address, nor the reverse; IPv4-mapped
    /// IPv6 addresses are IPv4.
    pub net: IpNet,
    /// Only this transport, if set.
    pub network: Option<Network>,
    /// Only these destination ports, if set.
    pub ports: Option<RangeInclusive<u16>>,
    /// Where a flow that matches goes.
    pub outbound: OutboundId,
}

impl CidrRule {
    /// A rule for every transport and port.
    pub fn new(net: IpNet, outbound: OutboundId) -> Self {
        Self { net, network: None, ports: None, outbound }
    }

    fn conditional(&self) -> bool {
        self.network.is_some() || self.ports.is_some()
    }

    /// Whether the rule's conditions beside the address hold.
    fn admits(&self, network: Network, port: u16) -> bool {
        self.network.is_none_or(|only| only == network)
            && self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

impl fmt::Display for CidrRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.net.addr().is_ipv4() { "IP-CIDR" } else { "IP-CIDR6" };
        write!(f, "{kind},{}", self.net)?;
        if let Some(network) = self.network {
            write!(f, ",{network}")?;
        }
        if let Some(ports) = &self.ports {
            write!(f, ",ports {}-{}", ports.start(), ports.end())?;
        }
        Ok(())
    }
}

/// What the rules say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it goes.
    pub outbound: OutboundId,
    /// The position of the rule that matched, from 0; none if the final outbound took it.
    pub rule: Option<usize>,
}

/// Rules in their order, compiled for look-up in time that depends on the length of addresses, not on the
/// number of rules (rules with conditions on one and the same network are tried one by one).
#[derive(Clone, Debug)]
pub struct RuleSet {
    rules: Vec<CidrRule>,
    last: OutboundId,
    v4: Cidrs<u32>,
    v6: Cidrs<u128>,
}

impl RuleSet {
    /// Compiles `rules`; `last` takes what none of them matches. At most 2³¹ rules.
    pub fn new(rules: Vec<CidrRule>, last: OutboundId) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for (order, rule) in (0u32..).zip(&rules) {
            let conditional = rule.conditional();
            match rule.net {
                IpNet::V4(net) => v4.push(Entry {
                    first: net.network().to_bits(),
                    last: net.broadcast().to_bits(),
                    order,
                    conditional,
                }),
                IpNet::V6(net) => v6.push(Entry {
                    first: net.network().to_bits(),
                    last: net.broadcast().to_bits(),
                    order,
                    conditional,
                }),
            }
        }
        Self { v4: Cidrs::new(v4), v6: Cidrs::new(v6), rules, last }
    }

    /// The outbound of a flow.
    pub fn decide(&self, network: Network, target: &Target) -> Decision {
        let port = target.addr.port();
        let admits =
            |order: u32| self.rules.get(order as usize).is_some_and(|rule| rule.admits(network, port));
        let found = match target.addr.ip().to_canonical() {
            IpAddr::V4(ip) => self.v4.find(ip.to_bits(), admits),
            IpAddr::V6(ip) => self.v6.find(ip.to_bits(), admits),
        };
        match found.and_then(|order| Some((order as usize, self.rules.get(order as usize)?))) {
            Some((index, rule)) => Decision { outbound: rule.outbound, rule: Some(index) },
            None => Decision { outbound: self.last, rule: None },
        }
    }

    /// The rules in their order.
    pub fn rules(&self) -> &[CidrRule] {
        &self.rules
    }

    /// The outbound for what no rule matches.
    pub fn final_outbound(&self) -> OutboundId {
        self.last
    }
}

#[cfg(test)]
mod tests;
