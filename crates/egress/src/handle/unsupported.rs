//! Systems whose sockets are not made yet.

use std::net::SocketAddr;

use super::Stage;

/// A socket of somebody else; nothing can be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle;

impl Handle {
    pub(crate) fn of<S>(_: &S) -> Self {
        Self
    }

    pub(crate) fn ends(self) -> Option<(SocketAddr, SocketAddr)> {
        None
    }

    pub(crate) fn own(self) -> Option<SocketAddr> {
        None
    }

    pub(crate) fn stage(self) -> Option<Stage> {
        None
    }

    pub(crate) fn syn_sent(self) -> Option<u32> {
        None
    }

    pub(crate) fn reset(self) -> bool {
        false
    }
}
