//! Moving bytes from socket to socket without copying them into this program.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "splice/linux.rs"]
mod os;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "splice/unsupported.rs"]
mod os;

pub(super) use os::{AVAILABLE, Pipe, splice_in, splice_out};
pub use os::{PipePool, block_sigpipe};
