//! By options and an ioctl of tcp(7).
#![allow(unsafe_code)]

use std::num::NonZeroU16;

use rustix::ioctl::{Getter, Opcode, ioctl};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Bytes written to `socket` that its peer has not acknowledged; 0 if the kernel does not say.
pub fn unacknowledged(socket: &TcpStream) -> u32 {
    // As in include/uapi/linux/sockios.h; rustix and socket2 have neither.
    const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode;
    // SAFETY: this opcode writes one `c_int`, on every system where it exists, and reads nothing.
    let found = unsafe { ioctl(socket, Getter::<SIOCOUTQ, libc::c_int>::new()) };
    found.ok().and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0)
}

/// Whether the next byte is an urgent one (`sockatmark(3)`): no call reads across that place, and splice(2) not even from it.
pub(crate) fn is_at_mark(socket: &TcpStream) -> bool {
    // include/uapi/asm-generic/sockios.h; the few machines that have another one say that they do not know it.
    const SIOCATMARK: Opcode = 0x8905;
    // SAFETY: this opcode writes one `c_int`, and reads nothing.
    let found = unsafe { ioctl(socket, Getter::<SIOCATMARK, libc::c_int>::new()) };
    found.is_ok_and(|mark| mark != 0)
}

/// Data of one segment to the peer of `socket`, options taken off (`TCP_MAXSEG`, tcp(7)), if the kernel says.
pub fn segment_size(socket: &TcpStream) -> Option<NonZeroU16> {
    u16::try_from(SockRef::from(socket).tcp_mss().ok()?).ok()?.try_into().ok()
}

/// Has `socket` take no more while it holds `bytes` that were not sent, and wake its writer when half of that is left
/// (`TCP_NOTSENT_LOWAT`, `tcp_stream_memory_free` in net/ipv4/tcp.c). A kernel that does not know this takes what it takes.
pub fn bound_unsent(socket: &TcpStream, bytes: u32) {
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(bytes);
}
