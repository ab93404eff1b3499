//! Where there is no place for the files of an instance yet.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::control::{StateError, StatePaths};

pub(in crate::control) fn here() -> Result<StatePaths, StateError> {
    Err(StateError::Unsupported)
}

pub(in crate::control) fn control_candidates() -> Vec<PathBuf> {
    Vec::new()
}

#[allow(dead_code, reason = "only Unix has sockets to ask about")]
pub(in crate::control) fn may_serve(_: &Path, _: u32) -> bool {
    true
}

/// Nobody is asked who listens.
#[allow(dead_code, reason = "only Unix has sockets to ask about")]
pub(in crate::control) fn listener<S>(_: S) -> io::Result<Option<u32>> {
    Ok(None)
}

pub(in crate::control) fn prepare_folder(_: &Path) -> Result<(), StateError> {
    Err(StateError::Unsupported)
}

pub(in crate::control) fn check_folder(_: &Path) -> Result<(), StateError> {
    Err(StateError::Unsupported)
}

pub(in crate::control) fn instead_of_run(_: &Path) -> Option<io::Error> {
    None
}

pub(in crate::control) fn tidy_folder(_: &Path) {}

pub(in crate::control) fn open_private(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(in crate::control) fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}
