//! Linux: all by netlink and `/proc/sys`, never by another program.

mod decode;
mod netlink;
mod query;
mod snapshot;
mod sysctl;

pub(crate) use query::query;
pub(crate) use snapshot::snapshot;
