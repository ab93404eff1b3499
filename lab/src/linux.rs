//! The laboratory on Linux.

pub mod capture;
pub mod client;
pub(crate) mod enter;
pub(crate) mod error;
pub mod harness;
pub(crate) mod inject;
pub(crate) mod kernel;
pub(crate) mod link;
pub(crate) mod netlink;
pub mod nft;
pub(crate) mod ns;
pub(crate) mod packet_socket;
pub mod pattern;
pub mod program;
pub(crate) mod route;
pub mod servers;
pub mod snapshot;
pub mod topology;
pub(crate) mod trouble;
pub(crate) mod tun;
pub(crate) mod visitor;

pub use enter::{Entered, enter, entered};
pub use error::LabError;
pub use inject::Injector;
pub use kernel::kernel;
pub use link::{LinkCounters, LinkState};
pub use ns::NetNs;

pub use route::{MAIN_TABLE, Route, Rule};

pub use program::Oneway;
pub use snapshot::Snapshot;
pub use topology::Topology;
pub use tun::open_tun_to_everybody;
pub use visitor::visitor;
