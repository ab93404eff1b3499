//! The host's routing, as data.
//!
//! [`Snapshot`] is what the host looks like, [`query`] asks the kernel where one packet would go.
#![forbid(unsafe_code)]

mod change;
mod error;
mod host;
mod id;
mod nft;
mod plan;
mod query;

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "unsupported.rs"]
mod os;

pub use change::{Change, RouteSpec, Undo};
pub use error::RouteError;
pub use host::{Address, Link, NextHop, NftSupport, NftTableId, PROTOCOL, Route, Rule, RuleAction, Snapshot};
pub use id::{Family, IfIndex, Mark, Priority, Table};
pub use nft::{Inbound, NftTable};
pub use plan::{Phase, Plan, PlanError, Protect, Request, Step, Uplink, Uplinks, plan};
pub use query::{RouteAnswer, RouteKind, RouteQuery, query};
