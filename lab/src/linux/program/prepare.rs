//! What happens in the child between fork and exec.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use parking_lot::Mutex;
use rustix::mount::MountPropagationFlags;
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags};

/// Starts `command` from a thread that lives as long as the process, and has the kernel kill the child with that
/// thread: no program under test survives a test program that was killed.
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    type Job = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    // SAFETY: prctl(PR_SET_PDEATHSIG) and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        // When this thread cannot be started the queue is dropped, and sending to it fails below.
        let _ = thread::Builder::new().name("lab-spawner".to_owned()).spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts programs is gone");
    spawner.lock().send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// Gives the child a duplicate of `file` under the number `number`.
pub(super) fn give_descriptor(command: &mut Command, file: impl AsFd, number: i32) -> io::Result<()> {
    // Never `number` itself: dup2(2) of a descriptor to its own number does nothing, and leaves it close-on-exec.
    let file = rustix::io::fcntl_dupfd_cloexec(file, number + 1)?;
    // SAFETY: between fork and exec the closure makes one system call. `number` is nobody's in the child, or stands for
    // something that the caller wants replaced; `ManuallyDrop` keeps it open.
    unsafe {
        command.pre_exec(move || {
            let mut target = ManuallyDrop::new(OwnedFd::from_raw_fd(number));
            Ok(rustix::io::dup2(file.as_fd(), &mut target)?)
        });
    }
    Ok(())
}

/// Limits how many descriptors the child may have open, to `files`, or to what it was before `enter` raised it.
pub(super) fn limit_descriptors(command: &mut Command, files: Option<u64>) {
    let limit = match files {
        Some(files) => Some(Rlimit { current: Some(files), maximum: Some(files) }),
        None => crate::enter::first_limit(),
    };
    let Some(limit) = limit else { return };
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe {
        command.pre_exec(move || Ok(rustix::process::setrlimit(Resource::Nofile, limit)?));
    }
}

/// Makes the child another user, with no capabilities but `keep`; without `keep`, with those that the user has.
pub(super) fn become_user(command: &mut Command, uid: Option<u32>, keep: Option<CapabilitySet>) {
    // SAFETY: between fork and exec the closure makes system calls on the child's only thread; it neither allocates
    // nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            if keep.is_some() {
                // capabilities(7): user id 0 means nothing, and changing it takes nothing away.
                rustix::thread::set_capabilities_secure_bits(
                    CapabilitiesSecureBits::NO_ROOT
                        | CapabilitiesSecureBits::NO_ROOT_LOCKED
                        | CapabilitiesSecureBits::NO_SETUID_FIXUP,
                )?;
            }
            if let Some(uid) = uid {
                let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_res_gid(group, group, group)?;
                rustix::thread::set_thread_res_uid(user, user, user)?;
            }
            keep.map_or(Ok(()), keep_capabilities)
        });
    }
}

fn keep_capabilities(keep: CapabilitySet) -> io::Result<()> {
    for capability in CapabilitySet::all().difference(keep).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // EINVAL: one that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: keep };
    rustix::thread::set_capabilities(None, sets)?;
    for capability in keep.iter() {
        // Only ambient capabilities outlive the exec of an ordinary file.
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Lays a file over `/etc/resolv.conf`, in a mount namespace of the child's own.
pub(super) fn give_resolv_conf(command: &mut Command, text: &str) -> io::Result<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    if crate::entered().is_none() {
        return Err(io::Error::other("enter() was not called, so /run is the machine's own"));
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let source = format!("/run/lab-resolv-{}-{number}.conf", std::process::id());
    fs::write(&source, text)?;
    let target = resolv_conf_target()?;
    let (source, target) =
        (CString::new(source)?, CString::new(target.into_os_string().into_encoded_bytes())?);
    // SAFETY: between fork and exec the closure makes system calls with strings that it owns; it neither allocates
    // nor takes a lock. The child has a single thread.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)?;
            rustix::mount::mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
            Ok(rustix::mount::mount_bind(source.as_c_str(), target.as_c_str())?)
        });
    }
    Ok(())
}

/// The file that `/etc/resolv.conf` is. Where it is a link into `/run`, which `enter` emptied, it is made there.
fn resolv_conf_target() -> io::Result<PathBuf> {
    const PATH: &str = "/etc/resolv.conf";
    if let Ok(target) = fs::canonicalize(PATH) {
        return Ok(target);
    }
    let link = Path::new("/etc").join(fs::read_link(PATH).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{PATH} does not exist, so nothing can be laid over it: {error}"),
        )
    })?);
    if let Some(directory) = link.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&link, "")?;
    fs::canonicalize(link)
}
