//! Programs that are run in our place.

#[cfg(unix)]
#[path = "program/unix.rs"]
mod os;
#[cfg(not(unix))]
#[path = "program/unsupported.rs"]
mod os;

use std::ffi::OsStr;
use std::io;

pub(crate) use os::become_it;

use crate::failure::Failure;

/// As shells say that there is no such program, and that it cannot be run (POSIX.1-2024, `env`).
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Why a program does not run.
pub(crate) fn not_run(name: &OsStr, error: &io::Error) -> Failure {
    let name = name.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            NOT_FOUND,
            format!("cannot run {name:?}: there is no such program; check its name and PATH"),
        ),
        _ => Failure::new(NOT_RUN, format!("cannot run {name:?}: {error}; check its permissions")),
    }
}
