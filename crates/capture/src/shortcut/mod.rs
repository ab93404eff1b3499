//! A way for the packets of one connection to be renamed inside the kernel, without coming to this program at all.
//!
//! The system stack (`--stack system`) gives each packet of a connection other addresses and hands it back. For a
//! connection that carries much, the kernel can do that by itself: a program at the device's egress (tc, eBPF) looks
//! the packet's addresses up in a table and, if they are there, writes the other ones and lets the packet come in again
//! on the same device. Neither copy nor system call is left of what is otherwise two of each for a packet.
//!
//! Only plain segments of connections that were put into the table take that way. What begins or ends a connection
//! (SYN, FIN, RST), fragments, IP options and everything unknown come to this program as ever, so that whatever decides
//! about a connection stays here. The table and the program vanish with the descriptors of this process.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::Shortcuts;

#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
pub use unsupported::Shortcuts;
