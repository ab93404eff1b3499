//! Systems without network namespaces.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::output::Output;

/// Always an error: there are no throw-away networks here.
pub(crate) fn demo(_: Output) -> Result<ExitCode, Failure> {
    Err(Failure::later("oneway demo"))
}
