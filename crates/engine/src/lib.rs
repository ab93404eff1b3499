//! The engine of oneway as a library: everything but the command line.
//!
//! [`Engine::start`] captures and returns; [`Engine::stop`] undoes. [`plan`] says beforehand what would be changed.

#![forbid(unsafe_code)]

pub mod config;
pub mod control;

mod error;

// These know no operating system and are compiled on each, so that they stay so; used where there is a capture.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod assemble;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod dispatch;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod guard;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod limits;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod stats;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod watched;

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
pub use lifecycle::{Engine, plan, recover};
pub use stats::StatsSnapshot;
