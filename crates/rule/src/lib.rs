//! Decides which outbound a flow takes: the rule language of Clash, first match wins.
//!
//! ```text
//! text ─▶ RuleList ─┐
//! files ─▶ SetData ─┼─▶ RuleSet::compile ─▶ RuleSet::decide(Query) ─▶ Step::Decided
//! GeoIp, GeoSite ───┘                                             └▶ Step::Needs(Fact): ask again with it
//! ```
//!
//! No I/O, no clock: rules are parsed from bytes that the caller has read, compiled once, and asked per flow. What
//! only costs when a rule asks for it (the process of a flow, the address of a name) is asked for by the answer.
#![forbid(unsafe_code)]

mod bytes;
mod cidr_set;
mod compile;
mod condition;
mod domain;
mod error;
mod geo;
mod parse;
mod query;
mod ranges;
mod set;
mod wildcard;

pub use compile::{CompileError, Program, RuleSet};
pub use error::{BinaryError, ParseError};
pub use geo::asn::Asn;
pub use geo::ip::GeoIp;
pub use geo::site::GeoSite;
pub use parse::{Context, RuleList, SetId, SubId, match_in, outbound_of_match};
pub use query::{Answer, Decision, Fact, Needs, OutboundId, Query, Step};
pub use set::{Behavior, Format, SetData, SetError, UnknownWord, utf8};

/// Entries that one file may have. More is a mistake, or an attack on memory.
pub const MAX_ENTRIES: usize = 8 * 1024 * 1024;

/// Bytes that a compressed file may unfold to.
pub const MAX_UNPACKED: usize = 128 * 1024 * 1024;
