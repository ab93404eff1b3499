//! A socket that somebody else owns, to be reset from outside.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod unsupported;

#[cfg(target_os = "linux")]
pub(crate) use linux::Handle;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::Handle;
