//! What can go wrong while a laboratory is built or used.

use std::io;
use std::time::Duration;

/// A step of the laboratory that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The process could not get namespaces of its own.
    #[error(
        "cannot enter namespaces for the laboratory: {step}: {source}; run as root (in a container: with \
         CAP_SYS_ADMIN and CAP_NET_ADMIN, for example `--privileged`), or allow user namespaces \
         (sysctl user.max_user_namespaces > 0, kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    Enter {
        /// The system call or file.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// `enter` was called when other threads were already running.
    #[error(
        "cannot enter namespaces for the laboratory: the process already has {threads} threads; call \
         enter() first thing in main, before any thread or runtime is started"
    )]
    Threads {
        /// How many threads there were.
        threads: usize,
    },
    /// A network namespace could not be made or entered.
    #[error("cannot use network namespace \"{name}\": {step}: {source}; was enter() called first?")]
    Namespace {
        /// The namespace's name for humans.
        name: String,
        /// The system call.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a change or a question sent by netlink.
    #[error("cannot {what} in namespace \"{name}\": {source}")]
    Netlink {
        /// What was asked, in words.
        what: String,
        /// The namespace's name for humans.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A sysctl could not be read or written.
    #[error("cannot access sysctl {key} in namespace \"{name}\": {source}; is /proc/sys mounted writable?")]
    Sysctl {
        /// The key, with dots or slashes as the caller wrote it.
        key: String,
        /// The namespace's name for humans.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A server of the laboratory did not start.
    #[error("cannot start {server}: {source}")]
    Server {
        /// Which server, with its address.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// A packet recorder failed.
    #[error("cannot record packets of {device}: {source}")]
    Capture {
        /// The device, or `every device`.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// The recorder lost packets, so that counts are no longer exact.
    #[error("the recorder lost {lost} packets: its counts are not exact; record one device, or send less")]
    Lost {
        /// How many the kernel says it threw away.
        lost: u32,
    },
    /// A program under test could not be started or asked.
    #[error("cannot {what} {program}: {source}")]
    Program {
        /// What was being done.
        what: &'static str,
        /// Its path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program under test ended, or its time ran out, before it said that it was ready.
    #[error(
        "{program} did not print a line beginning with {wanted:?} within {waited:?} ({state}); its stderr:\n{stderr}"
    )]
    NotReady {
        /// Its path.
        program: String,
        /// The beginning of the line waited for.
        wanted: String,
        /// How long it was waited for.
        waited: Duration,
        /// `still running`, or how it ended.
        state: String,
        /// What it wrote to stderr so far.
        stderr: String,
    },
    /// A condition did not come true in time.
    #[error("waited {waited:?} in vain until {what}")]
    Deadline {
        /// The condition, in words.
        what: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The configuration of a namespace is not what it was.
    #[error("the configuration of namespace \"{name}\" changed:\n{diff}")]
    Changed {
        /// The namespace's name for humans.
        name: String,
        /// The lines that went (`-`) and came (`+`).
        diff: String,
    },
    /// A client helper failed in a way that is none of the outcomes it reports.
    #[error("cannot {what}: {source}")]
    Client {
        /// What was being done.
        what: String,
        /// Why.
        source: io::Error,
    },
}
