//! Systems where a process cannot become another program.

use std::ffi::{OsStr, OsString};
use std::io;

use super::not_run;
use crate::failure::Failure;

/// Always fails.
pub(crate) fn become_it(command: &[OsString]) -> Failure {
    let name = command.first().map_or(OsStr::new(""), OsString::as_os_str);
    not_run(name, &io::ErrorKind::Unsupported.into())
}
