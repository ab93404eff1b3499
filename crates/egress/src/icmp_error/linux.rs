//! `IP_RECVERR` and `IPV6_RECVERR` (ip(7), ipv6(7)). Neither rustix nor socket2 decodes their control message.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use libc::{c_int, c_void};
use socket2::{Domain, Socket};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{IcmpErrorEvent, IcmpErrorKind, QUOTE_MAX};

/// Room for the largest control message: `sock_extended_err` and a `sockaddr_in6`, twice over. In words, so
/// that it is aligned for `cmsghdr`.
const CONTROL_WORDS: usize = 32;

/// Asks for errors to be queued, so that they can be told apart by destination on an unconnected socket.
pub(crate) fn enable(socket: &Socket, domain: Domain) -> io::Result<()> {
    let (level, option) = if domain == Domain::IPV6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    };
    let on: c_int = 1;
    // SAFETY: the descriptor is open for the borrow of `socket`; the value points to a live int of that length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast::<c_void>(),
            mem::size_of::<c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes one ICMP error off the socket's error queue, without waiting. `None` if there is none.
///
/// # Errors
/// Those of `recvmsg(2)`.
pub fn recv_error(socket: &UdpSocket) -> io::Result<Option<IcmpErrorEvent>> {
    loop {
        match receive(socket.as_raw_fd()) {
            Ok(Some(event)) => return Ok(Some(event)),
            // Not an ICMP error (a transmit time stamp, say): look at the next.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes one ICMP error off the queue of a socket that tokio has found to have some. `None` if there is none left;
/// tokio waits for the next one then.
///
/// # Errors
/// Those of `recvmsg(2)`.
pub fn try_error(socket: &UdpSocket) -> io::Result<Option<IcmpErrorEvent>> {
    let tried = socket.try_io(Interest::ERROR, || match recv_error(socket)? {
        Some(event) => Ok(event),
        None => Err(io::ErrorKind::WouldBlock.into()),
    });
    match tried {
        Ok(event) => Ok(Some(event)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for the next ICMP error. May be dropped at any time without losing one.
///
/// # Errors
/// Those of `recvmsg(2)`.
pub async fn next_error(socket: &UdpSocket) -> io::Result<IcmpErrorEvent> {
    loop {
        // Before waiting: readiness is edge-triggered, and the edge of a queued error may have been consumed.
        if let Some(event) = recv_error(socket)? {
            return Ok(event);
        }
        socket.ready(Interest::ERROR).await?;
        if let Some(event) = try_error(socket)? {
            return Ok(event);
        }
    }
}

/// One message of the error queue; `None` if it is not about ICMP.
fn receive(fd: RawFd) -> io::Result<Option<IcmpErrorEvent>> {
    let mut quote = [0u8; QUOTE_MAX];
    let mut control = [0u64; CONTROL_WORDS];
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut iov = libc::iovec { iov_base: quote.as_mut_ptr().cast(), iov_len: quote.len() };
    // SAFETY: all-zero is a valid `msghdr`: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;

    // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
    let received = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    let Ok(quoted) = usize::try_from(received) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: it was zeroed, and all-zero is a valid `sockaddr_storage`; the kernel wrote an address over it.
    let name = unsafe { name.assume_init() };
    let Some(dst) = socket_addr(&name) else { return Ok(None) };
    let Some((error, offender)) = extended_error(&message) else { return Ok(None) };

    let kind = match error.ee_origin {
        libc::SO_EE_ORIGIN_ICMP => IcmpErrorKind::of_v4(error.ee_type, error.ee_code),
        libc::SO_EE_ORIGIN_ICMP6 => IcmpErrorKind::of_v6(error.ee_type, error.ee_code),
        libc::SO_EE_ORIGIN_LOCAL => local_kind(error.ee_errno),
        _ => return Ok(None),
    };
    let mtu = (kind == IcmpErrorKind::TooBig).then_some(error.ee_info);
    Ok(Some(IcmpErrorEvent { dst, kind, offender, mtu, quote, quoted: quoted.min(QUOTE_MAX) }))
}

/// Errors that this host found itself, such as a datagram above the known path MTU.
fn local_kind(errno: u32) -> IcmpErrorKind {
    match c_int::try_from(errno) {
        Ok(libc::EMSGSIZE) => IcmpErrorKind::TooBig,
        Ok(libc::ENETUNREACH) => IcmpErrorKind::Net,
        Ok(libc::EHOSTUNREACH) => IcmpErrorKind::Host,
        Ok(libc::EACCES | libc::EPERM) => IcmpErrorKind::AdminProhibited,
        _ => IcmpErrorKind::Other { ty: 0, code: 0 },
    }
}

/// The extended error of a received message and the address of who reported it.
fn extended_error(message: &libc::msghdr) -> Option<(libc::sock_extended_err, Option<IpAddr>)> {
    // SAFETY: `message` was filled in by recvmsg and its control buffer is live and aligned for `cmsghdr`, so
    // the CMSG macros stay inside it.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: not null, so it points to a whole header inside the control buffer.
        let header = unsafe { *next };
        let ours = matches!(
            (header.cmsg_level, header.cmsg_type),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        // SAFETY: computes a length only.
        let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
        let length = (header.cmsg_len as usize).saturating_sub(overhead);
        if ours && length >= mem::size_of::<libc::sock_extended_err>() {
            // SAFETY: the header's data begins here and is `length` bytes long.
            let data = unsafe { libc::CMSG_DATA(next) };
            // SAFETY: at least one `sock_extended_err` of data, checked above; read without assuming alignment.
            let error = unsafe { ptr::read_unaligned(data.cast::<libc::sock_extended_err>()) };
            let mut offender = MaybeUninit::<libc::sockaddr_storage>::zeroed();
            let rest = length - mem::size_of::<libc::sock_extended_err>();
            let rest = rest.min(mem::size_of::<libc::sockaddr_storage>());
            // SAFETY: the offender's address follows the error (SO_EE_OFFENDER); `rest` bytes are there, and
            // fit into the storage.
            unsafe {
                let from = data.add(mem::size_of::<libc::sock_extended_err>());
                ptr::copy_nonoverlapping(from, offender.as_mut_ptr().cast::<u8>(), rest);
            }
            // SAFETY: zeroed above, and all-zero is valid.
            let offender = unsafe { offender.assume_init() };
            return Some((error, socket_addr(&offender).map(|addr| addr.ip())));
        }
        // SAFETY: as for CMSG_FIRSTHDR; `next` came from there or from here.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    None
}

fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is larger than and aligned for every socket address; the family says which.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}
