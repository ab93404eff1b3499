//! A program of which everything is captured: in a network namespace of its own, whose only way out is a TUN. The engine is
//! outside, and so are its sockets, which no route leads back into there. It needs no privilege where users may make
//! namespaces.
//!
//! Two processes: the one inside makes the namespace and everything in it ([`enter`]), hands the TUN over and becomes the
//! program; the one outside asks for that ([`Outside`]) and carries what comes.
//!
//! ```text
//! outside                         inside
//! Wish            ── JSON ──▶     unshare, lo, TUN, addresses, routes, resolv.conf
//!                 ◀─ JSON, TUN ── Made, or what failed; and who tells there whose a socket is
//! Engine::start_apart
//! go              ── a byte ─▶    becomes the program
//! ```

mod descriptors;
mod inside;
mod outside;
mod resolver;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use oneway_flow::SocketTable;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

pub use inside::enter;
pub use outside::Outside;

/// What is to be made inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Wish {
    tun: String,
    mtu: u32,
    /// At most one of each family; the last is that of IPv6, which may be missing.
    addresses: Vec<IpNet>,
    /// The congestion control of the program's connections, which end outside; `None` is the host's default.
    congestion: Option<String>,
    queues: usize,
    offload: bool,
    /// Whether connections end in the system's TCP, so that listeners are needed there.
    listeners: bool,
    /// What programs inside are to ask for names; `None` leaves `resolv.conf` as it is.
    nameserver: Option<IpAddr>,
}

/// What was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    tun: String,
    /// The number of the namespace.
    netns: u64,
    addresses: Vec<IpNet>,
    /// So many of the descriptors are queues of the TUN; the others are the table of sockets, and listeners.
    queues: usize,
    /// Whether there is that table.
    table: bool,
    /// What the user should know.
    notes: Vec<String>,
}

/// The device of a namespace, and what goes with it.
#[derive(Debug)]
pub struct ApartTun {
    pub(crate) queues: Vec<OwnedFd>,
    pub(crate) listeners: Vec<std::net::TcpListener>,
    /// Who tells whose the flows of there are.
    pub(crate) table: Option<SocketTable>,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) mtu: u16,
    pub(crate) netns: u64,
}

/// Why there is no namespace for a program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApartError {
    /// The kernel does not let this user make namespaces.
    #[error("cannot make a network namespace: {source}; run as root, or let users make them: {}", grants())]
    Namespace {
        /// What the kernel said.
        source: io::Error,
    },
    /// A step inside failed.
    #[error("{0}")]
    Inside(String),
    /// The other process is gone, or talks nonsense.
    #[error("cannot talk to the other process of `oneway exec`: {0}; start it again")]
    Talk(#[source] io::Error),
}

impl From<ApartError> for EngineError {
    fn from(error: ApartError) -> Self {
        Self::Apart(error.to_string())
    }
}

/// The switches that keep users from making namespaces, as they are here.
fn grants() -> String {
    let read = |path: &str| std::fs::read_to_string(format!("/proc/sys/{path}")).ok();
    let mut grants = Vec::new();
    for (path, bad, good) in [
        ("user/max_user_namespaces", "0", "15000"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ] {
        if read(path).is_some_and(|value| value.trim() == bad) {
            grants.push(format!("sysctl {}={good}", path.replace('/', ".")));
        }
    }
    match grants.len() {
        0 => {
            "a kernel with CONFIG_USER_NS, and no seccomp filter of a container against unshare(2)".to_owned()
        }
        _ => grants.join(", "),
    }
}
