//! Tells systemd, if `NOTIFY_SOCKET` is set (sd_notify(3)).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use sd_notify::NotifyState;

/// Traffic is captured.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again; [`ready`] tells the end of that.
pub(crate) fn reloading() {
    // Of `CLOCK_MONOTONIC`, in microseconds.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    send(&[NotifyState::Reloading, NotifyState::MonotonicUsec(micros)]);
}

/// The changes are being undone.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("undoing the changes to this host")]);
}

fn send(states: &[NotifyState<'_>]) {
    let socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let told = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => send_to_abstract(name, states),
        None => sd_notify::notify(states),
    };
    if let Err(e) = told {
        tracing::warn!(error = %e, "cannot tell the service manager; check NOTIFY_SOCKET");
    }
}

/// To a socket that has a name and no path (unix(7)), which `sd_notify` takes for a file.
fn send_to_abstract(name: &[u8], states: &[NotifyState<'_>]) -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(name)?;
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}
