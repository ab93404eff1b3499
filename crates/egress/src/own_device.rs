//! What comes by the capture's own device is for programs, never for our own sockets.
//!
//! An answer that is written to the device for a client whose port one of our sockets has got since would be that socket's:
//! at best another client gets it, at worst it is written to the device again, and so forth.

#[cfg(target_os = "linux")]
#[path = "own_device/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "own_device/unsupported.rs"]
mod os;

pub(crate) use os::hear_nothing_of;
