//! The congestion control of our own TCP sockets.
//!
//! It is the host's, with one exception. A host whose default is BBR wants it for long ways. BBR sends by timers, at the
//! rate that it has measured, and where a round trip takes microseconds (a proxy on this host or in this network) those
//! timers more than halve the throughput. So that a socket begins without, and takes the host's default when the
//! handshake has shown that the way is a long one, before the first byte of data.

#[cfg(target_os = "linux")]
#[path = "congestion/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "congestion/unsupported.rs"]
mod os;

pub(crate) use os::Congestion;
