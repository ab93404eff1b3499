//! What the kernel has still to deliver.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "unsent/linux.rs"]
mod os;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "unsent/unsupported.rs"]
mod os;

pub use os::unacknowledged;
