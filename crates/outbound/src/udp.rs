//! Paths for datagrams.

mod direct;
mod keeper;
mod socks5;

use std::future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use oneway_egress::IcmpErrorEvent;
use oneway_flow::Target;

pub(crate) use direct::open as direct;
pub(crate) use socks5::open as socks5;

use self::direct::DirectUdp;
use self::socks5::Socks5Udp;

/// Datagrams that a path has dropped on receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// They did not come from the relay.
    pub foreign: u64,
    /// The relay sent fragments (RFC 1928, section 7), which are not reassembled.
    pub fragments: u64,
    /// Their header was malformed, or named a source that nothing was sent to.
    pub malformed: u64,
}

/// How the datagrams of one client socket travel: one upstream socket for all destinations, so that the
/// mapping is endpoint-independent (RFC 4787, 4.1).
///
/// The owner waits for [`Self::recv`] and [`Self::icmp_error`] together, and sends in between. Every wait may
/// be dropped without losing anything.
#[derive(Debug)]
pub enum UdpPath {
    /// Bare datagrams.
    Direct(DirectUdp),
    /// Datagrams behind a SOCKS5 header, to and from a relay.
    Socks5(Socks5Udp),
}

impl UdpPath {
    /// Waits for a datagram. Its payload is `buf[range]`, its true source the address beside it. What does not
    /// fit `buf` is cut off; 65,535 bytes and, behind a proxy, 262 more for the header always fit.
    ///
    /// # Errors
    /// Those of `recvfrom(2)` that are not about a datagram sent earlier; the path is useless then.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<(Range<usize>, SocketAddr)> {
        match self {
            Self::Direct(path) => path.recv(buf).await,
            Self::Socks5(path) => path.recv(buf).await,
        }
    }

    /// Waits until [`Self::try_recv`] may have a datagram, so that a caller with many paths needs one buffer only.
    ///
    /// # Errors
    /// That the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Direct(path) => path.readable().await,
            Self::Socks5(path) => path.readable().await,
        }
    }

    /// Takes a datagram that is there already, to drain several per wake-up.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none; else as [`Self::recv`].
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<(Range<usize>, SocketAddr)> {
        match self {
            Self::Direct(path) => path.try_recv(buf),
            Self::Socks5(path) => path.try_recv(buf),
        }
    }

    /// Sends a datagram, or drops it if the socket's buffer is full.
    ///
    /// # Errors
    /// [`Answer::to_io`](crate::Answer::to_io) tells what the client must see, except for
    /// [`io::ErrorKind::WouldBlock`]: dropped, as a full queue anywhere on the way would.
    pub fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        match self {
            Self::Direct(path) => path.try_send_to(payload, dst),
            Self::Socks5(path) => path.try_send_to(payload, dst),
        }
    }

    /// Waits for an ICMP error about a datagram that was sent. To be waited for beside [`Self::recv`]: what is
    /// not fetched fills the socket's buffer. A proxied path never has one: SOCKS5 does not carry them.
    ///
    /// # Errors
    /// Those of `recvmsg(2)`.
    pub async fn icmp_error(&self) -> io::Result<IcmpErrorEvent> {
        match self {
            Self::Direct(path) => path.icmp_error().await,
            Self::Socks5(_) => future::pending().await,
        }
    }

    /// Waits until the proxy has ended the association. The next datagram sent makes a new one by itself, so
    /// this is for information; a direct path never ends.
    pub async fn control_closed(&self) {
        match self {
            Self::Direct(_) => future::pending().await,
            Self::Socks5(path) => path.control_closed().await,
        }
    }

    /// What has been dropped on receipt.
    pub fn counters(&self) -> UdpCounters {
        match self {
            Self::Direct(_) => UdpCounters::default(),
            Self::Socks5(path) => path.counters(),
        }
    }

    /// The local address of the socket.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Direct(path) => path.local_addr(),
            Self::Socks5(path) => path.local_addr(),
        }
    }
}

/// How often a call is repeated because an ICMP error about an earlier datagram stood in its way.
const RETRIES: usize = 4;

/// Whether the error may be about a datagram sent earlier: with `IP_RECVERR` the kernel reports each ICMP error
/// once by the next call on the socket, whatever that call is for, and queues it besides (ip(7)).
fn may_be_earlier(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ConnectionReset
    ) || matches!(error.raw_os_error(), Some(EMSGSIZE | ENOPROTOOPT | EPROTO))
}

/// Numbers on Linux (include/uapi/asm-generic/errno.h); other systems make no sockets.
const EMSGSIZE: i32 = 90;
const ENOPROTOOPT: i32 = 92;
const EPROTO: i32 = 71;

/// Repeats a call that an earlier datagram's error stood in the way of.
fn past_earlier_errors<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..RETRIES {
        match call() {
            Err(error) if may_be_earlier(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
    call()
}
