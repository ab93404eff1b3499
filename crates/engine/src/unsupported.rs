//! Systems whose capture is not written yet: nothing starts, so no engine ever exists.

use std::convert::Infallible;
use std::sync::Arc;

use oneway_route::Plan;

use crate::config::{Config, ConfigError, Loaded};
use crate::control::{Doctor, FlowInfo, StatePaths, Status, Why, WhyQuestion};
use crate::error::EngineError;
use crate::reloaded::Reloaded;
use crate::stats::StatsSnapshot;

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

/// Whether each way out of what `run` would do is free of loops.
///
/// # Errors
/// Always [`EngineError::Unsupported`].
pub fn doctor(_config: &Config) -> Result<Doctor, EngineError> {
    unsupported("proving that nothing loops")
}

/// What would become of a packet if `run` ran.
///
/// # Errors
/// Always [`EngineError::Unsupported`].
pub fn why(_config: &Config, _question: &WhyQuestion) -> Result<Why, EngineError> {
    unsupported("following a packet")
}

/// What is wrong with a configuration beyond its own text: here, its rules. Then what the user should know about them.
pub fn check(loaded: &Loaded) -> (Vec<ConfigError>, Vec<ConfigError>) {
    match crate::assemble::dispatch(&loaded.config, &crate::assemble::system_resolver()) {
        Ok((_, warnings)) => (Vec::new(), warnings),
        Err(EngineError::Config(errors)) => (errors.as_slice().to_vec(), Vec::new()),
        Err(error) => (vec![ConfigError::new(None, error.to_string())], Vec::new()),
    }
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

    /// The same.
    ///
    /// # Errors
    /// Always [`EngineError::Unsupported`].
    pub fn start_unless(_config: &Config, _cancel: &crate::Cancel) -> Result<Self, EngineError> {
        unsupported("capturing traffic")
    }

    /// One line that says what is captured.
    pub fn ready_line(&self) -> String {
        match self.never {}
    }

    /// Puts another configuration into force.
    ///
    /// # Errors
    /// Never called.
    pub fn reload(&self, _config: &Config) -> Result<Reloaded, EngineError> {
        match self.never {}
    }

    /// Lets a group take one of its members.
    ///
    /// # Errors
    /// None: there is no engine.
    pub fn select(&self, _group: &str, _member: &str) -> Result<(), String> {
        match self.never {}
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        match self.never {}
    }

    /// What it has counted.
    pub fn stats(&self) -> StatsSnapshot {
        match self.never {}
    }

    /// The flows that it carries.
    pub fn flows(&self) -> Vec<FlowInfo> {
        match self.never {}
    }

    /// Whether each way out is free of loops.
    ///
    /// # Errors
    /// None: there is none.
    pub fn doctor(&self) -> Result<Doctor, EngineError> {
        match self.never {}
    }

    /// What would become of a packet.
    ///
    /// # Errors
    /// None: there is none.
    pub fn why(&self, _question: &WhyQuestion) -> Result<Why, EngineError> {
        match self.never {}
    }

    /// Blocks until it cannot go on, and says why.
    pub fn wait_until_failed(&self) -> Option<Arc<EngineError>> {
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
