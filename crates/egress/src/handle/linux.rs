//! By descriptor: `connect(2)` with `AF_UNSPEC` resets a TCP socket and takes a UDP socket's peer from it.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::net::{connect_unspec, getpeername, getsockname};

/// The descriptor of a registered socket. It is used under the lock of the registry only, and a socket leaves the registry
/// before it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle(RawFd);

impl Handle {
    pub(crate) fn of(socket: &impl AsRawFd) -> Self {
        Self(socket.as_raw_fd())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the number is that of an open socket: `Protected` takes it out of the registry before it closes it, and
        // the caller holds the registry's lock. It is not -1, which is no descriptor of a socket.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }

    /// Its own address and that of its peer, if it has one.
    pub(crate) fn ends(self) -> Option<(SocketAddr, SocketAddr)> {
        let own = SocketAddr::try_from(getsockname(self.fd()).ok()?).ok()?;
        let peer = SocketAddr::try_from(getpeername(self.fd()).ok()??).ok()?;
        Some((own, peer))
    }

    /// The address that it has now; none if that cannot be asked.
    pub(crate) fn own(self) -> Option<SocketAddr> {
        SocketAddr::try_from(getsockname(self.fd()).ok()?).ok()
    }

    /// Resets it: whoever reads it gets `ECONNRESET` (`tcp_disconnect`, net/ipv4/tcp.c). Without this it would wait for a
    /// peer that no packet reaches. A UDP socket can send to nobody then until it is connected again.
    pub(crate) fn reset(self) -> bool {
        connect_unspec(self.fd()).is_ok()
    }
}
