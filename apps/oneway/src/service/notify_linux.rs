//! Tells systemd, if `NOTIFY_SOCKET` is set (sd_notify(3)).

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
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!(error = %e, "cannot tell the service manager; check NOTIFY_SOCKET");
    }
}
