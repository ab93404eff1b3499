//! Systems without network namespaces.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::args::{CaptureArgs, Global};
use crate::commands;
use crate::failure::{FAILED, Failure};

/// Always fails, with what is wrong otherwise first.
pub(crate) fn exec(global: &Global, args: CaptureArgs, _: &[OsString]) -> Result<ExitCode, Failure> {
    commands::load(&global.quiet_by_default(), args)?;
    Err(Failure::new(FAILED, "`oneway exec` needs network namespaces, which are on Linux only"))
}

/// Always fails.
pub(crate) fn inside(_: i32, _: &[OsString]) -> Result<ExitCode, Failure> {
    Err(Failure::new(FAILED, "`oneway exec` needs network namespaces, which are on Linux only"))
}
