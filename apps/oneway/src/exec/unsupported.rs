//! Systems without network namespaces.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::args::{CaptureArgs, Global};
use crate::commands;
use crate::failure::Failure;

/// Always fails, with what is wrong otherwise first.
pub(crate) fn exec(global: &Global, args: CaptureArgs, _: &[OsString]) -> Result<ExitCode, Failure> {
    commands::load(&global.quiet_by_default(), args)?;
    Err(Failure::later("oneway exec"))
}

/// Always fails.
pub(crate) fn inside(_: i32, _: &[OsString]) -> Result<ExitCode, Failure> {
    Err(Failure::later("oneway exec"))
}
