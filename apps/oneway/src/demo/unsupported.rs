//! Systems without network namespaces.

use std::process::ExitCode;

use crate::failure::{FAILED, Failure};
use crate::output::Output;

/// Always an error: there are no throw-away networks here.
pub(crate) fn demo(_: Output) -> Result<ExitCode, Failure> {
    Err(Failure::new(FAILED, "`oneway demo` needs network namespaces, which are on Linux only"))
}
