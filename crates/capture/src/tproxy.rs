//! Transparent sockets, which TPROXY hands packets to with both addresses as they were.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{Datagrams, listen};
