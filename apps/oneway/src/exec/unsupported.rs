//! Systems without network namespaces.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::args::{CaptureArgs, Global};
use crate::failure::Failure;

/// Always fails.
pub(crate) fn exec(_: &Global, _: CaptureArgs, _: &[OsString]) -> Result<ExitCode, Failure> {
    Err(Failure::later("oneway exec"))
}

/// Always fails.
pub(crate) fn inside(_: i32, _: &[OsString]) -> Result<ExitCode, Failure> {
    Err(Failure::later("oneway exec"))
}
