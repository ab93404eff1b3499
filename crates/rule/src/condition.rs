//! What a rule asks of a flow.

use std::net::IpAddr;

use ipnet::IpNet;
use oneway_flow::Network;
use regex::Regex;

use crate::domain::Labels;
use crate::parse::SetId;
use crate::ranges::Ranges;
use oneway_flow::Inbound;

/// Which names a name in a rule stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum NameKind {
    /// It alone.
    Exact,
    /// It and all below.
    Suffix,
    /// All below.
    Below,
    /// Those with exactly one label more.
    Star,
}

/// Which end of a flow is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// An address that a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) side: Side,
    /// Whether a name is to be resolved for this rule; never for a source.
    pub(crate) resolve: bool,
}

/// Addresses that end in certain bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpSuffix {
    pub(crate) ip: IpAddr,
    /// How many of the last bits count.
    pub(crate) bits: u8,
}

impl IpSuffix {
    pub(crate) fn matches(self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.bits);
                (own.to_bits() ^ ip.to_bits()).checked_shl(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.bits);
                (own.to_bits() ^ ip.to_bits()).checked_shl(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The name or the path of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Name,
    Path,
}

/// Kinds of inbounds, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inbounds(u8);

impl Inbounds {
    pub(crate) fn insert(&mut self, inbound: Inbound) {
        self.0 |= 1 << inbound as u8;
    }

    pub(crate) fn contains(self, inbound: Inbound) -> bool {
        self.0 & 1 << inbound as u8 != 0
    }
}

/// What a rule asks of a flow.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// `MATCH`.
    Always,
    /// What cannot be true of any flow that this program carries.
    Never,
    Name(NameKind, Box<str>),
    Labels(Box<Labels>),
    Keyword(Box<str>),
    Wildcard(Box<str>),
    Regex(Box<Regex>),
    /// A category of the database, and the attribute that its entries must have.
    GeoSite(Box<(Box<str>, Option<Box<str>>)>),
    Net(IpNet, Address),
    IpSuffix(Box<IpSuffix>, Address),
    /// A country code in lower case, or `lan`.
    GeoIp(Box<str>, Address),
    Asn(u32, Address),
    Port(Side, Ranges<u16>),
    Network(Network),
    /// In lower case.
    Program(Program, Box<str>),
    ProgramWildcard(Program, Box<str>),
    ProgramRegex(Program, Box<Regex>),
    Uid(Ranges<u32>),
    Inbound(Inbounds),
    Dscp(Ranges<u8>),
    RuleSet(SetId, Address),
    /// A set that was compiled for use inside a condition.
    Compiled(u32),
    All(Box<[Condition]>),
    Any(Box<[Condition]>),
    Not(Box<Condition>),
}

impl Condition {
    /// Calls `visit` with this condition and all inside it.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(&Self)) {
        visit(self);
        match self {
            Self::All(inner) | Self::Any(inner) => inner.iter().for_each(|inner| inner.walk(visit)),
            Self::Not(inner) => inner.walk(visit),
            _ => {}
        }
    }
}

/// Builds a regular expression in the way of the rules: case does not count, and a match anywhere is one.
pub(crate) fn regex(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(pattern)
        .case_insensitive(true)
        // Each costs memory for as long as the rules live; the largest in public lists take a tenth of that.
        .size_limit(REGEX_SIZE)
        .nest_limit(64)
        .build()
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => {
                format!("the regular expression {pattern:?} takes more than {REGEX_SIZE} bytes compiled")
            }
            // The last line says what is wrong; those before draw it.
            e => {
                let text = e.to_string();
                let why = text.lines().last().unwrap_or_default().trim();
                let why = why.strip_prefix("error: ").unwrap_or(why);
                format!("{pattern:?} is no regular expression: {why}")
            }
        })
}

/// Bytes that one compiled regular expression may take.
pub(crate) const REGEX_SIZE: usize = 1024 * 1024;
