//! The local sockets that a NAT to the OS's own TCP ends in, and that REDIRECT and TPROXY will end in.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::listen_on_device;
