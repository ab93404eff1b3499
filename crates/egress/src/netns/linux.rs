//! One thread that has moved into the namespace (`setns(2)`) makes the sockets. A socket stays in the namespace that it was
//! made in, whatever thread uses it (`sock_net`, include/net/sock.h).
#![allow(unsafe_code, reason = "SO_NETNS_COOKIE and SIOCGSKNS have no safe wrapper")]

use std::ffi::{c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{EgressError, new_socket};

const MECHANISM: &str = "another network namespace";

/// `include/uapi/asm-generic/socket.h`
const SO_NETNS_COOKIE: c_int = 71;
/// `include/uapi/linux/sockios.h`
const SIOCGSKNS: u32 = 0x894c;

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// Questions that wait for the thread; whoever has another one waits with it.
const WAITING: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, and the thread that is in it.
pub struct Namespace {
    name: String,
    path: PathBuf,
    identity: Identity,
    jobs: SyncSender<Job>,
}

/// What the kernel tells namespaces apart by: the inode of nsfs, and the number that is not given twice (Linux 5.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    cookie: Option<u64>,
}

impl Namespace {
    /// Enters the namespace with this name, as `ip netns` gives it, or with this path (`/proc/PID/ns/net`, …).
    ///
    /// # Errors
    /// [`EgressError::Namespace`] if there is none, or if it is the one that is captured; [`EgressError::Protect`] if it must
    /// not be entered (`CAP_SYS_ADMIN`).
    pub fn open(name: &str) -> Result<Self, EgressError> {
        let path = if name.contains('/') { PathBuf::from(name) } else { PathBuf::from(NAMES).join(name) };
        let own = identity_of(&open("/proc/thread-self/ns/net".as_ref(), name)?, name)?;
        let file = open(&path, name)?;
        let found = identity_of(&file, name)?;
        if (found.device, found.inode) == (own.device, own.inode) {
            let why = format!("{name}: it is the namespace that is captured; name another one");
            return Err(EgressError::Namespace { why, source: None });
        }
        let (jobs, queue) = sync_channel::<Job>(WAITING);
        let (entered, wait) = sync_channel(1);
        thread::Builder::new()
            .name("oneway-netns".to_owned())
            .spawn(move || {
                let moved = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
                let failed = moved.is_err();
                let told = entered.send(moved.map_err(io::Error::from));
                // A thread that has not moved must never make a socket.
                if failed || told.is_err() {
                    return;
                }
                for job in queue {
                    job();
                }
            })
            .map_err(|source| failed(name, "start a thread for", source))?;
        match wait.recv() {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(failed(name, "enter", source)),
            Err(_) => return Err(refused(name, "the thread for it has ended".to_owned())),
        }
        let mut namespace = Self { name: name.to_owned(), path, identity: found, jobs };
        let first = namespace.socket(Domain::IPV4, Type::DGRAM, Protocol::UDP);
        let first = first.map_err(|source| failed(name, "make a socket in", source))?;
        namespace.identity.cookie = cookie(&first);
        namespace.check(&first)?;
        Ok(namespace)
    }

    /// As it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the name still leads to this namespace: one that was deleted and made anew is another one, in which nothing
    /// of ours is.
    pub fn is_current(&self) -> bool {
        let found = open(&self.path, &self.name).and_then(|file| identity_of(&file, &self.name));
        found.is_ok_and(|found| (found.device, found.inode) == (self.identity.device, self.identity.inode))
    }

    /// Does something on a thread in the namespace.
    ///
    /// # Errors
    /// [`EgressError::Protect`] if that thread has ended.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EgressError> {
        let gone = || refused(&self.name, "the thread for it has ended".to_owned());
        let (answer, wait) = sync_channel(1);
        let job: Job = Box::new(move || {
            // Nobody waits any more: nothing is lost.
            let _ = answer.send(work());
        });
        self.jobs.send(job).map_err(|_| gone())?;
        wait.recv().map_err(|_| gone())
    }

    /// A non-blocking socket that is born there.
    pub(crate) fn socket(&self, domain: Domain, ty: Type, protocol: Protocol) -> io::Result<Socket> {
        self.run(move || new_socket::nonblocking(domain, ty, protocol))
            .map_err(|error| io::Error::other(error.to_string()))?
    }

    /// The read-back: whether a socket is of that namespace.
    pub(crate) fn check(&self, socket: &Socket) -> Result<(), EgressError> {
        if let Some(expected) = self.identity.cookie {
            return match cookie(socket) {
                Some(found) if found == expected => Ok(()),
                found => Err(refused(
                    &self.name,
                    format!("a socket made there reads back as of namespace {found:?} and not {expected}"),
                )),
            };
        }
        let found = namespace_of(socket).map_err(|source| failed(&self.name, "read back", source))?;
        let found = identity_of(&found, &self.name)?;
        if (found.device, found.inode) != (self.identity.device, self.identity.inode) {
            return Err(refused(&self.name, "a socket made there reads back as of another one".to_owned()));
        }
        Ok(())
    }
}

fn open(path: &std::path::Path, name: &str) -> Result<File, EgressError> {
    // A FIFO of that name would be waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    file.map_err(|source| failed(name, "open", source))
}

fn identity_of(file: &File, name: &str) -> Result<Identity, EgressError> {
    let meta = file.metadata().map_err(|source| failed(name, "look at", source))?;
    Ok(Identity { device: meta.dev(), inode: meta.ino(), cookie: None })
}

/// `SO_NETNS_COOKIE`; `None` before Linux 5.14.
fn cookie(socket: &Socket) -> Option<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call; the pointer is to `length` writable bytes, of which the kernel
    // writes no more than that.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut value).cast::<c_void>(),
            &raw mut length,
        )
    };
    (outcome == 0).then_some(value)
}

/// `SIOCGSKNS`: the namespace of a socket, since Linux 4.10. Needs `CAP_NET_ADMIN` there.
fn namespace_of(socket: &Socket) -> io::Result<File> {
    // SAFETY: the descriptor is open for the whole call; the request takes no argument.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS as libc::Ioctl) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn refused(name: &str, why: String) -> EgressError {
    EgressError::Protect { mechanism: MECHANISM, why: format!("{name}: {why}"), source: None }
}

fn failed(name: &str, step: &str, source: io::Error) -> EgressError {
    let advice = match source.kind() {
        io::ErrorKind::NotFound => "; see `ip netns list` and egress.netns",
        io::ErrorKind::PermissionDenied => "; grant CAP_SYS_ADMIN, or use --protect mark",
        io::ErrorKind::InvalidInput => "; it is no network namespace, see egress.netns",
        _ => "",
    };
    let why = format!("cannot {step} the network namespace {name}: {source}{advice}");
    let none = matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput);
    match none {
        true => EgressError::Namespace { why, source: Some(source) },
        false => EgressError::Protect { mechanism: MECHANISM, why, source: Some(source) },
    }
}
