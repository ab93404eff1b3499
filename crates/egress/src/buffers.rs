//! Socket buffers for datagrams.

#[cfg(target_os = "linux")]
#[path = "buffers/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "buffers/unsupported.rs"]
mod os;

pub(crate) use os::enlarge;
