//! Systems whose capture is not written yet: nothing starts, so no engine ever exists.

use std::convert::Infallible;

use oneway_route::Plan;

use crate::config::{Config, ConfigError};
use crate::control::{FlowInfo, StatePaths, Status};
use crate::error::EngineError;

/// A running capture; there is none on this system.
#[derive(Debug)]
pub struct Engine {
    never: Infallible,
}

fn unsupported<T>(what: &str) -> Result<T, EngineError> {
    Err(EngineError::Unsupported {
        what: what.to_owned(),
        where_: "on this operating system in this version",
        instead: "use Linux",
    })
}

/// What `run` would change on this host.
///
/// # Errors
/// Always [`EngineError::Unsupported`].
pub fn plan(_config: &Config) -> Result<Plan, EngineError> {
    unsupported("planning the capture")
}

/// Reads the rules and says what the user should know about them.
///
/// # Errors
/// [`EngineError::Config`] with everything that is wrong with them.
pub fn check(config: &Config) -> Result<Vec<ConfigError>, EngineError> {
    crate::assemble::dispatch(config).map(|(_, warnings)| warnings)
}

/// Undoes what a killed instance left behind.
///
/// # Errors
/// Always [`EngineError::Unsupported`].
pub fn recover(_paths: &StatePaths) -> Result<String, EngineError> {
    unsupported("recovering")
}

impl Engine {
    /// Captures.
    ///
    /// # Errors
    /// Always [`EngineError::Unsupported`].
    pub fn start(_config: &Config) -> Result<Self, EngineError> {
        unsupported("capturing traffic")
    }

    /// One line that says what is captured.
    pub fn ready_line(&self) -> String {
        match self.never {}
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        match self.never {}
    }

    /// The flows that it carries.
    pub fn flows(&self) -> Vec<FlowInfo> {
        match self.never {}
    }

    /// Blocks until it cannot go on, and says why.
    pub fn wait_until_failed(&self) -> Option<EngineError> {
        match self.never {}
    }

    /// Stops it.
    ///
    /// # Errors
    /// None: there is nothing to stop.
    pub fn stop(&self) -> Result<(), EngineError> {
        match self.never {}
    }
}
