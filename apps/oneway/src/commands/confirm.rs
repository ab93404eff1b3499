//! `oneway confirm`.

use std::process::ExitCode;

use oneway::control::{ControlReply, ControlRequest};

use super::{connect, unexpected};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// Keeps what `run --confirm` set up.
pub(crate) fn confirm(global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let request = ControlRequest::Confirm;
    match connect(global)?.request(&request)? {
        ControlReply::Confirmed(wanted) => {
            let text = if wanted { "confirmed; it stays" } else { "nothing to confirm; it stays anyway" };
            output.print(text, &serde_json::json!({ "confirmed": wanted }))?;
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&request, &other)),
    }
}
