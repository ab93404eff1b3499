//! A laboratory of network namespaces, made in the process itself by netlink: no privileges are needed beyond a user
//! namespace, no command is run, and nothing is left on the machine.
//!
//! It exists for Linux only; elsewhere the crate holds nothing but an `Unsupported` error.
#![allow(
    clippy::disallowed_methods,
    reason = "the laboratory plays the other machines and their programs; none of its sockets is one of ours"
)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::*;

#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
pub use unsupported::*;
