//! Memory that is free, and that the allocator keeps.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[path = "heap/linux.rs"]
mod os;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
#[path = "heap/unsupported.rs"]
mod os;

pub use os::hand_back_memory;
