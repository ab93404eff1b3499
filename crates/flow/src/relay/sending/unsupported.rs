//! Systems that do not say.

use std::num::NonZeroU16;

use tokio::net::TcpStream;

/// Always 0: what this system has still to deliver is not known, and counts as silence.
pub fn unacknowledged(_socket: &TcpStream) -> u32 {
    0
}

/// Always `None`.
pub fn segment_size(_socket: &TcpStream) -> Option<NonZeroU16> {
    None
}

/// Leaves it to the system.
pub fn bound_unsent(_socket: &TcpStream, _bytes: u32) {}

/// Never: what is urgent is read as all else.
pub(crate) fn is_at_mark(_socket: &TcpStream) -> bool {
    false
}
