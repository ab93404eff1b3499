//! What can fail between this crate and the host.

use std::io;
use std::path::PathBuf;

/// A failure to read or to change the host's routing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A netlink socket could not be made or set up.
    #[error("cannot open a netlink socket to {what}: {source}; is this kernel built with it?")]
    Open {
        /// The subsystem: `routing`, `nftables`, `sockets`.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A request could not be sent, or its answer not be received.
    #[error("cannot ask the kernel to {what}: {source}")]
    Talk {
        /// The request, as a verb.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel answered a request with an error.
    #[error("cannot {what}: {source}{}; {}", said(.hint), advice(.source))]
    Refused {
        /// The request, as a verb in the words of `ip` or `nft`.
        what: String,
        /// The error number of the kernel.
        source: io::Error,
        /// The kernel's own words about it, where it gave any (`NLMSGERR_ATTR_MSG`).
        hint: Option<String>,
    },
    /// The answer does not follow the protocol.
    #[error("cannot understand the kernel's answer to {what}: {detail}")]
    Decode {
        /// The request.
        what: String,
        /// What is wrong with the answer.
        detail: String,
    },
    /// A dump kept changing while it was read (`NLM_F_DUMP_INTR`).
    #[error("cannot {what}: it kept changing while it was read; try again")]
    Unsteady {
        /// The request.
        what: String,
    },
    /// A file below `/proc/sys` could not be read or written.
    #[error("cannot {what} {path}: {source}; {}", advice(.source))]
    Sysctl {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The journal could not be read, written or removed.
    #[error("cannot {what} the journal {path}: {source}; {}", journal_advice(.source))]
    Journal {
        /// The verb.
        what: &'static str,
        /// The journal.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another instance works in this network namespace.
    #[error("another instance{} is running in this network namespace; stop it first with `oneway stop`", process(.pid))]
    Running {
        /// Its process, if the kernel tells.
        pid: Option<u32>,
    },
    /// No instance works in this network namespace any more, but the last one's lock was inherited by a process that it forked.
    #[error(
        "the last instance in this network namespace has ended, and a process that it started keeps its lock; end that \
         process: `ss -xlp src @oneway/route` shows it"
    )]
    Kept,
    /// A device of the plan is not there.
    #[error("cannot {what}: there is no device \"{device}\"")]
    NoDevice {
        /// The step.
        what: String,
        /// The device's name.
        device: String,
    },
    /// The kernel's answer shows that the rules would not do what they are for.
    #[error("the rules are not proven: {0}")]
    NotProven(String),
    /// The host's resolver settings could not be read or changed.
    #[error("cannot {what}: {source}; leave them alone with --resolver off")]
    Resolver {
        /// The step.
        what: String,
        /// What the kernel or the daemon said.
        source: io::Error,
    },
    /// A control group.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    /// A step failed, and what was changed before could not all be undone.
    #[error("{because}; and not everything could be undone: {undo}; run `oneway recover`")]
    NotUndone {
        /// The step.
        because: Box<RouteError>,
        /// What stays.
        undo: Box<RouteError>,
    },
    /// This operating system is not supported (yet).
    #[error("cannot {what}: not supported on {}", std::env::consts::OS)]
    Unsupported {
        /// The request.
        what: &'static str,
    },
}

impl RouteError {
    /// The operating system's error number, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. }
            | Self::Talk { source, .. }
            | Self::Refused { source, .. }
            | Self::Sysctl { source, .. }
            | Self::Journal { source, .. }
            | Self::Resolver { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn said(hint: &Option<String>) -> String {
    hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default()
}

fn process(pid: &Option<u32>) -> String {
    pid.map(|p| format!(" (process {p})")).unwrap_or_default()
}

fn journal_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space on its file system: every change is written down before it is made"
        }
        _ => "look at its folder, and remove what is no journal of ours",
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "run as root or grant CAP_NET_ADMIN",
        io::ErrorKind::NotFound => "it is not there (any more); run `oneway doctor`",
        io::ErrorKind::AlreadyExists => "something else made it first; run `oneway recover`",
        _ => "run `oneway doctor`",
    }
}
