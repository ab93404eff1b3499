//! Where the program meets the engine.

use std::sync::Arc;

use oneway::config::{Config, ConfigError, Loaded};
use oneway::control::{Doctor, FlowInfo, StatePaths, Status, Why, WhyQuestion};
use oneway::{Cancel, Engine, EngineError, Reloaded};

use crate::failure::{FAILED, Failure};

/// A running engine, as the service needs it.
pub(crate) trait Instance: Send + Sync + 'static {
    /// What is printed once traffic is captured.
    fn ready_line(&self) -> String;
    /// How it is doing.
    fn status(&self) -> Status;
    /// The flows it carries.
    fn flows(&self) -> Vec<FlowInfo>;
    /// A verdict on each of its ways out. May take a while.
    fn doctor(&self) -> Result<Doctor, Failure>;
    /// What would become of a packet.
    fn why(&self, question: &WhyQuestion) -> Result<Why, Failure>;
    /// Puts another configuration into force.
    fn reload(&self, config: &Config) -> Result<Reloaded, Failure>;
    /// Lets a group of type `select` take one of its members.
    fn select(&self, group: &str, member: &str) -> Result<(), Failure>;
    /// Blocks until it cannot go on and says why; or until it is stopped, `None`.
    fn wait_until_failed(&self) -> Option<Failure>;
    /// Stops it and undoes its changes to the host, unless it has failed and the host is to stay shut.
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

    fn doctor(&self) -> Result<Doctor, Failure> {
        Engine::doctor(self).map_err(failure)
    }

    fn why(&self, question: &WhyQuestion) -> Result<Why, Failure> {
        Engine::why(self, question).map_err(failure)
    }

    fn reload(&self, config: &Config) -> Result<Reloaded, Failure> {
        Engine::reload(self, config).map_err(failure)
    }

    fn select(&self, group: &str, member: &str) -> Result<(), Failure> {
        Engine::select(self, group, member).map_err(|why| Failure::new(FAILED, why))
    }

    fn wait_until_failed(&self) -> Option<Failure> {
        Engine::wait_until_failed(self).map(|why| Failure::new(why.exit_code(), why))
    }

    fn stop(&self) -> Result<(), Failure> {
        Engine::stop(self).map_err(failure)
    }
}

fn failure(error: EngineError) -> Failure {
    Failure::new(error.exit_code(), error)
}

/// Captures, and returns when traffic is captured; `None` if it was called off before.
pub(crate) fn start(config: Config, cancel: &Cancel) -> Result<Option<Arc<dyn Instance>>, Failure> {
    match Engine::start_unless(&config, cancel) {
        Ok(engine) => Ok(Some(Arc::new(engine))),
        Err(EngineError::Cancelled) => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

/// What is wrong with a configuration beyond the file's own errors: its rules, what is not available here, and the
/// loops that it would make. Then what the user should know about the rules.
pub(crate) fn check(loaded: &Loaded) -> (Vec<ConfigError>, Vec<ConfigError>) {
    oneway::check(loaded)
}

/// A verdict on each way out of what [`start`] would do.
pub(crate) fn doctor(config: &Config) -> Result<Doctor, Failure> {
    oneway::doctor(config).map_err(failure)
}

/// What would become of a packet after [`start`].
pub(crate) fn why(config: &Config, question: &WhyQuestion) -> Result<Why, Failure> {
    oneway::why(config, question).map_err(failure)
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

/// Makes this process one whose traffic is not captured.
pub(crate) fn exclude_this_process() -> Result<(), Failure> {
    oneway::exclude_this_process().map_err(failure)
}

/// Undoes what a killed instance left behind and says what that was.
pub(crate) fn recover(paths: &StatePaths) -> Result<String, Failure> {
    oneway::recover(paths).map_err(failure)
}
