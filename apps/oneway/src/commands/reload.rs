//! `oneway reload`.

use std::fmt::Write as _;
use std::process::ExitCode;

use oneway::Reloaded;
use oneway::control::{ControlReply, ControlRequest};

use super::{connect, unexpected};
use crate::args::Global;
use crate::failure::{Failure, USAGE};
use crate::output::{Output, printable};

/// Makes the running instance read its configuration again.
pub(crate) fn reload(global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let request = ControlRequest::Reload;
    match connect(global)?.request(&request)? {
        ControlReply::Reloaded(done) => {
            output.print(text(&done), &done)?;
            Ok(ExitCode::SUCCESS)
        }
        ControlReply::Rejected(why) => Err(Failure::new(USAGE, why)),
        other => Err(unexpected(&request, &other)),
    }
}

fn text(done: &Reloaded) -> String {
    let mut text = format!("reloaded: {} outbounds", done.outbounds);
    for (what, names) in [("changed", &done.changed), ("removed", &done.removed)] {
        if !names.is_empty() {
            // Writing to a String does not fail.
            let _ = write!(text, ", {what}: {}", printable(&names.join(" ")));
        }
    }
    let _ = write!(text, "; {} flows reset", done.reset);
    for warning in &done.warnings {
        let _ = write!(text, "\nwarning: {}", printable(warning));
    }
    text
}
