//! The host's routing, as data.
//!
//! [`Snapshot`] is what the host looks like, [`query`] asks the kernel where one packet would go.
#![deny(unsafe_code)]

mod apply;
mod change;
mod error;
mod host;
mod id;
mod journal;
mod nft;
mod plan;
mod prove;
mod query;

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "unsupported.rs"]
mod os;

pub use apply::{
    Applied, Captured, Hook, JournalState, Prepared, Recovered, StepPoint, Verified, apply, no_hook, recover,
};
pub use change::{Change, RouteSpec, Undo};
pub use error::RouteError;
pub use host::{Address, Link, NextHop, NftSupport, NftTableId, PROTOCOL, Route, Rule, RuleAction, Snapshot};
pub use id::{Family, IfIndex, Mark, Priority, Table};
pub use journal::Journal;
pub use nft::{Inbound, NftTable};
pub use plan::{Phase, Plan, PlanError, Protect, Request, Step, Uplink, Uplinks, plan};
pub use prove::{Check, Proof, prove_rules};
pub use query::{RouteAnswer, RouteKind, RouteQuery, query};
