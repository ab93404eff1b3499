//! The local sockets that connections end in that the kernel's own TCP carries: by a NAT in a device, or by `REDIRECT`.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{listen_for_redirected, listen_on_device, original_destination};
