//! One file for each command.

pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod confirm;
pub(crate) mod doctor;
pub(crate) mod exclude;
pub(crate) mod flows;
pub(crate) mod import;
pub(crate) mod plan;
pub(crate) mod recover;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod select;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod why;

use oneway::config::{Config, Loaded};
use oneway::control::{ControlClient, ControlError, ControlReply, ControlRequest, StatePaths};

use crate::args::{CaptureArgs, Global};
use crate::failure::{FAILED, Failure};

/// Reads the configuration that the options name and lays them over it.
pub(crate) fn load(global: &Global, args: CaptureArgs) -> Result<Loaded, Failure> {
    let file = args.config.clone();
    let options = args.options(global)?;
    Ok(Config::load(file.as_deref(), options)?)
}

/// Connects to the running instance.
fn connect(global: &Global) -> Result<ControlClient, Failure> {
    if let Some(path) = &global.control {
        return Ok(ControlClient::connect(std::slice::from_ref(path))?);
    }
    let paths = StatePaths::here()?;
    paths.check()?;
    match ControlClient::connect(&paths.control_candidates()) {
        // The journal outlives only an instance that could not undo it.
        Err(ControlError::NotRunning { .. }) if paths.journal.exists() => {
            let message = "oneway is not running here, but one that was killed left changes behind; \
                           undo them with `oneway recover`";
            Err(Failure::new(FAILED, message))
        }
        connected => Ok(connected?),
    }
}

/// The running instance, if there is one.
fn running(global: &Global) -> Result<Option<ControlClient>, Failure> {
    let candidates = match &global.control {
        Some(path) => vec![path.clone()],
        None => {
            let paths = StatePaths::here()?;
            paths.check()?;
            paths.control_candidates()
        }
    };
    match ControlClient::connect(&candidates) {
        Ok(client) => Ok(Some(client)),
        Err(ControlError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The failure for an answer to another question.
fn unexpected(request: &ControlRequest, reply: &ControlReply) -> Failure {
    let what = match reply {
        ControlReply::Status(_) => "a status",
        ControlReply::Flows(_) => "a list of flows",
        ControlReply::Doctor(_) => "verdicts",
        ControlReply::Why(_) => "what becomes of a packet",
        ControlReply::Stopped => "that it stopped",
        ControlReply::Confirmed(_) => "that it stays",
        ControlReply::Selected => "that it selected",
        ControlReply::Reloaded(_) => "that it reloaded",
        ControlReply::Rejected(why) => why,
        ControlReply::Error(why) => why,
    };
    ControlError::Refused(format!("oneway was asked for {request:?} and answers with {what}")).into()
}
