//! Linux: all by netlink and `/proc/sys`, never by another program.

pub(crate) mod cgroup;
mod change;
mod decode;
mod destroy;
mod identity;
mod missing;
mod monitor;
mod netlink;
mod nft;
mod query;
mod serving;
mod snapshot;
mod sysctl;

pub(crate) use change::{make, unmake, unmake_tagged};
pub(crate) use destroy::destroy_tcp;
pub(crate) use identity::{Lock, boot, create_private, instance_runs, netns};
pub(crate) use missing::missing;
pub(crate) use monitor::{Monitor, Waker};
pub(crate) use nft::{has_rule_for, intact as is_there};
pub(crate) use query::query;
pub(crate) use snapshot::{snapshot, snapshot_again};
