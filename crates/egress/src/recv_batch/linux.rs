//! `recvmmsg(2)`. Neither rustix nor socket2 has it.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_uint};
use tokio::net::UdpSocket;

use super::{ASK_FIRST, MOST, Received};

/// Large enough for the address of either family.
type Name = libc::sockaddr_in6;

/// Room for the control message of `UDP_GRO`, a `c_int`, aligned as its header must be.
type Control = [u64; 4];

/// Receives a datagram into each slot behind its headroom, as far as there are any, and appends what they are.
pub(super) fn receive<'a>(
    socket: &UdpSocket,
    slots: impl ExactSizeIterator<Item = &'a mut [u8]>,
    headroom: usize,
    received: &mut Vec<Received>,
) -> io::Result<()> {
    // What the kernel is told by has to be written first, most often for nothing.
    if slots.len() <= ASK_FIRST {
        receive_most::<ASK_FIRST>(socket, slots, headroom, received)
    } else {
        receive_most::<MOST>(socket, slots, headroom, received)
    }
}

/// The same for the first `N` slots.
fn receive_most<'a, const N: usize>(
    socket: &UdpSocket,
    slots: impl Iterator<Item = &'a mut [u8]>,
    headroom: usize,
    received: &mut Vec<Received>,
) -> io::Result<()> {
    // SAFETY: both are plain old data, for which all zeroes is a valid value: null pointers with zero lengths.
    let mut messages: [libc::mmsghdr; N] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut names: [Name; N] = unsafe { mem::zeroed() };
    let mut controls: [Control; N] = [[0; 4]; N];
    let mut iovs = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; N];
    let mut count: c_uint = 0;
    let places = messages.iter_mut().zip(&mut iovs).zip(&mut names).zip(&mut controls);
    for ((((message, iov), name), control), slot) in places.zip(slots) {
        let room = slot.get_mut(headroom..).unwrap_or_default();
        *iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        message.msg_hdr.msg_name = (&raw mut *name).cast();
        message.msg_hdr.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
        message.msg_hdr.msg_iov = iov;
        message.msg_hdr.msg_iovlen = 1;
        message.msg_hdr.msg_control = (&raw mut *control).cast();
        message.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        count += 1;
    }
    // SAFETY: the first `count` messages point to live buffers of the lengths beside them, and no other is touched.
    let filled = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let Ok(filled) = usize::try_from(filled) else {
        return Err(io::Error::last_os_error());
    };
    for (message, name) in messages.iter().zip(&names).take(filled) {
        let size = joined_size(&message.msg_hdr);
        received.push(Received { len: message.msg_len as usize, size, from: socket_addr(name) });
    }
    Ok(())
}

/// What `UDP_GRO` says of a message that the kernel has filled in: the length of the datagrams that it is made of.
fn joined_size(message: &libc::msghdr) -> Option<u16> {
    // Most have none, and then nothing is looked at.
    if message.msg_controllen == 0 {
        return None;
    }
    // SAFETY: the control buffer of `msg_controllen` bytes is live, aligned, and was written by the kernel.
    let first = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (first.cmsg_level, first.cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: behind a header of this level and type is a `c_int`.
    let size = unsafe { libc::CMSG_DATA(first).cast::<c_int>().read_unaligned() };
    u16::try_from(size).ok()
}

/// The address in a name that the kernel has filled in. A UDP socket has no names of other families.
fn socket_addr(name: &Name) -> SocketAddr {
    if c_int::from(name.sin6_family) == libc::AF_INET {
        // SAFETY: `sockaddr_in` is the smaller of the two, needs no stricter alignment, and every bit pattern of it
        // is valid.
        let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        return SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into();
    }
    let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
    SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into()
}
