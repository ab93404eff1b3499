//! Control groups of version 2 (cgroups(7)): programs that share one are told apart from all others, also by nftables.

use std::io;

use serde::{Deserialize, Serialize};

use crate::error::RouteError;
use crate::os;

/// A control group, as it is now: one that is removed and made again has another number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its path below the root, without a leading slash: `system.slice/ssh.service`.
    pub path: String,
    /// Its number in the kernel (`kn.id`), which is that of its folder.
    pub id: u64,
    /// How many folders below the root it is; at least 1.
    pub level: u32,
    /// Whether it is the one of [`Cgroup::make_ours`], which goes when it is empty.
    pub ours: bool,
}

/// Why a control group cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// This kernel or container has none.
    #[error(
        "this host has no control groups of version 2: {source}; mount them with `mount -t cgroup2 none /sys/fs/cgroup`, or exclude by user with --exclude-uid"
    )]
    None {
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not there.
    #[error(
        "there is no control group {path:?} below {root}; `cat /proc/PID/cgroup` shows that of a program behind `0::`"
    )]
    Missing {
        /// As it was given.
        path: String,
        /// Where groups of version 2 are.
        root: String,
    },
    /// The folder is of another file system.
    #[error(
        "{path:?} is no control group of version 2, and only these can be told apart; those here are below {root}"
    )]
    NotVersion2 {
        /// As it was given.
        path: String,
        /// Where groups of version 2 are.
        root: String,
    },
    /// It holds every program, or is not written as a path.
    #[error("{path:?} is no path of a single control group: {why}")]
    Bad {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A step failed.
    #[error("cannot {what} the control group {path:?}: {source}{}", advice(.source))]
    Step {
        /// `open`, `make`, `enter`, `remove`.
        what: &'static str,
        /// The group.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// This operating system has none.
    #[error("control groups are not supported on {}", std::env::consts::OS)]
    Unsupported,
}

impl CgroupError {
    /// Whether it is what was asked for that this host contradicts, and not the host that lacks something.
    pub fn is_wrong_request(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NotVersion2 { .. } | Self::Bad { .. })
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; run as root, or start the program in a control group of your own and give that to `oneway run` with \
             --exclude-cgroup"
        }
        _ => "",
    }
}

impl Cgroup {
    /// Finds a control group by its path: in the file system (`/sys/fs/cgroup/user.slice`), or below the root as
    /// `/proc/PID/cgroup` shows it (`/user.slice`).
    ///
    /// # Errors
    /// [`CgroupError`], also when there is none of that name.
    pub fn find(path: &str) -> Result<Self, CgroupError> {
        os::cgroup::find(path)
    }

    /// The control group of the programs that are excluded in the calling thread's network namespace, if it was made.
    ///
    /// # Errors
    /// When it cannot be told whether it was.
    pub fn ours() -> Result<Option<Self>, CgroupError> {
        os::cgroup::ours()
    }

    /// Makes it, unless it is there.
    ///
    /// # Errors
    /// [`CgroupError::None`], and [`CgroupError::Step`] for want of rights.
    pub fn make_ours() -> Result<Self, CgroupError> {
        os::cgroup::make_ours()
    }

    /// Moves the calling process into it. Sockets that it has made before stay where they were made.
    ///
    /// # Errors
    /// [`CgroupError::Step`].
    pub fn enter(&self) -> Result<(), CgroupError> {
        os::cgroup::enter(self)
    }

    /// Whether a program in the group of this path, below the root and with a leading slash, is in this one or in one
    /// below it.
    pub fn holds(&self, path: &str) -> bool {
        path.trim_start_matches('/')
            .strip_prefix(self.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether the kernel has a rule of ours for it in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_excluded(&self) -> Result<bool, RouteError> {
        os::has_rule_for(self)
    }
}

/// Whether an instance works in the calling thread's network namespace.
pub fn instance_runs() -> bool {
    os::instance_runs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_holds_those_below_it() {
        let group = Cgroup { path: "a/b".to_owned(), id: 7, level: 2, ours: false };
        assert!(group.holds("/a/b") && group.holds("/a/b/c"));
        assert!(!group.holds("/a") && !group.holds("/a/bc") && !group.holds("/"));
    }
}
