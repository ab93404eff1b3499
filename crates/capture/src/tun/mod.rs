//! TUN devices: IP packets of the machine, read and written by this program.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{Queue, Tun};

#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
pub use unsupported::{Queue, Tun};

use std::io;
use std::path::PathBuf;

use crate::fault::FaultSpec;

/// What kind of device to open.
#[derive(Clone, Debug, Default)]
pub struct TunOptions {
    /// Interface name, at most 15 bytes; the kernel chooses a free one where none is given.
    pub name: Option<String>,
    /// Number of queues, at least 1. More than one needs `IFF_MULTI_QUEUE`.
    pub queues: usize,
    /// Do not ask for checksum and segmentation offload.
    pub no_offload: bool,
    /// Record every packet here.
    pub pcap: Option<PathBuf>,
    /// Disturb the packets of both directions.
    pub fault: Option<FaultSpec>,
}

/// What the kernel does for us on this device (`TUNSETOFFLOAD`). What it does not do is done in software: a [`Queue`]
/// takes TCP superpackets and partial checksums in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// A `virtio_net_hdr` stands before each packet, and checksums may be left partial.
    pub checksum: bool,
    /// TCP superpackets of up to 64 KiB.
    pub tcp_segmentation: bool,
    /// UDP superpackets (Linux 6.2).
    pub udp_segmentation: bool,
}

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The device node cannot be opened.
    #[error("cannot open /dev/net/tun: {source}; {}", node_advice(.source))]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface cannot be made or joined.
    #[error("cannot create TUN {name:?}: {source}; {}", advice(.source))]
    Create {
        /// The name asked for.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A name that no interface can have.
    #[error("TUN name {0:?} is not possible: 1 to 15 bytes, no '/', no white space")]
    Name(String),
    /// A descriptor handed over is not a TUN.
    #[error(
        "descriptor {fd} is not a TUN device with IFF_NO_PI: {source}; hand over one opened on /dev/net/tun"
    )]
    NotTun {
        /// The descriptor's number.
        fd: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A property of the device cannot be set or read.
    #[error("cannot {doing} on TUN {name:?}: {source}")]
    Setup {
        /// The step.
        doing: &'static str,
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The packet file cannot be written.
    #[error("cannot write packets to {path:?}: {source}; choose another file with --pcap")]
    Pcap {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// This operating system has no TUN support here yet.
    #[error("TUN devices are not supported on this operating system in this version")]
    Unsupported,
}

impl TunError {
    /// Whether what was asked for is wrong, and not this host.
    pub fn is_wrong_request(&self) -> bool {
        use io::ErrorKind::{InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound};
        match self {
            Self::NotTun { .. } => true,
            // There can be no such file. Rights and room are the host's.
            Self::Pcap { source, .. } => {
                matches!(
                    source.kind(),
                    InvalidFilename | InvalidInput | IsADirectory | NotADirectory | NotFound
                )
            }
            _ => false,
        }
    }
}

/// Opening the node asks for the file's mode, not for a capability.
fn node_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "run as root, or let this user read and write it (chmod 666 /dev/net/tun)"
        }
        _ => advice(error),
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root or grant CAP_NET_ADMIN",
        io::ErrorKind::NotFound => {
            "load the tun module (modprobe tun) or create the node with major 10, minor 200"
        }
        io::ErrorKind::ResourceBusy => {
            "another program holds an interface of this name; choose another with --tun"
        }
        _ => "look at what the kernel log says of tun",
    }
}
