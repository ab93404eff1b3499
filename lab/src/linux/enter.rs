//! Gets the process out of the machine's own network before anything is tried.

use std::fs;
use std::io;
use std::sync::OnceLock;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::UnshareFlags;

use crate::error::LabError;

/// By which right the laboratory works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// The process is root of the machine (or of its container).
    Root,
    /// The process made a user namespace in which it is root. Only one user id exists in it.
    UserNamespace,
}

static ENTERED: OnceLock<Entered> = OnceLock::new();
static FIRST_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// Moves the process into a network and a mount namespace of its own, so that nothing that happens later can touch
/// the machine's network, and all later steps work without privilege.
///
/// Must be called while the process has a single thread: first thing in `main`. As root it unshares directly; as
/// anybody else it makes a user namespace in which it is root. `/run` becomes an empty directory in memory, so that
/// programs under test find a writable place that nobody else looks at. The process may open as many files as the hard
/// limit allows; programs started by [`Program`](crate::program::Program) get the limit that was there before. A second
/// call does nothing.
///
/// # Errors
/// [`LabError::Threads`] when other threads exist, [`LabError::Enter`] with what to do when the kernel refuses.
pub fn enter() -> Result<Entered, LabError> {
    if let Some(entered) = ENTERED.get() {
        return Ok(*entered);
    }
    let threads = fs::read_dir("/proc/self/task").map_err(step("list /proc/self/task"))?.count();
    if threads > 1 {
        return Err(LabError::Threads { threads });
    }
    let wanted = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    let entered = match unshare(wanted) {
        Ok(()) => Entered::Root,
        Err(_) => {
            enter_user_namespace(wanted)?;
            Entered::UserNamespace
        }
    };
    hide_run()?;
    raise_file_limit();
    crate::ns::NetNs::current("base")?.up("lo")?;
    Ok(*ENTERED.get_or_init(|| entered))
}

/// By which right [`enter`] entered, or `None` before that.
pub fn entered() -> Option<Entered> {
    ENTERED.get().copied()
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> LabError {
    move |source| LabError::Enter { step, source }
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: none of the flags in use detaches the file descriptor table; the process has a single thread, so no
    // other thread is left with another root directory or namespace than it believes to have.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn enter_user_namespace(wanted: UnshareFlags) -> Result<(), LabError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER | wanted)
        .map_err(|error| step("unshare(CLONE_NEWUSER|CLONE_NEWNET|CLONE_NEWNS)")(error.into()))?;
    // user_namespaces(7): without CAP_SETGID in the parent, setgroups must be denied before gid_map is written.
    fs::write("/proc/self/setgroups", "deny").map_err(step("write /proc/self/setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(step("write /proc/self/uid_map"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(step("write /proc/self/gid_map"))
}

fn hide_run() -> Result<(), LabError> {
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|error| step("make the mounts private")(error.into()))?;
    match rustix::mount::mount(
        c"tmpfs",
        c"/run",
        c"tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=0755",
    ) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(step("mount an empty /run")(error.into())),
    }
}

/// One process plays all servers and clients of a scenario. Where the limit cannot be raised, large scenarios fail by
/// EMFILE, which says enough.
fn raise_file_limit() {
    let first = *FIRST_LIMIT.get_or_init(|| rustix::process::getrlimit(Resource::Nofile));
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: first.maximum, ..first });
}

/// The limit of open files before [`enter`].
pub(crate) fn first_limit() -> Option<Rlimit> {
    FIRST_LIMIT.get().copied()
}
