//! `oneway stop`.

use std::process::ExitCode;

use oneway::control::{ControlReply, ControlRequest, StatePaths};

use super::{connect, recover, running, unexpected};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// Stops the running instance and waits until its changes are undone; or undoes those of one that was killed.
pub(crate) fn stop(global: &Global, output: Output) -> Result<ExitCode, Failure> {
    // Whichever control socket it had: its changes are the host's.
    if running(global)?.is_none() && StatePaths::here()?.journal.exists() {
        return recover::recover(output);
    }
    let request = ControlRequest::Stop;
    match connect(global)?.request(&request)? {
        ControlReply::Stopped => {
            output.print(
                "stopped; every change to this host is undone",
                &serde_json::json!({ "stopped": true }),
            )?;
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&request, &other)),
    }
}
