//! Ending captured TCP connections in the operating system's own TCP, by rewriting addresses.
//!
//! A client's connection `client → target` is shown to the kernel as `peer → local`: `local` is a listener on the
//! TUN's own address, `peer` an address of the TUN's network that no host has, with a port of ours. What the listener
//! answers to `peer` is turned back into `target → client`. The kernel does TCP on both sides; what is left here is to
//! know which is which, for as long as either side may still say something.
//!
//! Nothing here reads a clock or a socket: packets and the time are arguments.

mod conn;
mod expiry;
mod table;

pub use conn::{Conn, Direction, State};
pub use table::{Nat, NatConfig, OpenError};
