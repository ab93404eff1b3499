//! What is asked of the rules, and what they answer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use oneway_flow::{Inbound, Network, Process};

use crate::parse::SubId;

/// The number of an outbound in the configuration's order; what it means is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboundId(pub u32);

impl fmt::Display for OutboundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outbound {}", self.0)
    }
}

/// A fact that costs something to find out, so that it is given only when a rule asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer<T> {
    /// Nobody has asked.
    #[default]
    Unasked,
    /// It was looked for and not found. No rule about it matches.
    Unknown,
    /// It is known.
    Known(T),
}

/// A fact that rules may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// The address of [`Query::host`].
    Address,
    /// The user that the flow belongs to.
    Uid,
    /// The program that the flow belongs to.
    Process,
}

/// A flow that asks where to go.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Its transport.
    pub network: Network,
    /// The host name that it wants to reach, if it is known.
    pub host: Option<&'a str>,
    /// The address that it wants to reach. `Unasked` if only the name is known: the first rule on addresses without
    /// `no-resolve` that is reached asks for it.
    pub ip: Answer<IpAddr>,
    /// The port that it wants to reach; 0 where there are none.
    pub port: u16,
    /// Where it comes from.
    pub source: Option<SocketAddr>,
    /// How it was taken in.
    pub inbound: Inbound,
    /// The differentiated services code point of its packet (RFC 2474).
    pub dscp: Option<u8>,
    /// The user it belongs to.
    pub uid: Answer<u32>,
    /// The program it belongs to.
    pub process: Answer<&'a Process>,
    /// The position of the rule that asked for the address, 0 if none did: [`Query::with_address`] sets it. Rules before
    /// it did without, and stay so.
    pub asked_at: u32,
}

impl<'a> Query<'a> {
    /// A flow of which only addresses are known.
    pub fn new(network: Network, source: Option<SocketAddr>, destination: SocketAddr) -> Self {
        Self {
            network,
            host: None,
            ip: Answer::Known(destination.ip()),
            port: destination.port(),
            source,
            inbound: Inbound::Tun,
            dscp: None,
            uid: Answer::Unasked,
            process: Answer::Unasked,
            asked_at: 0,
        }
    }

    /// A flow to a name whose address is not known.
    pub fn to_host(network: Network, source: Option<SocketAddr>, host: &'a str, port: u16) -> Self {
        let nowhere = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port);
        Self { host: Some(host), ip: Answer::Unasked, ..Self::new(network, source, nowhere) }
    }

    /// The same flow with the address that `step` asked for; none if the name has no address. Rules before the one
    /// that asked are not tried with it, as in Clash.
    #[must_use]
    pub fn with_address(self, ip: Option<IpAddr>, rule: usize) -> Self {
        let ip = ip.map_or(Answer::Unknown, Answer::Known);
        Self { ip, asked_at: u32::try_from(rule).unwrap_or(u32::MAX), ..self }
    }
}

/// What the rules say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it goes.
    pub outbound: OutboundId,
    /// The position of the rule that matched, from 0; none if the final outbound took it.
    pub rule: Option<usize>,
    /// If that is a `SUB-RULE`: the list and the position of the rule that matched in there, or in one below.
    pub inner: Option<(SubId, usize)>,
}

/// What the rules answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Where the flow goes.
    Decided(Decision),
    /// A rule was reached that needs to know more. Find it out, put it into the query, and ask again; each fact is
    /// asked for once.
    Needs {
        /// What it needs.
        fact: Fact,
        /// Which rule.
        rule: usize,
    },
}

/// What the rules of a set may ask for. What no rule asks for need not be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The host name of a flow.
    pub host: bool,
    /// The address of a name ([`Fact::Address`]).
    pub address: bool,
    /// The source address or port.
    pub source: bool,
    /// The user ([`Fact::Uid`]).
    pub uid: bool,
    /// The program ([`Fact::Process`]).
    pub process: bool,
    /// The differentiated services code point.
    pub dscp: bool,
}
