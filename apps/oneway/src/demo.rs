//! `oneway demo`.

#[cfg(target_os = "linux")]
#[path = "demo/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "demo/unsupported.rs"]
mod os;

pub(crate) use os::demo;
