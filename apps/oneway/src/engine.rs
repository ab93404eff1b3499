//! Where the program meets the engine.

use std::sync::Arc;

use oneway::config::{Config, ConfigError};
use oneway::control::{FlowInfo, StatePaths, Status};
use oneway::{Engine, EngineError};

use crate::failure::{FAILED, Failure};

/// A running engine, as the service needs it.
pub(crate) trait Instance: Send + Sync + 'static {
    /// What is printed once traffic is captured.
    fn ready_line(&self) -> String;
    /// How it is doing.
    fn status(&self) -> Status;
    /// The flows it carries.
    fn flows(&self) -> Vec<FlowInfo>;
    /// Blocks until it cannot go on and says why; or until it is stopped, `None`.
    fn wait_until_failed(&self) -> Option<Failure>;
    /// Stops it and undoes its changes to the host.
    fn stop(&self) -> Result<(), Failure>;
}

impl Instance for Engine {
    fn ready_line(&self) -> String {
        Engine::ready_line(self)
    }

    fn status(&self) -> Status {
        Engine::status(self)
    }

    fn flows(&self) -> Vec<FlowInfo> {
        Engine::flows(self)
    }

    fn wait_until_failed(&self) -> Option<Failure> {
        Engine::wait_until_failed(self).map(failure)
    }

    fn stop(&self) -> Result<(), Failure> {
        Engine::stop(self).map_err(failure)
    }
}

fn failure(error: EngineError) -> Failure {
    Failure::new(error.exit_code(), error)
}

/// Captures, and returns when traffic is captured.
pub(crate) fn start(config: Config) -> Result<Arc<dyn Instance>, Failure> {
    Ok(Arc::new(Engine::start(&config).map_err(failure)?))
}

/// What is wrong with a configuration beyond the file's own errors: its rules, and what is not available here. Then
/// what the user should know about the rules.
pub(crate) fn check(config: &Config) -> (Vec<ConfigError>, Vec<ConfigError>) {
    match oneway::check(config) {
        Ok(warnings) => (unavailable(config), warnings),
        Err(EngineError::Config(errors)) => (errors.as_slice().to_vec(), Vec::new()),
        Err(error) => (vec![ConfigError::new(None, error.to_string())], Vec::new()),
    }
}

/// What is not available here.
fn unavailable(config: &Config) -> Vec<ConfigError> {
    match oneway::plan(config) {
        Err(EngineError::Config(errors)) => errors.as_slice().to_vec(),
        Err(error @ EngineError::Unsupported { .. }) => vec![ConfigError::new(None, error.to_string())],
        // What only this host stands in the way of is no fault of the configuration.
        Err(_) | Ok(_) => Vec::new(),
    }
}

/// The changes that [`start`] would make, for people and for programs.
pub(crate) struct Planned {
    pub(crate) text: String,
    pub(crate) document: serde_json::Value,
}

/// The changes that [`start`] would make.
pub(crate) fn plan(config: Config) -> Result<Planned, Failure> {
    let plan = oneway::plan(&config).map_err(failure)?;
    let document = serde_json::to_value(&plan)
        .map_err(|e| Failure::new(FAILED, format!("cannot print the plan: {e}")))?;
    Ok(Planned { text: plan.text(), document })
}

/// Undoes what a killed instance left behind and says what that was.
pub(crate) fn recover(paths: &StatePaths) -> Result<String, Failure> {
    oneway::recover(paths).map_err(failure)
}
