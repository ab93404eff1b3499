//! Why the engine did not start, or stopped.

use std::io;

use oneway_capture::tun::TunError;
use oneway_egress::EgressError;
use oneway_outbound::DialError;
use oneway_route::{PlanError, RouteError};

use crate::config::ConfigErrors;
use crate::control::StateError;

/// Why the engine did not start, or stopped. A variant is the step that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The configuration is wrong; nothing was changed.
    #[error("{0}")]
    Config(ConfigErrors),
    /// The configuration asks for something that this version or this system does not have; nothing was changed.
    #[error("{what} is not available {where_}; {instead}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Where it is missing.
        where_: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// The configuration was read again, and differs in what cannot change while the engine runs; nothing was changed.
    #[error(
        "{settings} cannot change while oneway runs, so that the configuration of before stays in force; stop it and start it again"
    )]
    Restart {
        /// The settings, by their keys.
        settings: String,
    },
    /// Another configuration could not be put into force; that of before stays.
    #[error("cannot put the configuration into force: {0}; try again")]
    Reload(&'static str),
    /// No plan could be made for this host; nothing was changed.
    #[error("cannot plan the capture: {0}")]
    Plan(#[from] PlanError),
    /// Another instance runs here, or the place for its files is of no use.
    #[error("{0}")]
    State(#[from] StateError),
    /// The TUN device.
    #[error("{0}")]
    Tun(#[from] TunError),
    /// Reading or changing the host's routing.
    #[error("{0}")]
    Route(#[from] RouteError),
    /// Protecting our own sockets.
    #[error("cannot protect outgoing sockets: {0}")]
    Egress(#[from] EgressError),
    /// The kernel says that our own traffic would come back.
    #[error("cannot start without a loop: {0}")]
    Loops(String),
    /// A proxy's name.
    #[error("{0}")]
    Proxy(#[source] Box<DialError>),
    /// The listener that captured connections end in.
    #[error("cannot listen on the TUN's address {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// This host drops what the system stack hands to its TCP.
    #[error(
        "this host does not let in TCP that comes by {tun} (from {from} to {to}), as --stack system needs it: most likely its \
         packet filter drops it. Let it in (ufw allow in on {tun}; firewall-cmd --zone=trusted --add-interface={tun}; or in the \
         nftables chain of the hook input: iifname \"{tun}\" accept), or take --stack user, which needs nothing of the kind"
    )]
    NotLetIn {
        /// The device.
        tun: String,
        /// Where such a connection comes from.
        from: std::net::IpAddr,
        /// Where it goes.
        to: std::net::IpAddr,
    },
    /// A thread could not be started, or a runtime.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] io::Error),
    /// What was changed could not all be undone.
    #[error("{}not everything could be undone: {undo}; run `oneway recover`", before(.because))]
    NotUndone {
        /// Why it was to be undone, if that was not wished.
        because: Option<Box<EngineError>>,
        /// The first change that stays.
        undo: RouteError,
    },
    /// The process may not open enough files.
    #[error(
        "cannot start: {there} files may be open, {}and it takes {least}; raise the limit (ulimit -Hn, LimitNOFILE=)",
        besides(.open)
    )]
    FewDescriptors {
        /// The limit.
        there: u64,
        /// How many are open by the program that the engine is in, if they matter.
        open: Option<u64>,
        /// The lowest that is enough, without those.
        least: u64,
    },
    /// It was called off before anything was captured; what had been prepared is undone.
    #[error("the start was called off")]
    Cancelled,
    /// A device that was handed over is not ready.
    #[error(
        "the handed-over TUN {name:?} has no address; give it one before handing it over, or grant CAP_NET_ADMIN"
    )]
    NoAddress {
        /// The device.
        name: String,
    },
    /// The running instance does not know the control group of excluded programs.
    #[error(
        "the running instance does not leave the control group {group:?} out of the capture; see its log, or stop it and start it again"
    )]
    NotExcluded {
        /// The group.
        group: String,
    },
    /// The calling thread is in another network namespace than the engine, and may not enter that of the engine.
    #[error(
        "oneway was started in another network namespace than this thread is in, which cannot enter it: {0}; grant CAP_SYS_ADMIN, or \
         ask from there"
    )]
    Elsewhere(#[source] io::Error),
    /// A namespace for a program, in the words of what makes it.
    #[error("{0}")]
    Apart(String),
    /// A thread that traffic or the guard depend on has panicked.
    #[error(
        "the thread {thread} panicked: {why}; this is a fault of oneway's own: start it again, and report it"
    )]
    Panicked {
        /// The thread.
        thread: String,
        /// What it said, and where in the source.
        why: String,
    },
    /// The device is gone or failed while running.
    #[error(
        "the TUN {name:?} failed: {source}; it may have been deleted, or moved to another network namespace"
    )]
    DeviceLost {
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It was stopped after a failure, with `capture.strict`: nothing is undone.
    #[error(
        "as --strict wants it, this host stays shut: `oneway recover` or the next run frees it; until then nothing that was captured gets out"
    )]
    LeftShut,
}

impl From<DialError> for EngineError {
    fn from(error: DialError) -> Self {
        Self::Proxy(Box::new(error))
    }
}

impl EngineError {
    /// The exit code that tells this kind of error: 2 where the configuration is at fault and nothing was changed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Unsupported { .. } | Self::Restart { .. } => 2,
            Self::Plan(error) if error.is_wrong_request() => 2,
            Self::Egress(error) if error.is_wrong_request() => 2,
            Self::Route(RouteError::Cgroup(error)) if error.is_wrong_request() => 2,
            Self::Tun(error) if error.is_wrong_request() => 2,
            _ => 1,
        }
    }
}

fn before(because: &Option<Box<EngineError>>) -> String {
    because.as_ref().map(|error| format!("{error}; and ")).unwrap_or_default()
}

fn besides(open: &Option<u64>) -> String {
    open.map(|files| format!("{files} of them are open already, ")).unwrap_or_default()
}
