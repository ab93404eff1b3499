//! `oneway plan`.

use std::process::ExitCode;

use oneway::config::Loaded;

use super::load;
use crate::args::{CaptureArgs, Global};
use crate::engine;
use crate::failure::Failure;
use crate::logging;
use crate::output::Output;

/// Prints what `run` would do to this host.
pub(crate) fn plan(global: &Global, args: CaptureArgs, output: Output) -> Result<ExitCode, Failure> {
    let Loaded { config, warnings, .. } = load(global, args)?;
    for warning in &warnings {
        logging::say(format_args!("warning: {warning}"));
    }
    let planned = engine::plan(config)?;
    output.print(planned.text.trim_end(), &planned.document)?;
    Ok(ExitCode::SUCCESS)
}
