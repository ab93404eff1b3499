//! The engine of oneway as a library: everything but the command line.
//!
//! [`Engine::start`] captures and returns; [`Engine::stop`] undoes. [`plan`] says beforehand what would be changed,
//! [`check`] which loops a configuration would make, [`doctor`] and [`why`] that nothing comes back.

#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod import;

mod error;

// These know no operating system and are compiled on each, so that they stay so; used where there is a capture.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod addresses;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod assemble;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod blocking;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod circle;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod dispatch;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod exclude;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod group;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod guard;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod limits;
mod reloaded;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod stats;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod watched;

#[cfg(target_os = "linux")]
pub mod apart;
#[cfg(target_os = "linux")]
mod dns;
#[cfg(target_os = "linux")]
mod explain;
#[cfg(target_os = "linux")]
mod lifecycle;
#[cfg(not(target_os = "linux"))]
#[path = "unsupported.rs"]
mod lifecycle;
#[cfg(target_os = "linux")]
mod status;
#[cfg(target_os = "linux")]
mod worker;

pub use error::EngineError;
pub use exclude::exclude_this_process;
#[cfg(target_os = "linux")]
pub use explain::{check, doctor, why};
pub use lifecycle::{Engine, plan, recover};
#[cfg(not(target_os = "linux"))]
pub use lifecycle::{check, doctor, why};
pub use oneway_capture::tun::TunError;
pub use oneway_egress::EgressError;
pub use oneway_outbound::DialError;
pub use oneway_route::{Plan, PlanError, RouteError};
pub use reloaded::Reloaded;
pub use stats::StatsSnapshot;
