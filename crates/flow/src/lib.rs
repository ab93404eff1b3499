//! One connection or datagram session: its target, its table entry, its relay.

mod target;

pub use target::{Network, Target};
