//! A laboratory of network namespaces, made in the process itself by netlink: no privileges are needed beyond a user
//! namespace, no command is run, and nothing is left on the machine.
//!
//! It exists for Linux only; elsewhere the crate holds nothing but an `Unsupported` error. `README.md` shows a test.
//!
//! ```no_run
//! # #[cfg(target_os = "linux")]
//! # fn main() -> Result<(), oneway_lab::LabError> {
//! use oneway_lab::{Topology, topology::address};
//!
//! oneway_lab::enter()?;
//! let lab = Topology::simple()?;
//! let reply = lab.host.client().http_get(address::ORIGIN.v4_port(80), "/", std::time::Duration::from_secs(1))?;
//! assert_eq!(reply.status, 200);
//! # Ok(())
//! # }
//! # #[cfg(not(target_os = "linux"))]
//! # fn main() {}
//! ```
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
