//! Operating systems without systemd.

/// Nobody to tell.
pub(crate) fn ready(_: &str) {}

/// Nobody to tell.
pub(crate) fn reloading() {}

/// Nobody to tell.
pub(crate) fn stopping() {}
