//! What raw sockets hear.
//!
//! The kernel hands every ICMP message of the host to every raw socket of its family, and with a few hundred of them a copy
//! for each costs more than all the rest. So those that send hear nothing, and one hears for all of them.

#[cfg(target_os = "linux")]
#[path = "raw_icmp/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "raw_icmp/unsupported.rs"]
mod os;

pub(crate) use os::{hear_nothing, hear_part};
