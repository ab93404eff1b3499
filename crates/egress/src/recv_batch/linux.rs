//! `recvmmsg(2)`. Neither rustix nor socket2 has it.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_uint};
use tokio::net::UdpSocket;

use super::{MOST, Received};

/// Large enough for the address of either family.
type Name = libc::sockaddr_in6;

/// Receives a datagram into each slot behind its headroom, as far as there are any, and appends what they are.
pub(super) fn receive<'a>(
    socket: &UdpSocket,
    slots: impl Iterator<Item = &'a mut [u8]>,
    headroom: usize,
    received: &mut Vec<Received>,
) -> io::Result<()> {
    // SAFETY: both are plain old data, for which all zeroes is a valid value: null pointers with zero lengths.
    let mut messages: [libc::mmsghdr; MOST] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut names: [Name; MOST] = unsafe { mem::zeroed() };
    let mut iovs = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MOST];
    let mut count: c_uint = 0;
    let places = messages.iter_mut().zip(&mut iovs).zip(&mut names);
    for (((message, iov), name), slot) in places.zip(slots) {
        let room = slot.get_mut(headroom..).unwrap_or_default();
        *iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        message.msg_hdr.msg_name = (&raw mut *name).cast();
        message.msg_hdr.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
        message.msg_hdr.msg_iov = iov;
        message.msg_hdr.msg_iovlen = 1;
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
        received.push(Received { len: message.msg_len as usize, from: socket_addr(name) });
    }
    Ok(())
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
