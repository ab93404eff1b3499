//! The options of `include/uapi/linux/udp.h`. Neither rustix nor socket2 has them.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use libc::c_int;
use socket2::{MsgHdr, SockAddr, SockRef};
use tokio::net::UdpSocket;

pub(super) fn enable(socket: &UdpSocket) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the value is a `c_int` that lives throughout the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const on).cast(),
            mem::size_of::<c_int>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A control message with one `u16` (cmsg(3)): length, level, type, data, each padded to the length of a word.
const WORD: usize = mem::size_of::<usize>();
const HEADER: usize = WORD + 2 * mem::size_of::<c_int>();

pub(super) fn send_together(
    socket: &UdpSocket,
    payload: &[u8],
    size: usize,
    dst: Option<SocketAddr>,
) -> io::Result<()> {
    let size = u16::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    if payload.len() <= usize::from(size) {
        return super::send_one(socket, payload, dst);
    }
    let mut control = [0; HEADER + WORD];
    control[..WORD].copy_from_slice(&(HEADER + mem::size_of::<u16>()).to_ne_bytes());
    control[WORD..WORD + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[WORD + 4..HEADER].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[HEADER..HEADER + 2].copy_from_slice(&size.to_ne_bytes());
    let (dst, slices) = (dst.map(SockAddr::from), [IoSlice::new(payload)]);
    let mut message = MsgHdr::new().with_buffers(&slices).with_control(&control);
    if let Some(dst) = &dst {
        message = message.with_addr(dst);
    }
    SockRef::from(socket).sendmsg(&message, 0).map(drop)
}

/// Whether the kernel refuses to send these datagrams as one.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE))
}
