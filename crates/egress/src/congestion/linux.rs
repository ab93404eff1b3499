//! `TCP_CONGESTION` and `TCP_INFO` (tcp(7)).
#![allow(unsafe_code)]

use std::fs;
use std::mem;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{SockRef, Socket};

/// Round trips from here on are a long way. Within a building they take less, over any access line more.
const LONG: Duration = Duration::from_millis(2);

/// Those that a socket begins with, the better one first: without `CAP_NET_ADMIN` the first may be refused.
const UNPACED: [&[u8]; 2] = [b"cubic", b"reno"];

/// What is set on sockets, if anything is.
#[derive(Debug, Default)]
pub(crate) struct Congestion {
    /// The host's default, if it paces.
    pacing: Option<Box<[u8]>>,
}

impl Congestion {
    /// For sockets of the calling thread's network namespace.
    pub(crate) fn of_host() -> Self {
        let name = fs::read("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
        let name = name.trim_ascii();
        Self { pacing: name.starts_with(b"bbr").then(|| name.into()) }
    }

    /// Before the handshake: BBR, once it has begun, leaves the socket's pacing on for good (`bbr_init`,
    /// net/ipv4/tcp_bbr.c).
    pub(crate) fn before_connect(&self, socket: &Socket) {
        if self.pacing.is_some() {
            // If neither is allowed, the host's default works too.
            let _ = UNPACED.iter().any(|name| socket.set_tcp_congestion(name).is_ok());
        }
    }

    /// After the handshake, when its round trip is known.
    pub(crate) fn connected(&self, socket: &SockRef<'_>) {
        if let Some(name) = &self.pacing
            && round_trip(socket).is_none_or(|took| took >= LONG)
        {
            // The default is free for all to use.
            let _ = socket.set_tcp_congestion(name);
        }
    }
}

/// The smoothed round-trip time, after the handshake that of the handshake.
fn round_trip(socket: &SockRef<'_>) -> Option<Duration> {
    // SAFETY: tcp_info is plain numbers, for which all zeroes is a valid value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `info`, and both live until the call returns.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    (done == 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}
