//! What would become of a packet, whether anything of ours comes back, and which loops a configuration would make.
//!
//! Two witnesses are heard: the kernel, asked with the attributes that our sockets really have, and the model of its
//! decision in `route`, which knows all destinations that can be told apart and which rule decides. Where there is no
//! instance yet, the model is asked about the host as the plan makes it, after it has been compared with the kernel
//! about the host as it is.

mod carried;
mod check;
mod circles;
mod doctor;
mod scene;
mod why;

pub(crate) use circles::circles;
use oneway_route::Snapshot;
pub(crate) use scene::sabotaged;

use crate::Engine;
use crate::config::{Config, ConfigError, Loaded};
use crate::control::{Doctor, Why, WhyQuestion};
use crate::error::EngineError;

/// Whether each way out of what `run` would do is free of loops. Changes nothing.
///
/// # Errors
/// As [`plan`](crate::plan).
pub fn doctor(config: &Config) -> Result<Doctor, EngineError> {
    scene::planned(config, doctor::doctor)
}

/// What would become of a packet if `run` ran. Changes nothing.
///
/// # Errors
/// As [`plan`](crate::plan).
pub fn why(config: &Config, question: &WhyQuestion) -> Result<Why, EngineError> {
    scene::planned(config, |scene| why::why(scene, question))
}

/// What is wrong with a configuration beyond its own text: its rules, what is not available here, and the loops that
/// it would make on this host. Then what the user should know about the rules. Changes nothing.
pub fn check(loaded: &Loaded) -> (Vec<ConfigError>, Vec<ConfigError>) {
    check::check(loaded)
}

impl Engine {
    /// Whether each way out is free of loops, as the kernel says now.
    ///
    /// # Errors
    /// [`EngineError::Route`], [`EngineError::DeviceLost`].
    pub fn doctor(&self) -> Result<Doctor, EngineError> {
        self.home.run(|| scene::running(self, &Snapshot::take()?, doctor::doctor))?
    }

    /// What would become of a packet, as the kernel says now.
    ///
    /// # Errors
    /// [`EngineError::Route`], [`EngineError::DeviceLost`].
    pub fn why(&self, question: &WhyQuestion) -> Result<Why, EngineError> {
        self.home.run(|| scene::running(self, &Snapshot::take()?, |scene| why::why(scene, question)))?
    }
}
