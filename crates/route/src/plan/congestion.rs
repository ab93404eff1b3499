//! The congestion control of captured programs.
//!
//! A captured connection ends in this very host, where nothing is congested. BBR paces it all the same, by timers, at the
//! rate that it has seen, and on a host whose default it is that more than halves the throughput of the capture. The
//! routes into the device therefore name another one. On all other hosts they name none.

use crate::Snapshot;

/// The switch that holds the host's default.
pub(crate) const CONGESTION: &str = "net/ipv4/tcp_congestion_control";

/// In every kernel, and free for all to use (`TCP_CONG_NON_RESTRICTED`, net/ipv4/tcp_cong.c).
const UNPACED: &str = "reno";

/// What the routes of the capture name.
pub(super) fn of_captured(host: &Snapshot) -> Option<String> {
    let paces = host.sysctls.get(CONGESTION).is_some_and(|name| name.trim().starts_with("bbr"));
    paces.then(|| UNPACED.to_owned())
}

/// Makes `host` one that is planned for as `named` says: a route cannot be replaced by its like, so that what was chosen
/// at the start stays.
pub(super) fn keep(host: &mut Snapshot, named: bool) {
    let name = if named { "bbr" } else { UNPACED };
    host.sysctls.insert(CONGESTION.to_owned(), name.to_owned());
}
