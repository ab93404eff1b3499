//! `IP_TRANSPARENT`, and the destination that a datagram had (`IP_RECVORIGDSTADDR`).

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 16_384;
/// Words of control messages: an address of IPv6 with its header, and to spare.
const CONTROL_WORDS: usize = 16;
/// Bytes of datagrams that wait: as for our own sockets.
const BUFFER: usize = 4 << 20;

/// Listens for what TPROXY hands to this address; if it is `shared`, beside others of this process (`SO_REUSEPORT`). What is
/// accepted has the address that it was meant for as its own. Non-blocking.
///
/// # Errors
/// When somebody else has the port, or without `CAP_NET_ADMIN` or `CAP_NET_RAW`.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = transparent(address, Type::STREAM, Protocol::TCP, shared)?;
    // Accepted sockets inherit these (`inet_csk_clone_lock`, net/ipv4/inet_connection_sock.c).
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_out_of_band_inline(true)?;
    let _ = socket.set_tcp_congestion(b"reno");
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[expect(clippy::disallowed_methods, reason = "it receives only, and never connects")]
fn transparent(address: SocketAddr, kind: Type, protocol: Protocol, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The datagrams that TPROXY hands to an address.
#[derive(Debug)]
pub struct Datagrams(Socket);

impl Datagrams {
    /// As [`listen`], for UDP.
    ///
    /// # Errors
    /// As of [`listen`].
    pub fn bind(address: SocketAddr, shared: bool) -> io::Result<Self> {
        let socket = transparent(address, Type::DGRAM, Protocol::UDP, shared)?;
        let (level, option) = match address {
            SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_RECVORIGDSTADDR),
            SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR),
        };
        enable(socket.as_raw_fd(), level, option)?;
        // Without the right to more, the host's limit is what there is.
        let _ = socket.set_recv_buffer_size(BUFFER);
        socket.bind(&address.into())?;
        Ok(Self(socket))
    }

    /// Registers it with the runtime of the calling thread.
    ///
    /// # Errors
    /// When the runtime's poller refuses it.
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: it owns its socket, which stays open as long as it lives, and `as_raw_fd` always is that one.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// The next datagram: its length, where it comes from and where it was meant for; `None` in place of these if the kernel
    /// does not tell.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none; others are those of `recvmsg(2)`.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<(SocketAddr, SocketAddr)>)> {
        let mut control = [0u64; CONTROL_WORDS];
        let mut name = SockAddrStorage::zeroed();
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all-zero is a valid `msghdr`: null pointers with zero lengths.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = name.size_of();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control) as _;
        // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
        let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let Ok(length) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
        // SAFETY: the kernel wrote an address of this length over the zeros.
        let source = unsafe { SockAddr::new(name, message.msg_namelen) }.as_socket();
        Ok((length, source.zip(original_destination(&message))))
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Datagrams {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn enable(fd: RawFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is a live `c_int` of the length beside it.
    let done = unsafe {
        libc::setsockopt(fd, level, option, (&raw const on).cast(), mem::size_of_val(&on) as libc::socklen_t)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The control message that tells where a datagram was meant for.
fn original_destination(message: &libc::msghdr) -> Option<SocketAddr> {
    // SAFETY: `message` was filled in by recvmsg and its control buffer is live and aligned for `cmsghdr`, so
    // the CMSG macros stay inside it.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: not null, so it points to a whole header inside the control buffer.
        let header = unsafe { *next };
        let size = match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_IP, libc::IP_ORIGDSTADDR) => mem::size_of::<libc::sockaddr_in>(),
            (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => mem::size_of::<libc::sockaddr_in6>(),
            _ => 0,
        };
        // SAFETY: computes a length only.
        let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
        if size > 0 && (header.cmsg_len as usize).saturating_sub(overhead) >= size {
            let mut address = MaybeUninit::<SockAddrStorage>::zeroed();
            // SAFETY: the header's data begins here, are at least `size` bytes long, checked above, and fit into the storage,
            // which holds any address.
            unsafe {
                let data = libc::CMSG_DATA(next);
                std::ptr::copy_nonoverlapping(data, address.as_mut_ptr().cast::<u8>(), size);
            }
            // SAFETY: zeroed, and an address of this length written over it.
            let address = unsafe { SockAddr::new(address.assume_init(), size as libc::socklen_t) };
            return address.as_socket();
        }
        // SAFETY: as for CMSG_FIRSTHDR; `next` came from there or from here.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    None
}
