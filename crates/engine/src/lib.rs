//! The engine of oneway as a library: everything but the command line.
//!
//! [`Engine::start`] captures and returns; [`Engine::stop`] undoes. [`plan`] says beforehand what would be changed.

#![forbid(unsafe_code)]

pub mod config;
pub mod control;

mod assemble;
mod dispatch;
mod error;
mod guard;
mod limits;
mod stats;

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
