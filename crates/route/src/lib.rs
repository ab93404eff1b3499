//! The host's routing as data: looked at, planned, changed, undone.
//!
//! - [`Snapshot`] is what the host looks like; [`query`] asks the kernel where one packet would go.
//! - [`plan`] decides purely from a [`Request`] and a [`Snapshot`]; [`Plan::text`] says it in the words of
//!   `ip` and `nft`.
//! - [`decide`] is the kernel's routing decision as a pure function of a [`Snapshot`], [`planned`] the snapshot with
//!   a plan applied, [`classes`] all destinations in as few questions as there are answers.
//! - [`apply`] makes the preparations, [`Applied::verify`] rehearses the capture with a mark that no packet
//!   carries, [`Applied::capture`] makes it real: protect, verify, capture, and in no other order.
//! - Every change's inverse is in the [`Journal`] before the change is made; [`Applied::undo`] goes back,
//!   [`recover`] does so after a crash, with the journal, by tags, or both.
//! - [`furnish`] sets up a namespace that holds one program.
//! - [`Monitor`] tells when something may have changed. [`Applied::put_back`] then restores what is ours and
//!   gone, and [`Applied::change_to`] follows the host to another plan, which [`plan_again`] makes.
//!
//! Everything works in the calling thread's network namespace.
#![deny(unsafe_code)]

mod apply;
mod cgroup;
mod change;
mod drift;
mod error;
mod furnish;
#[cfg(all(feature = "fuzzing", target_os = "linux"))]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod id;
mod journal;
mod link;
mod model;
mod monitor;
mod nft;
mod plan;
mod prove;
mod query;
mod resolver;
mod without;

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "unsupported.rs"]
mod os;

pub use apply::{
    Applied, Captured, Hook, JournalState, Prepared, Recovered, StepPoint, Verified, apply, no_hook, recover,
    recover_with,
};
pub use cgroup::{Cgroup, CgroupError, instance_runs};
pub use change::{Change, RouteSpec, Undo};
pub use drift::{PutBack, Watched};
pub use error::RouteError;
pub use furnish::furnish;
pub use host::{Address, Link, NextHop, NftSupport, NftTableId, PROTOCOL, Route, Rule, RuleAction, Snapshot};
pub use id::{Family, IfIndex, Mark, Priority, Table, netns};
pub use journal::Journal;
pub use link::{link, rename_link};
pub use model::{
    Model, Outcome, Packet, classes, decide, decide_socket, foreign_ways, marked_by, planned, route_words,
    rule_words,
};
pub use monitor::{Changes, Monitor, Waker};
pub use nft::{Inbound, Leaving, Memory, NftTable, RedirectTable, RefuseTable, TproxyTable};
pub use plan::{
    Divert, Phase, Plan, PlanError, Protect, Request, Sources, Step, Uplink, Uplinks, collisions,
    find_uplinks, find_uplinks_unguarded, never_captured, plan, plan_again,
};
pub use prove::{Check, Proof, prove_rules};
pub use query::{Asker, RouteAnswer, RouteKind, RouteQuery, destroy_tcp, query};
pub use resolver::{
    Before, LinkDomains, Place, RESOLV_CONF, ResolvConf, Resolver, nameserver, resolv_conf_before,
};
pub use without::{Safeguard, Without};
