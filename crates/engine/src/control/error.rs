//! What can go wrong with the control socket and the files of an instance.

use std::io;
use std::path::PathBuf;

/// Why the place for the files of an instance is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The network namespace of this process is not known.
    #[error("cannot tell the network namespace from /proc/self/ns/net: {0}; mount /proc")]
    Namespace(#[source] io::Error),
    /// The folder could not be made or looked at.
    #[error(
        "cannot prepare the folder {path:?}: {source}; make it yourself with mode 0700 or set XDG_RUNTIME_DIR"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder could be written by others.
    #[error("the folder {path:?} is not safe: {why}; remove it or set XDG_RUNTIME_DIR")]
    UnsafeFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The lock file could not be opened, locked or written.
    #[error("cannot lock {path:?}: {source}; check the folder's permissions")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another instance runs in this network namespace.
    #[error("oneway is already running here ({}); stop it with `oneway stop`", Pid(*.pid))]
    AlreadyRunning {
        /// Its process, if it could be told.
        pid: Option<u32>,
    },
    /// This operating system is not supported.
    #[error("keeping the state of an instance is not available on this operating system")]
    Unsupported,
}

struct Pid(Option<u32>);

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "pid {pid}"),
            None => f.write_str("pid unknown"),
        }
    }
}

/// Why there is no control socket, or talking over it failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Something else is at the path of the socket, or another program listens there.
    #[error("cannot make the control socket {path:?}: {why}; choose another path with --control")]
    Occupied {
        /// The path.
        path: PathBuf,
        /// What is there.
        why: &'static str,
    },
    /// The socket could not be made.
    #[error(
        "cannot make the control socket {path:?}: {source}; check the folder or choose another with --control"
    )]
    Bind {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody listens.
    #[error("oneway is not running here: nothing answers at {path:?}; start it with `oneway run`")]
    NotRunning {
        /// The path that was tried.
        path: PathBuf,
    },
    /// An instance has the lock of this network namespace, and another socket, or none yet, or none any more.
    #[error(
        "oneway runs here ({}), but does not answer at {path:?}; if it was started with --control, give the same path with \
         --control",
        Pid(*.pid)
    )]
    Elsewhere {
        /// The path that was tried.
        path: PathBuf,
        /// The process of the instance, if it could be told.
        pid: Option<u32>,
    },
    /// The socket is there, but not for this user.
    #[error(
        "cannot open the control socket {path:?}: permission denied; run as root or as the user of the instance"
    )]
    Denied {
        /// The path.
        path: PathBuf,
    },
    /// Connecting, sending or receiving failed.
    #[error("cannot talk to oneway at {path:?}: {source}; is it still running?")]
    Talk {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer was not understood.
    #[error("cannot understand what {path:?} answers: {source}; are both of the same version?")]
    Protocol {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The instance refused or failed.
    #[error("{0}")]
    Refused(String),
    /// This operating system has no such socket.
    #[error("the control socket is not available on this operating system")]
    Unsupported,
}

impl ControlError {
    /// Whether the path of the socket is wrong, and not this host.
    pub fn is_wrong_request(&self) -> bool {
        use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
        match self {
            Self::Occupied { .. } => true,
            // There can be no such file. Rights and room are the host's.
            Self::Bind { source, .. } => {
                matches!(source.kind(), InvalidFilename | InvalidInput | NotADirectory | NotFound)
            }
            _ => false,
        }
    }
}
