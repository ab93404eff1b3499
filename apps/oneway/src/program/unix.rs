//! Replaces this process by another program.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::not_run;
use crate::failure::Failure;

/// Does not return, unless it fails.
pub(crate) fn become_it(command: &[OsString]) -> Failure {
    let Some((name, arguments)) = command.split_first() else {
        return not_run(OsStr::new(""), &io::ErrorKind::NotFound.into());
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "no child: this process becomes the program that the user has named"
    )]
    let error = Command::new(name).args(arguments).exec();
    not_run(name, &error)
}
