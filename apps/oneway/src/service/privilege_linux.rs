//! What a process must be allowed to do on Linux.

use rustix::thread::CapabilitySet;

use crate::failure::{FAILED, Failure};

/// Refuses early, before anything is touched, when the kernel would refuse later.
pub(crate) fn require_net_admin() -> Result<(), Failure> {
    let granted = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
    if granted {
        return Ok(());
    }
    let program =
        std::env::current_exe().map_or_else(|_| "oneway".to_owned(), |path| path.display().to_string());
    Err(Failure::new(
        FAILED,
        format!(
            "cannot capture the traffic of this host: permission denied; run as root or grant CAP_NET_ADMIN, \
             for example with `setcap cap_net_admin+ep {program}`"
        ),
    ))
}

/// The user that this process runs as.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}
