//! A socket that somebody else owns, to be reset from outside.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod unsupported;

#[cfg(target_os = "linux")]
pub(crate) use linux::Handle;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::Handle;

/// How far a connection is.
#[allow(dead_code, reason = "where no socket can be asked there is none")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its SYN is not answered.
    Connecting,
    /// It is made, or being ended.
    Connected,
    /// It has failed or ended, and anybody may have its port.
    Over,
}
