//! `SO_BINDTODEVICE` (socket(7)): only routes through one device are considered for the socket.

#[cfg(target_os = "linux")]
#[path = "so_bindtodevice/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "so_bindtodevice/unsupported.rs"]
mod os;

pub(crate) use os::{read_back, set, usable};
