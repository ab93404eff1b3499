//! Paths for datagrams.

mod backlog;
mod direct;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod keeper;
mod relayed;
mod shadowsocks;
mod socks5;
mod trojan;
mod tunnelled;

use std::future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use oneway_egress::{Datagram, IcmpErrorEvent, RecvBatch, segments, try_error};
use oneway_flow::Target;
use tokio::io::Interest;
use tokio::net::UdpSocket;

pub use backlog::{Backlog, Room};
pub(crate) use direct::open as direct;
pub(crate) use shadowsocks::open as shadowsocks;
pub(crate) use socks5::open as socks5;
pub(crate) use trojan::open as trojan;

use crate::socks5::datagram::HEADER_MAX;

use self::direct::DirectUdp;
use self::socks5::Socks5Udp;
use self::tunnelled::TunnelledUdp;

/// Datagrams that a path has dropped on receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// They did not come from the relay, and came before the kernel knew of it.
    pub foreign: u64,
    /// The relay sent fragments (RFC 1928, section 7), which are not reassembled.
    pub fragments: u64,
    /// Their header was malformed, or named a source that nothing was sent to.
    pub malformed: u64,
}

/// Is told whether a datagram that has waited was sent, or dropped.
pub type Fate = Box<dyn FnOnce(bool) + Send>;

/// The most that a proxy's header adds to a datagram, in bytes.
pub const PROXY_HEADER_MAX: usize = HEADER_MAX;

/// How the datagrams of one client socket travel: one upstream socket for all destinations, so that the
/// mapping is endpoint-independent (RFC 4787, 4.1).
///
/// The owner waits for [`Self::ready`], then takes what there is, and sends in between. A wait may be dropped
/// without losing anything.
#[derive(Debug)]
pub enum UdpPath {
    /// Bare datagrams.
    Direct(DirectUdp),
    /// Datagrams behind a SOCKS5 header, to and from a relay.
    Socks5(Socks5Udp),
    /// Datagrams that a task carries: in a stream, or sealed.
    Tunnelled(TunnelledUdp),
}

/// What a path has for its owner, as far as is known without looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpReady {
    /// [`UdpPath::try_recv`] may have datagrams.
    pub datagrams: bool,
    /// [`UdpPath::try_icmp_error`] may have an error, and is to be called until it has none: what is not fetched
    /// fills the socket's buffer.
    pub errors: bool,
}

impl UdpPath {
    /// Waits until there is something to take.
    ///
    /// # Errors
    /// That the runtime is shutting down.
    pub async fn ready(&self) -> io::Result<UdpReady> {
        let ready = self.socket().ready(Interest::READABLE | Interest::ERROR).await?;
        Ok(UdpReady { datagrams: ready.is_readable(), errors: ready.is_error() })
    }

    /// Takes the datagrams that are there, with one system call, and hands each to `each`: the slot of the batch that
    /// it is in, where in it the payload is, its length, and its true source. A payload that is longer is that of several
    /// datagrams of this length, of which the last may be shorter. True if there may be more.
    ///
    /// What does not fit a slot is cut off; 65,535 bytes and, behind a proxy, [`PROXY_HEADER_MAX`] more for the header
    /// always fit.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none; else those of `recvmsg(2)` that are not about a datagram sent
    /// earlier: the path is useless then.
    pub fn try_recv(
        &self,
        batch: &mut RecvBatch,
        mut each: impl FnMut(&mut [u8], Range<usize>, usize, SocketAddr),
    ) -> io::Result<bool> {
        let more = receive_past_errors(|| batch.recv(self.socket()))?;
        let headroom = batch.headroom();
        for Datagram { slot, len, size, from } in batch.datagrams() {
            let datagram = headroom..headroom + len;
            match self {
                Self::Direct(_) => each(slot, datagram, size, from),
                Self::Socks5(path) => path.unwrap(slot, datagram, size, from, &mut each),
                // The task is over: what comes from it has a header.
                Self::Tunnelled(_) if len == 0 => return Err(io::ErrorKind::ConnectionAborted.into()),
                Self::Tunnelled(path) => {
                    if let Some((payload, source)) = path.unwrap(slot, datagram) {
                        let size = payload.len().max(1);
                        each(slot, payload, size, source);
                    }
                }
            }
        }
        Ok(more)
    }

    /// Sends a datagram, or drops it if the socket's buffer is full.
    ///
    /// # Errors
    /// [`Answer::to_io`](crate::Answer::to_io) tells what the client must see, except for
    /// [`io::ErrorKind::WouldBlock`]: dropped, as a full queue anywhere on the way would; and
    /// [`io::ErrorKind::NotConnected`]: not sent, and may be handed to [`Self::keep`].
    pub fn try_send_to(&self, payload: &[u8], dst: &Target) -> io::Result<()> {
        match self {
            Self::Direct(path) => path.try_send_to(payload, dst),
            Self::Socks5(path) => path.try_send_to(payload, dst),
            Self::Tunnelled(path) => path.try_send_to(payload, dst),
        }
    }

    /// Keeps a datagram that could not be sent because the association with the relay is lost, until there is another one,
    /// and sees to it that there will be. `fate` is told whether it was sent, once that is known, or at once; never if this
    /// fails.
    ///
    /// # Errors
    /// As of [`Self::try_send_to`]. [`io::ErrorKind::ConnectionRefused`] if the proxy has just refused a new association,
    /// [`io::ErrorKind::WouldBlock`] if there is no room.
    pub fn keep(&self, payload: &[u8], dst: &Target, fate: Fate) -> io::Result<()> {
        match self {
            Self::Socks5(path) => path.keep(payload, dst, fate),
            // Nothing is to be waited for.
            Self::Direct(_) | Self::Tunnelled(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sends `payload` as datagrams of `size` bytes, the last one of what is left. Returns how many went, and why no more
    /// did: as of [`Self::try_send_to`].
    pub fn try_send_segments(&self, payload: &[u8], size: usize, dst: &Target) -> (usize, io::Result<()>) {
        match self {
            Self::Direct(path) if path.takes_segments() => return path.try_send_segments(payload, size, dst),
            Self::Socks5(path) if path.takes_segments() => return path.try_send_segments(payload, size, dst),
            _ => {}
        }
        let mut sent = 0;
        for datagram in payload.chunks(size.max(1)) {
            if let Err(error) = self.try_send_to(datagram, dst) {
                return (sent, Err(error));
            }
            sent += 1;
        }
        (sent, Ok(()))
    }

    /// Takes an ICMP error about a datagram that was sent; none if there is none left. A proxied path has none for its
    /// owner, as SOCKS5 does not carry them: those about the relay itself are thrown away.
    ///
    /// # Errors
    /// Those of `recvmsg(2)`.
    pub fn try_icmp_error(&self) -> io::Result<Option<IcmpErrorEvent>> {
        if matches!(self, Self::Tunnelled(_)) {
            return Ok(None);
        }
        loop {
            match (try_error(self.socket())?, self) {
                (Some(_), Self::Socks5(_)) => {}
                (event, _) => return Ok(event),
            }
        }
    }

    /// Waits until the proxy has ended the association. The next datagram sent makes a new one by itself, so
    /// this is for information; a direct path never ends.
    pub async fn control_closed(&self) {
        match self {
            Self::Direct(_) => future::pending().await,
            Self::Socks5(path) => path.control_closed().await,
            Self::Tunnelled(path) => path.control_closed().await,
        }
    }

    /// What has been dropped on receipt.
    pub fn counters(&self) -> UdpCounters {
        match self {
            Self::Direct(_) => UdpCounters::default(),
            Self::Socks5(path) => path.counters(),
            Self::Tunnelled(path) => path.counters(),
        }
    }

    /// The local address of the socket.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    fn socket(&self) -> &UdpSocket {
        match self {
            Self::Direct(path) => path.socket(),
            Self::Socks5(path) => path.socket(),
            Self::Tunnelled(path) => path.socket(),
        }
    }
}

/// How often a call is repeated because an ICMP error about an earlier datagram stood in its way.
const RETRIES: usize = 4;

/// What ICMP errors become on Linux: `icmp_err_convert` in net/ipv4/icmp.c with what `__udp4_lib_err` makes of other
/// messages, and `icmpv6_err_convert` in net/ipv6/icmp.c. The numbers are those of include/uapi/asm-generic/errno.h; other
/// systems make no sockets.
const OF_ICMP: [i32; 10] = [
    13,  // EACCES: administratively prohibited
    64,  // ENONET: source host isolated
    71,  // EPROTO: parameter problem
    90,  // EMSGSIZE: packet too big
    92,  // ENOPROTOOPT: protocol unreachable
    95,  // EOPNOTSUPP: source route failed
    101, // ENETUNREACH: network unreachable
    111, // ECONNREFUSED: port unreachable
    112, // EHOSTDOWN: host unknown
    113, // EHOSTUNREACH: host unreachable, time exceeded
];

/// The device's queue is full; of the same numbers. The kernel tells a socket with `IP_RECVERR` alone (ip(7)), and what the socket
/// carries is another program's, which has not asked to be told.
const ENOBUFS: i32 = 105;

/// What a call failed by, or that the datagram was dropped on the way.
fn or_dropped(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(ENOBUFS) { io::ErrorKind::WouldBlock.into() } else { error }
}

/// Whether the error may be about a datagram sent earlier: with `IP_RECVERR` the kernel reports each ICMP error
/// once by the next call on the socket, whatever that call is for, and queues it besides (ip(7)).
fn may_be_earlier(error: &io::Error) -> bool {
    // The other end of a socket pair is gone: `ECONNRESET` once, then the end of file (unix(7)).
    error.kind() == io::ErrorKind::ConnectionReset
        || error.raw_os_error().is_some_and(|number| OF_ICMP.contains(&number))
}

/// Repeats a call that an earlier datagram's error stood in the way of.
fn past_earlier_errors<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..RETRIES {
        match call() {
            Err(error) if may_be_earlier(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map_err(or_dropped),
        }
    }
    call().map_err(or_dropped)
}

/// The same for receiving, which sends nothing whose error this could be: however many errors come while it is repeated,
/// none is the socket's own. True as of [`RecvBatch::recv`] after so many of them, when others are to have their turn first.
fn receive_past_errors(mut call: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    match past_earlier_errors(&mut call) {
        Err(error) if may_be_earlier(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(true),
        done => done,
    }
}

/// Sends datagrams of one length as one ([`segments::send`]), past the errors of earlier ones.
fn send_segments(
    socket: &UdpSocket,
    payload: &[u8],
    size: usize,
    dst: Option<SocketAddr>,
) -> (usize, io::Result<()>) {
    let mut sent = 0;
    let result = past_earlier_errors(|| {
        let rest = payload.get(sent * size..).unwrap_or_default();
        let (count, result) = segments::send(socket, rest, size, dst);
        sent += count;
        result
    });
    (sent, result)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn no_error_of_another_datagram_is_the_sockets_own() {
        for number in OF_ICMP {
            for in_a_row in [1, RETRIES + 1, 100] {
                let mut errors = 0;
                let mut recv = || match errors < in_a_row {
                    true => {
                        errors += 1;
                        Err(Error::from_raw_os_error(number))
                    }
                    false => Err(ErrorKind::WouldBlock.into()),
                };
                let mut calls = 0;
                let error = loop {
                    calls += 1;
                    match receive_past_errors(&mut recv) {
                        Ok(more) => assert!(more, "{number}: there is more to look for"),
                        Err(error) => break error,
                    }
                };
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{in_a_row} times {number}");
                assert_eq!(calls, 1 + in_a_row / (RETRIES + 1), "others have their turn");
            }
            let mut sent = [Err(Error::from_raw_os_error(number)), Ok(7)].into_iter();
            let sent = past_earlier_errors(|| sent.next().unwrap_or(Ok(0)));
            assert_eq!(sent.ok(), Some(7), "a datagram to another destination goes out after {number}");
        }
    }

    #[test]
    fn a_dead_socket_is_said_to_be_dead() {
        // EBADF, EINVAL, ENOTSOCK.
        for number in [9, 22, 88] {
            let error = receive_past_errors(|| Err(Error::from_raw_os_error(number))).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(number));
        }
    }
}
