//! Runs an engine as a service: signals, the control socket, the service manager.

#[cfg(target_os = "linux")]
#[path = "service/notify_linux.rs"]
mod notify;
#[cfg(not(target_os = "linux"))]
#[path = "service/notify_unsupported.rs"]
mod notify;

#[cfg(target_os = "linux")]
#[path = "service/privilege_linux.rs"]
pub(crate) mod privilege;
#[cfg(not(target_os = "linux"))]
#[path = "service/privilege_unsupported.rs"]
pub(crate) mod privilege;

#[cfg(target_os = "linux")]
#[path = "service/signal_more_linux.rs"]
mod signal_more;
#[cfg(all(unix, not(target_os = "linux")))]
#[path = "service/signal_more_unsupported.rs"]
mod signal_more;

#[cfg(unix)]
#[path = "service/signal_unix.rs"]
mod signal;
#[cfg(not(unix))]
#[path = "service/signal_console.rs"]
mod signal;

mod supervise;

pub(crate) use supervise::serve;

/// What a signal asks for.
#[allow(dead_code, reason = "not every system has a signal that asks for a reload")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// To end, by the signal of this name.
    End(&'static str),
    /// To read the configuration again.
    Reload,
}
