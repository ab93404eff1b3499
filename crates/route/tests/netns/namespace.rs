//! Network namespaces entered by threads.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Moves this process, while it still has one thread, to where it may make network namespaces.
pub fn become_root() {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return own_mounts(UnshareFlags::empty());
    }
    own_mounts(UnshareFlags::NEWUSER | UnshareFlags::NEWNET);
    let write = |file: &str, text: String| {
        fs::write(file, text).unwrap_or_else(|e| panic!("{file}: {e}; run as root"));
    };
    write("/proc/self/setgroups", "deny".into());
    write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()));
    write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()));
}

/// What is mounted from here on is nobody else's.
fn own_mounts(besides: UnshareFlags) {
    unshare(besides | UnshareFlags::NEWNS);
    let alone = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", alone).unwrap_or_else(|e| panic!("cannot make the mounts private: {e}"));
}

struct Mounted(PathBuf);
impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Lays a file system of so many KiB over a folder until it is dropped.
pub fn mount_tmpfs(dir: &Path, kib: u32) -> impl Drop {
    let size = std::ffi::CString::new(format!("size={kib}k")).unwrap();
    rustix::mount::mount("none", dir, "tmpfs", MountFlags::empty(), Some(size.as_c_str())).unwrap();
    Mounted(dir.to_owned())
}

/// Lays one file over another one until it is dropped.
pub fn mount_over(under: &Path, file: &Path) -> impl Drop {
    rustix::mount::mount_bind(under, file).unwrap();
    Mounted(file.to_owned())
}

#[allow(unsafe_code, reason = "rustix calls unshare unsafe for its CLONE_FILES, which is not used here")]
fn unshare(flags: UnshareFlags) {
    // SAFETY: the flags do not contain CLONE_FILES, so no descriptor changes its meaning.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .unwrap_or_else(|e| panic!("cannot make namespaces: {e}; run as root or allow user namespaces"));
}

/// Another user, to be excluded. In a user namespace of one user there is none, and the kernel refuses
/// rules about the unknown: there the tests do without.
pub fn other_user() -> Option<u32> {
    const OTHER: u32 = 4242;
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let ranges =
        map.lines().map(|l| l.split_whitespace().map(|n| n.parse::<u32>().unwrap()).collect::<Vec<_>>());
    let known = |range: Vec<u32>| (range[0]..range[0].saturating_add(range[2])).contains(&OTHER);
    ranges.into_iter().any(known).then_some(OTHER)
}

/// A control group that is not there, to be excluded: what the kernel is told of it is only numbers.
pub fn other_group() -> oneway_route::Cgroup {
    oneway_route::Cgroup { path: "some/where".to_owned(), id: 0x1234_5678_9abc, level: 2, ours: false }
}

/// A network namespace. It is gone with its last device, thread and handle.
pub struct Namespace {
    handle: File,
}

impl Namespace {
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(UnshareFlags::NEWNET);
            let handle = File::open("/proc/thread-self/ns/net").unwrap();
            crate::wire::Wire::open().up("lo");
            handle
        });
        Self { handle: made.join().unwrap() }
    }

    /// Runs `work` in it, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let kind = Some(LinkNameSpaceType::Network);
                    rustix::thread::move_into_link_name_space(self.handle.as_fd(), kind).unwrap();
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn handle(&self) -> &File {
        &self.handle
    }
}
