//! Which boot and which network namespace this is.
#![allow(
    unsafe_code,
    reason = "SO_NETNS_COOKIE has no safe wrapper, and that of SO_PEERCRED cannot say pid 0"
)]

use std::ffi::{c_int, c_void};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io, mem, thread};

use netlink_sys::{Socket, protocols};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use super::listener;
use crate::error::RouteError;

/// The boot, a random UUID. Routes and rules do not outlive it.
pub(crate) fn boot() -> Result<String, RouteError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| RouteError::Sysctl { what: "read", path: path.into(), source })?;
    Ok(text.trim().to_owned())
}

/// The calling thread's network namespace, by a number that is not given twice in one boot
/// (`SO_NETNS_COOKIE`, Linux 5.14). The inode number of `/proc/self/ns/net` would be reused.
pub(crate) fn netns() -> Result<u64, RouteError> {
    let open = |source| RouteError::Open { what: "routing", source };
    let socket = Socket::new(protocols::NETLINK_ROUTE).map_err(open)?;
    if let Some(cookie) = option(socket.as_fd(), SO_NETNS_COOKIE, 0_u64) {
        return Ok(cookie);
    }
    // Before 5.14: better a number that may come again than none.
    let meta = fs::metadata("/proc/thread-self/ns/net").map_err(open)?;
    Ok(meta.ino())
}

/// Whether a process is in the calling thread's network namespace.
///
/// To follow `/proc/PID/ns/net` takes `CAP_SYS_PTRACE` (`proc_ns_get_link`, fs/proc/namespaces.c), which a service need not
/// have. The files below `/proc/PID/net` are not guarded, and each namespace has its own with inode numbers of their own.
pub(super) fn is_netns_of(pid: u32) -> bool {
    let file = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    match (file(&format!("/proc/{pid}/net/dev")), file("/proc/thread-self/net/dev")) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}

/// `include/uapi/asm-generic/socket.h`
const SO_NETNS_COOKIE: c_int = 71;

/// Types of which every pattern of bits is a value.
trait Plain: Copy {}
impl Plain for u64 {}
impl Plain for libc::ucred {}

/// Reads a socket option of level `SOL_SOCKET`; `None` when this kernel does not have it.
fn option<T: Plain>(socket: BorrowedFd<'_>, name: c_int, mut value: T) -> Option<T> {
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call; the pointer is to `length` writable bytes, of
    // which the kernel writes no more than that, and `T` has no invalid values.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast::<c_void>(),
            &raw mut length,
        )
    };
    (outcome == 0).then_some(value)
}

/// Holds the one right to change this network namespace's routing. It is an abstract Unix socket: the
/// kernel keeps those names per network namespace and frees them when the process dies, however it dies.
#[derive(Debug)]
pub(crate) struct Lock {
    listener: Option<UnixListener>,
}

const NAME: &[u8] = b"oneway/route";

/// How long a name is waited for whose holder has let it go.
const LET_GO: Duration = Duration::from_secs(5);

impl Drop for Lock {
    /// Closing the socket is not enough: a process that another thread has forked, and that has not begun its program yet, has
    /// a copy of it. With this nobody is answered by the copy (`unix_stream_connect`, net/unix/af_unix.c).
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            let _ = rustix::net::shutdown(listener, Shutdown::Both);
        }
    }
}

impl Lock {
    /// Takes it.
    pub(crate) fn take() -> Result<Self, RouteError> {
        let open = |source| RouteError::Open { what: "other instances", source };
        let name = SocketAddr::from_abstract_name(NAME).map_err(open)?;
        let end = Instant::now() + LET_GO;
        loop {
            match UnixListener::bind_addr(&name) {
                Ok(listener) => return Ok(Self { listener: Some(listener) }),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                Err(e) => return Err(open(e)),
            }
            let (uid, pid) = match connect() {
                // It ended in between, or has let go, and what it forked has not yet.
                Err(Errno::CONNREFUSED) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(Errno::CONNREFUSED) => return Err(RouteError::Kept),
                // Nobody accepts: whoever asks stays in the queue, and any user may fill it.
                Err(Errno::AGAIN) => (listener::owner(NAME)?.unwrap_or(0), 0),
                Err(e) => return Err(open(e.into())),
                Ok(stream) => {
                    let nobody = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
                    let holder = option(stream.as_fd(), libc::SO_PEERCRED, nobody).unwrap_or(nobody);
                    (holder.uid, holder.pid)
                }
            };
            if uid == rustix::process::geteuid().as_raw() || uid == 0 {
                // 0 is a process that this one's PID namespace does not show.
                let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0);
                return Err(RouteError::Running { pid });
            }
            // Any user may take any abstract name; that must not keep root from recovering.
            tracing::warn!("process {pid} of user {uid} squats our lock; going on without it");
            return Ok(Self { listener: None });
        }
    }
}

/// Whether somebody holds the lock.
pub(crate) fn instance_runs() -> bool {
    matches!(connect(), Ok(_) | Err(Errno::AGAIN))
}

/// Connects to the lock. `EAGAIN` if its queue is full, which `connect(2)` would wait for otherwise.
#[allow(clippy::disallowed_methods, reason = "a Unix socket: nothing of it leaves this host")]
fn connect() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(NAME)?)?;
    Ok(socket)
}

/// Makes sure of `length` bytes for a file behind `offset`, which it does not show as its own before they are written. No error
/// where the file system cannot do that (fallocate(2)).
pub(crate) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Makes a file that only its owner may read, and that must not be there yet.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}
