//! A network namespace that lives as long as its handle.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use netlink_sys::protocols::NETLINK_ROUTE;
use parking_lot::Mutex;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::LabError;
use crate::netlink::Netlink;

/// An anonymous network namespace, held by a file descriptor. Clones are handles to the same one; with the last
/// handle, and the last process and socket in it, the namespace and all its devices vanish.
#[derive(Debug, Clone)]
pub struct NetNs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    fd: OwnedFd,
    route: Mutex<Netlink>,
}

impl NetNs {
    /// Makes an empty namespace; `lo` is down. `name` appears in error messages only.
    ///
    /// # Errors
    /// [`LabError::Namespace`] when the kernel refuses, for want of privilege for example.
    pub fn new(name: impl Into<String>) -> Result<Self, LabError> {
        let name = name.into();
        // A thread of its own is moved, so that the caller stays where it is.
        let made = thread::scope(|scope| {
            thread::Builder::new()
                .name(format!("lab-{name}"))
                .spawn_scoped(scope, || {
                    // SAFETY: CLONE_NEWNET alone does not detach the file descriptor table.
                    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                        .map_err(|error| fail(&name, "unshare(CLONE_NEWNET)", error.into()))?;
                    Self::open_here(&name)
                })
                .map_err(|error| fail(&name, "start a thread", error))
                .map(|thread| thread.join())
        })?;
        made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A handle to the namespace that the calling thread is in.
    ///
    /// # Errors
    /// [`LabError::Namespace`] when `/proc` cannot be read or a netlink socket is refused.
    pub fn current(name: impl Into<String>) -> Result<Self, LabError> {
        Self::open_here(&name.into())
    }

    fn open_here(name: &str) -> Result<Self, LabError> {
        let fd = File::open("/proc/thread-self/ns/net")
            .map_err(|error| fail(name, "open /proc/thread-self/ns/net", error))?;
        let route =
            Netlink::open(NETLINK_ROUTE).map_err(|error| fail(name, "open a netlink socket", error))?;
        Ok(Self(Arc::new(Inner { name: name.to_owned(), fd: fd.into(), route: Mutex::new(route) })))
    }

    /// The name given when it was made.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The descriptor that holds the namespace, for `setns`. It is closed on `exec`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// A path under which another process of the same user can open the namespace while this handle lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.fd.as_raw_fd()))
    }

    /// Runs `work` on a thread inside the namespace and returns what it returns. A panic passes through.
    ///
    /// Sockets made inside stay in the namespace wherever they are used afterwards. `/proc/sys/net` and
    /// `/proc/thread-self/net` are those of the namespace.
    ///
    /// # Errors
    /// [`LabError::Namespace`] when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let joined = thread::scope(|scope| {
            thread::Builder::new()
                .name(format!("lab-{}", self.name()))
                .spawn_scoped(scope, || self.move_here().map(|()| work()))
                .map_err(|error| fail(self.name(), "start a thread", error))
                .map(|thread| thread.join())
        })?;
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside the namespace. The thread keeps the namespace alive.
    ///
    /// # Errors
    /// [`LabError::Namespace`] when there can be no further thread. That it could not enter is the thread's result.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T, LabError>>, LabError> {
        let namespace = self.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                namespace.move_here()?;
                Ok(work())
            })
            .map_err(|error| fail(self.name(), "start a thread", error))
    }

    /// A command that will run inside the namespace. It keeps the namespace alive until it is dropped; a process
    /// started from it keeps it alive by itself.
    #[allow(clippy::disallowed_methods, reason = "tests start the program under test")]
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        let namespace = self.clone();
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns; it neither
        // allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(namespace.fd(), Some(LinkNameSpaceType::Network))
                    .map_err(io::Error::from)
            });
        }
        command
    }

    /// Runs one conversation on the namespace's routing netlink socket.
    pub(crate) fn netlink<T>(
        &self,
        what: impl FnOnce() -> String,
        talk: impl FnOnce(&mut Netlink) -> io::Result<T>,
    ) -> Result<T, LabError> {
        talk(&mut self.0.route.lock()).map_err(|source| LabError::Netlink {
            what: what(),
            name: self.0.name.clone(),
            source,
        })
    }

    fn move_here(&self) -> Result<(), LabError> {
        match move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network)) {
            Ok(()) => Ok(()),
            // To stay where one is takes no privilege, but setns asks for it.
            Err(_) if self.is_here() => Ok(()),
            Err(error) => Err(fail(self.name(), "setns", error.into())),
        }
    }

    fn is_here(&self) -> bool {
        let here = rustix::fs::stat("/proc/thread-self/ns/net");
        let there = rustix::fs::fstat(self.fd());
        matches!((here, there), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}

fn fail(name: &str, step: &'static str, source: io::Error) -> LabError {
    LabError::Namespace { name: name.to_owned(), step, source }
}
