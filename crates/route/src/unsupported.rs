//! Operating systems whose routing is not planned yet: every request is an error.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::cgroup::Cgroup;
use crate::change::{Change, Undo};
use crate::error::RouteError;
use crate::host::{Link, NftSupport, Snapshot};
use crate::id::IfIndex;
use crate::monitor::Changes;
use crate::nft::Chain;
use crate::query::{RouteAnswer, RouteQuery};
use crate::resolver::{ResolvConf, Resolver};

fn no<T>(what: &'static str) -> Result<T, RouteError> {
    Err(RouteError::Unsupported { what })
}

pub(crate) fn snapshot() -> Result<Snapshot, RouteError> {
    no("read the host's routing")
}

pub(crate) fn snapshot_again(_: NftSupport) -> Result<Snapshot, RouteError> {
    no("read the host's routing")
}

pub(crate) fn link(_: IfIndex) -> Result<Option<Link>, RouteError> {
    no("look for a device")
}

pub(crate) fn rename_link(_: IfIndex, _: &str) -> Result<(), RouteError> {
    no("rename a device")
}

pub(crate) fn missing(_: &[&Change]) -> Result<Vec<bool>, RouteError> {
    no("look for what is missing")
}

pub(crate) fn destroy_tcp(_: SocketAddr, _: SocketAddr) -> Result<bool, RouteError> {
    no("end a connection")
}

#[derive(Debug)]
pub(crate) struct Asker;

impl Asker {
    pub(crate) fn open() -> Result<Self, RouteError> {
        no("find a route")
    }

    pub(crate) fn ask(&mut self, _: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        no("find a route")
    }
}

pub(crate) fn query(_: &RouteQuery) -> Result<RouteAnswer, RouteError> {
    no("ask for a route")
}

pub(crate) fn make(_: &Change) -> Result<(), RouteError> {
    no("change the host's routing")
}

pub(crate) fn unmake(_: &Undo) -> Result<bool, RouteError> {
    no("undo a change to the host's routing")
}

pub(crate) fn unmake_tagged(_: &Path) -> Result<usize, RouteError> {
    no("find what was left behind")
}

pub(crate) fn resolver(_: &Path, _: bool) -> Result<Resolver, RouteError> {
    no("look at the resolver settings")
}

pub(crate) fn resolv_conf_now(_: &ResolvConf) -> Result<Option<(ResolvConf, String)>, RouteError> {
    no("look at the resolver settings")
}

pub(crate) fn set_switches() -> Result<Vec<&'static str>, RouteError> {
    no("look at the switches")
}

pub(crate) fn boot() -> Result<String, RouteError> {
    no("tell this boot from others")
}

pub(crate) fn netns() -> Result<u64, RouteError> {
    no("tell network namespaces apart")
}

pub(crate) fn create_private(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn reserve(_: &File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}

pub(crate) fn instance_runs() -> bool {
    false
}

pub(crate) fn has_rule_for(_: &Cgroup) -> Result<bool, RouteError> {
    no("list the rules of the packet filter")
}

pub(crate) fn is_there(_: &str, _: &[Chain]) -> Result<bool, RouteError> {
    no("list the rules of the packet filter")
}

/// Control groups, which only Linux has.
pub(crate) mod cgroup {
    use crate::cgroup::{Cgroup, CgroupError};

    pub(crate) fn find(_: &str) -> Result<Cgroup, CgroupError> {
        Err(CgroupError::Unsupported)
    }

    pub(crate) fn ours() -> Result<Option<Cgroup>, CgroupError> {
        Err(CgroupError::Unsupported)
    }

    pub(crate) fn make_ours() -> Result<Cgroup, CgroupError> {
        Err(CgroupError::Unsupported)
    }

    pub(crate) fn enter(_: &Cgroup) -> Result<(), CgroupError> {
        Err(CgroupError::Unsupported)
    }
}

/// The one right to change the routing.
#[derive(Debug)]
pub(crate) struct Lock;

impl Lock {
    pub(crate) fn take() -> Result<Self, RouteError> {
        no("change the host's routing")
    }
}

/// Tells when something has changed; never made.
#[derive(Debug)]
pub(crate) struct Monitor;

impl Monitor {
    pub(crate) fn open() -> Result<Self, RouteError> {
        no("watch the host's routing")
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker
    }

    pub(crate) fn wait(&mut self, _: Duration) -> Result<Changes, RouteError> {
        no("watch the host's routing")
    }
}

/// Ends a wait.
#[derive(Debug, Clone)]
pub(crate) struct Waker;

impl Waker {
    pub(crate) fn wake(&self) {}
}
