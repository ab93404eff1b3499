//! Fresh sockets: the one place where outgoing ones are made.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "new_socket/linux.rs"]
mod os;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "new_socket/portable.rs"]
mod os;

pub(crate) use os::{begin_connect, nonblocking};
