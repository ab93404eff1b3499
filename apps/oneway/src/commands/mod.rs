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
use oneway::control::{ControlClient, ControlError, ControlReply, ControlRequest, InstanceLock, StatePaths};

use crate::args::{CaptureArgs, Global};
use crate::failure::{FAILED, Failure};
use crate::logging;
use crate::service::privilege;

/// Reads the configuration that the options name and lays them over it.
pub(crate) fn load(global: &Global, args: CaptureArgs) -> Result<Loaded, Failure> {
    let file = args.config.clone();
    let options = args.options(global)?;
    Ok(Config::load(file.as_deref(), options)?)
}

/// Connects to the running instance.
fn connect(global: &Global) -> Result<ControlClient, Failure> {
    match reach(global)? {
        Ok(client) => Ok(client),
        // The journal outlives only an instance that could not undo it.
        Err(_) if global.control.is_none() && StatePaths::here()?.journal.exists() => {
            let message = "oneway is not running here, but one that was killed left changes behind; \
                           undo them with `oneway recover`";
            Err(Failure::new(FAILED, message))
        }
        Err(nobody) => Err(nobody.into()),
    }
}

/// The running instance, if there is one.
fn running(global: &Global) -> Result<Option<ControlClient>, Failure> {
    Ok(reach(global)?.ok())
}

/// The running instance, or that none runs here. One that runs and does not answer is a failure: to take it for none would be
/// to take what it has made for the leftovers of one that was killed.
fn reach(global: &Global) -> Result<Result<ControlClient, ControlError>, Failure> {
    let candidates = match &global.control {
        Some(path) => vec![path.clone()],
        None => {
            let paths = StatePaths::here()?;
            paths.check()?;
            paths.control_candidates()
        }
    };
    match ControlClient::connect(&candidates) {
        Err(ControlError::NotRunning { path }) => {
            let paths = StatePaths::here().and_then(|paths| paths.check().map(|()| paths));
            match paths.and_then(|paths| InstanceLock::held_by(&paths)) {
                Ok(Some(pid)) => Err(ControlError::Elsewhere { path, pid }.into()),
                // Whoever may not look at the lock, or not believe it, is told what the socket tells.
                Ok(None) | Err(_) => Ok(Err(ControlError::NotRunning { path })),
            }
        }
        Err(error) => Err(error.into()),
        Ok(client) => {
            // Root finds also those that others run: whoever is told "stopped" must know what was.
            if let (Some(uid), path) = client.server()
                && uid != privilege::user()
            {
                logging::say(format_args!("note: the instance of user {uid} answers, at {path:?}"));
            }
            Ok(Ok(client))
        }
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
