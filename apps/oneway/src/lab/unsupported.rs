//! Systems without network namespaces.

use std::process::ExitCode;

use super::kind::Kind;
use crate::failure::{FAILED, Failure};
use crate::output::Output;

/// Always an error: there are no throw-away networks here.
pub(crate) fn play(_: &[&Kind], _: bool, _: Output) -> Result<ExitCode, Failure> {
    Err(Failure::new(FAILED, "`oneway lab` needs network namespaces, which are on Linux only"))
}

/// Always an error: nothing starts it here.
pub(crate) fn part(_: &[std::net::SocketAddr]) -> Result<ExitCode, Failure> {
    Err(Failure::new(FAILED, "`oneway lab` needs network namespaces, which are on Linux only"))
}
