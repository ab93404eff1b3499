//! The only maker of outgoing sockets.
//!
//! A socket leaves this crate wrapped in [`Protected`], which nothing else can construct. It is protected by a
//! [`Strategy`], the protection has been read back from the kernel, and its destination is not one of those
//! that would lead into our own capture. What cannot be protected is refused; failing open does not exist.
//!
//! ```text
//! choose ─▶ Strategy ─▶ Egress ─▶ self_test, prove ─▶ (capture starts) ─▶ connect_tcp / udp / icmp
//! ```

#![deny(unsafe_code)]

mod breaker;
mod buffers;
mod canary;
mod choose;
mod congestion;
mod detour;
mod egress;
mod error;
mod forbidden;
mod handle;
mod host_route;
mod icmp;
mod icmp_error;
mod netns;
mod new_socket;
mod oracle;
mod own_device;
mod pair;
mod protected;
mod prove;
mod raw_icmp;
mod reach;
mod recv_batch;
mod registry;
mod returned;
pub mod segments;
mod so_bindtodevice;
mod so_mark;
mod source_rule;
mod strategy;
mod tie;
mod uplink;

pub use breaker::Quarantined;
pub use canary::Canary;
pub use choose::{Choice, Means, choose};
pub use egress::{Counters, Egress, SelfTest};
pub use error::{EgressError, ForbiddenReason, lacking_descriptors};
pub use host_route::HostRoute;
pub use icmp::{EARS, IcmpEar, IcmpKind, IcmpSocket};
pub use icmp_error::{IcmpErrorEvent, IcmpErrorKind, QUOTE_MAX, next_error, recv_error, try_error};
pub use netns::Namespace;
pub use oneway_route::{Safeguard, Without};
pub use oracle::{KernelRoutes, RouteOracle};
pub use pair::{datagram_pair, local_pair, tunnel_pair};
pub use protected::Protected;
pub use prove::{Finding, Verdict};
pub use reach::Reach;
pub use recv_batch::{Datagram, RecvBatch};
pub use registry::{Registered, Transport};
pub use source_rule::SourceRule;
pub use strategy::{Protect, Strategy};
pub use tie::{FlowEnd, TunnelEnd};
pub use uplink::{Uplink, UplinkPair};
