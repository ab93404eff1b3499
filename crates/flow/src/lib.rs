//! One connection or datagram session: its target, its table entry, its relay.

#![deny(unsafe_code)]

mod heap;
mod process;
mod relay;
mod stream;
mod table;
mod target;

pub use heap::hand_back_memory;
#[cfg(all(feature = "fuzzing", any(target_os = "linux", target_os = "android")))]
#[doc(hidden)]
pub use process::fuzzing;
pub use process::{Listener, Owner, Owners, Process, SocketTable, is_orphan, listener, sees_programs};
pub use relay::{
    End, PipePool, Relay, Side, Tunnel, block_sigpipe, bound_unsent, segment_size, unacknowledged,
};
pub use stream::{HEARD, SEEN, poll_read_by, reset_on_close};
pub use table::{Flow, FlowGuard, FlowInfo, FlowTable};
pub use target::{Arrival, Inbound, Network, Target};
