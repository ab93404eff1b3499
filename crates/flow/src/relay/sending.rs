//! What the kernel says of a socket, and how much it may hold.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "sending/linux.rs"]
mod os;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "sending/unsupported.rs"]
mod os;

pub(crate) use os::is_at_mark;
pub use os::{bound_unsent, segment_size, unacknowledged};
