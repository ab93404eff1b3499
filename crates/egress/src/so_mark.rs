//! `SO_MARK` (socket(7)): packets of the socket carry a number that routing rules can match.

#[cfg(target_os = "linux")]
#[path = "so_mark/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "so_mark/unsupported.rs"]
mod os;

pub(crate) use os::{read_back, set, usable};
