//! `oneway recover`.

use std::process::ExitCode;

use oneway::control::{ControlServer, InstanceLock, StateError, StatePaths};

use crate::engine;
use crate::failure::Failure;
use crate::output::Output;

/// Undoes what a killed instance left behind. With a running instance there is nothing to undo.
pub(crate) fn recover(output: Output) -> Result<ExitCode, Failure> {
    let paths = StatePaths::here()?;
    let lock = match InstanceLock::acquire(&paths) {
        Ok(lock) => lock,
        Err(StateError::AlreadyRunning { pid }) => {
            let who = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
            output.print(
                format!("nothing to recover: oneway is running here (pid {who})"),
                &serde_json::json!({ "recovered": false, "running": pid }),
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(e) => return Err(e.into()),
    };
    let recovered = engine::recover(&paths);
    ControlServer::remove_abandoned(&paths.control);
    // What failed first is what the user should know.
    let released = lock.release();
    let done = recovered?;
    paths.tidy();
    released?;
    output.print(&done, &serde_json::json!({ "recovered": true, "done": done }))?;
    Ok(ExitCode::SUCCESS)
}
