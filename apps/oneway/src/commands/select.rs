//! `oneway select`.

use std::process::ExitCode;

use oneway::control::{ControlReply, ControlRequest};

use super::{connect, unexpected};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// Tells a group of type `select` which of its members new flows take.
pub(crate) fn select(
    global: &Global,
    group: String,
    member: String,
    output: Output,
) -> Result<ExitCode, Failure> {
    let text = format!("{group}: {member}");
    let document = serde_json::json!({ "group": group, "member": member });
    let request = ControlRequest::Select { group, member };
    match connect(global)?.request(&request)? {
        ControlReply::Selected => {
            output.print(text, &document)?;
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&request, &other)),
    }
}
