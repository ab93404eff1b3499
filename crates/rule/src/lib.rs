//! Decides which outbound a flow takes. The first rule that matches wins.
//!
//! No I/O, no clock: rules are parsed from text that the caller has read, compiled once, and asked per flow.
#![forbid(unsafe_code)]

mod cidr_set;
mod parse;
mod rule_set;

pub use parse::{ParseError, Parsed, parse_list, parse_text};
pub use rule_set::{CidrRule, Decision, OutboundId, RuleSet};
