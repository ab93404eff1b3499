//! `oneway demo`.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::output::Output;

/// Shows the main job in throw-away network namespaces.
pub(crate) fn demo(_: Output) -> Result<ExitCode, Failure> {
    Err(Failure::later("oneway demo"))
}
