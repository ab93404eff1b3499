//! Linux: all by netlink, `/proc/sys`, files and D-Bus, never by another program.

pub(crate) mod cgroup;
mod change;
#[cfg(feature = "fuzzing")]
pub(crate) use dbus::fuzzing::answer as dbus_answer;
mod dbus;
mod decode;
mod destroy;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod identity;
mod listener;
mod missing;
mod monitor;
mod netlink;
mod nexthop;
mod nft;
mod query;
mod resolved;
mod resolver;
mod serving;
mod snapshot;
mod sysctl;

pub(crate) use change::{make, rename_link, unmake, unmake_tagged};
pub(crate) use destroy::destroy_tcp;
pub(crate) use identity::{Lock, boot, create_private, instance_runs, netns, reserve};
pub(crate) use missing::missing;
pub(crate) use monitor::{Monitor, Waker};
pub(crate) use nft::{has_rule_for, intact as is_there};
pub(crate) use query::{Asker, query};
pub(crate) use resolver::{resolv_conf_now, resolver};
pub(crate) use snapshot::{link, snapshot, snapshot_again};
pub(crate) use sysctl::set_switches;
