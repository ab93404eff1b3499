//! `oneway exclude`.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::engine;
use crate::failure::Failure;
use crate::program;

/// Becomes a program whose traffic is not captured. The process is the same, and so are its number, its terminal and what it
/// ends with.
pub(crate) fn exclude(command: &[OsString]) -> Result<ExitCode, Failure> {
    engine::exclude_this_process()?;
    Err(program::become_it(command))
}
