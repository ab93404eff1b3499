//! By descriptor: `connect(2)` with `AF_UNSPEC` resets a TCP socket and takes a UDP socket's peer from it.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::Stage;
use rustix::net::{connect_unspec, getpeername, getsockname};

/// States of TCP (include/net/tcp_states.h).
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;

/// Values of `TCP_REPAIR` and `TCP_REPAIR_QUEUE` (include/uapi/linux/tcp.h), which libc lacks.
const TCP_REPAIR_ON: c_int = 1;
const TCP_REPAIR_OFF_NO_WP: c_int = -1;
const TCP_SEND_QUEUE: c_int = 2;

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

    /// How far its connection is; none if that cannot be asked, as of a socket that is not of TCP.
    pub(crate) fn stage(self) -> Option<Stage> {
        // SAFETY: tcp_info is plain numbers, for which all zeroes is a valid value.
        let mut info: libc::tcp_info = unsafe { mem::zeroed() };
        let mut len = mem::size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `info`, and both live until the call returns.
        let done = unsafe {
            libc::getsockopt(self.0, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
        };
        (done == 0).then_some(match info.tcpi_state {
            TCP_SYN_SENT => Stage::Connecting,
            TCP_CLOSE => Stage::Over,
            _ => Stage::Connected,
        })
    }

    /// The sequence number of its SYN, as long as that is not answered; none if it may not be asked for, which takes
    /// `CAP_NET_ADMIN`. It is 32 bits that the kernel has made up for this socket, and no program sees them but by this.
    ///
    /// Should the connection be made just here and its owner send in this moment, that fails or is sent again later.
    pub(crate) fn syn_sent(self) -> Option<u32> {
        let reuse = self.option(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
        self.set_option(libc::IPPROTO_TCP, libc::TCP_REPAIR, TCP_REPAIR_ON)?;
        let next = self
            .set_option(libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
            .and_then(|()| self.option(libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ));
        // Not `TCP_REPAIR_OFF`, which sends a probe; either forgets the option (`do_tcp_setsockopt`, net/ipv4/tcp.c).
        let off = self.set_option(libc::IPPROTO_TCP, libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
        self.set_option(libc::SOL_SOCKET, libc::SO_REUSEADDR, reuse);
        if off.is_none() {
            // Never seen to fail. What it would send would be kept from the network.
            self.reset();
        }
        // Behind the SYN, which has a number of its own.
        Some(next?.cast_unsigned().wrapping_sub(1))
    }

    fn option(self, level: c_int, name: c_int) -> Option<c_int> {
        let mut value: c_int = 0;
        let mut len = mem::size_of_val(&value) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `value`, and both live until the call returns.
        let done = unsafe { libc::getsockopt(self.0, level, name, (&raw mut value).cast(), &raw mut len) };
        (done == 0).then_some(value)
    }

    fn set_option(self, level: c_int, name: c_int, value: c_int) -> Option<()> {
        let len = mem::size_of_val(&value) as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes of `value`, which lives until the call returns.
        let done = unsafe { libc::setsockopt(self.0, level, name, (&raw const value).cast(), len) };
        (done == 0).then_some(())
    }

    /// Resets it: whoever reads it gets `ECONNRESET` (`tcp_disconnect`, net/ipv4/tcp.c). Without this it would wait for a
    /// peer that no packet reaches. A UDP socket can send to nobody then until it is connected again.
    pub(crate) fn reset(self) -> bool {
        connect_unspec(self.fd()).is_ok()
    }
}
