//! One connection or datagram session: its target, its table entry, its relay.

#![deny(unsafe_code)]

mod process;
mod relay;
mod table;
mod target;

pub use process::{Listener, Owner, Owners, Process, is_orphan, listener};
pub use relay::{End, PipePool, Relay, Side, Tunnel, unacknowledged};
pub use table::{Flow, FlowGuard, FlowInfo, FlowTable};
pub use target::{Network, Target};
