//! How a running instance is talked to: the control socket, its messages, and where an instance keeps its state.
//!
//! The socket carries one JSON document per line, a [`ControlRequest`] in one direction and a [`ControlReply`] in
//! the other. Only root and the user that the instance runs as are answered.

mod error;
mod lock;
mod message;
mod path;
mod report;

#[cfg(unix)]
#[path = "unix/mod.rs"]
mod socket;
#[cfg(not(unix))]
#[path = "unsupported.rs"]
mod socket;

pub use error::{ControlError, StateError};
pub use lock::InstanceLock;
pub use message::{
    Bytes, ControlReply, ControlRequest, Counters, DnsCounters, FailingUpstream, FlowInfo, GuardStatus,
    Health, LoopVerdict, MemberStatus, OutboundStatus, ProtectStatus, Status, TcpCounters, TunCounters,
    UdpCounters, UplinkStatus, Verdict,
};
pub use path::StatePaths;
pub use report::{Dial, Doctor, LoopFree, PathReport, Way, Why, WhyQuestion};
pub use socket::{ControlClient, ControlServer};
