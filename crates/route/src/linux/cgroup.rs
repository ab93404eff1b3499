//! Control groups of version 2, by their file system (Documentation/admin-guide/cgroup-v2.rst).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use oneway_file::limit;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::cgroup::{Cgroup, CgroupError};

/// `CGROUP2_SUPER_MAGIC` of `include/uapi/linux/magic.h`.
const CGROUP2: rustix::fs::FsWord = 0x6367_7270;

/// The deepest that is looked at: the kernel allows more, and nobody uses that.
const DEEPEST: usize = 64;

/// The root of the hierarchy.
pub(crate) struct Root {
    folder: OwnedFd,
    /// Where it is mounted; empty where it is mounted nowhere that this process sees.
    mounted: String,
}

impl Root {
    pub(crate) fn open() -> Result<Self, CgroupError> {
        let none = |source| CgroupError::None { source };
        for mounted in mounts().map_err(none)? {
            let folder = rustix::fs::openat(CWD, mounted.as_str(), flags(), Mode::empty());
            if let Ok(folder) = folder
                && is_version_2(&folder)
            {
                return Ok(Self { folder, mounted });
            }
        }
        // Hidden, as by `ip netns exec`, which mounts a /sys of its own: whoever may mount has a view of his own.
        let folder = own_view().map_err(|e| none(e.into()))?;
        Ok(Self { folder, mounted: String::new() })
    }

    fn name(&self) -> String {
        match self.mounted.as_str() {
            "" => "the root of all groups".to_owned(),
            mounted => mounted.to_owned(),
        }
    }

    /// The group of a path below the root; `None` if there is none.
    fn at(&self, path: &str) -> Result<Option<Cgroup>, CgroupError> {
        let step =
            |source: Errno| CgroupError::Step { what: "open", path: path.to_owned(), source: source.into() };
        let folder = match rustix::fs::openat(&self.folder, path, flags(), Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(step(e)),
        };
        if !is_version_2(&folder) {
            return Err(CgroupError::NotVersion2 { path: path.to_owned(), root: self.name() });
        }
        let id = rustix::fs::fstat(&folder).map_err(step)?.st_ino;
        let level = path.split('/').count() as u32;
        Ok(Some(Cgroup { path: path.to_owned(), id, level, ours: false }))
    }

    /// A descriptor by which changes below the root can be heard of.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.folder.as_raw_fd())
    }
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW
}

fn is_version_2(folder: impl AsFd) -> bool {
    rustix::fs::fstatfs(folder).is_ok_and(|stat| stat.f_type == CGROUP2)
}

/// Where the whole hierarchy is mounted (`/proc/PID/mountinfo`, proc_pid_mountinfo(5)).
fn mounts() -> io::Result<Vec<String>> {
    let bytes = oneway_file::read(Path::new("/proc/self/mountinfo"), limit::PROC)?;
    // Somebody's mount whose name is no text must not hide ours.
    Ok(mount_points(&String::from_utf8_lossy(&bytes)))
}

pub(super) fn mount_points(mountinfo: &str) -> Vec<String> {
    mountinfo.lines().filter_map(mount_point).collect()
}

fn mount_point(line: &str) -> Option<String> {
    let (place, kind) = line.split_once(" - ")?;
    let mut fields = place.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let whole = kind.starts_with("cgroup2 ") && root == "/";
    // Spaces and the like are written in octal.
    whole.then(|| point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
}

/// A mount of the hierarchy that is attached nowhere.
fn own_view() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

pub(crate) fn find(path: &str) -> Result<Cgroup, CgroupError> {
    let bad = |why| CgroupError::Bad { path: path.to_owned(), why };
    let root = Root::open()?;
    let below = below_root(&root, path)?;
    let parts: Vec<&str> = below.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() {
        return Err(bad("the root holds every program"));
    }
    if parts.contains(&"..") {
        return Err(bad("it must not contain `..`"));
    }
    if parts.len() > DEEPEST || path.contains('\0') {
        return Err(bad("it is too deep, or has a zero byte in it"));
    }
    let missing = || CgroupError::Missing { path: path.to_owned(), root: root.name() };
    root.at(&parts.join("/"))?.ok_or_else(missing)
}

/// The path below the root: of a path in the file system, or as it is.
fn below_root(root: &Root, path: &str) -> Result<String, CgroupError> {
    // Where the way through the file system leads to version 1, that is what was meant.
    if path.starts_with('/')
        && let Ok(real) = fs::canonicalize(path)
        && real.is_dir()
    {
        let folder = fs::File::open(&real).ok().filter(|folder| is_version_2(folder));
        return match (folder, real.strip_prefix(&root.mounted)) {
            (Some(_), Ok(below)) if !root.mounted.is_empty() => Ok(below.to_string_lossy().into_owned()),
            // A folder of the name in another file system is not what `/proc/PID/cgroup` shows.
            _ if root.at(path.trim_matches('/')).ok().flatten().is_some() => Ok(path.to_owned()),
            _ => Err(CgroupError::NotVersion2 { path: path.to_owned(), root: root.name() }),
        };
    }
    let mounted = Path::new(path).strip_prefix(&root.mounted);
    Ok(match mounted {
        Ok(below) if !root.mounted.is_empty() => below.to_string_lossy().into_owned(),
        _ => path.to_owned(),
    })
}

/// One for each network namespace: a program that is excluded in one is nobody's business in another.
fn our_name() -> Result<String, CgroupError> {
    let netns = super::netns().map_err(|e| CgroupError::None { source: io::Error::other(e.to_string()) })?;
    Ok(format!("oneway-exclude-{netns}"))
}

pub(crate) fn ours() -> Result<Option<Cgroup>, CgroupError> {
    let found = Root::open()?.at(&our_name()?)?;
    Ok(found.map(|group| Cgroup { ours: true, ..group }))
}

pub(crate) fn make_ours() -> Result<Cgroup, CgroupError> {
    make(&our_name()?)?;
    let gone = || CgroupError::None { source: io::ErrorKind::NotFound.into() };
    ours()?.ok_or_else(gone)
}

/// Makes a group directly below the root; it is no error when it is there.
pub(crate) fn make(path: &str) -> Result<(), CgroupError> {
    let root = Root::open()?;
    match rustix::fs::mkdirat(&root.folder, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(CgroupError::Step { what: "make", path: path.to_owned(), source: e.into() }),
    }
}

/// Removes a group unless somebody is in it. `true` when it was there and is gone.
pub(crate) fn remove(path: &str) -> Result<bool, CgroupError> {
    let root = match Root::open() {
        Ok(root) => root,
        // Nothing can be left in what is not there.
        Err(CgroupError::None { .. }) => return Ok(false),
        Err(e) => return Err(e),
    };
    match rustix::fs::unlinkat(&root.folder, path, rustix::fs::AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        // Programs are in it, or groups of theirs: they go on, and `recover` removes it when they are gone.
        Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
        Err(e) => Err(CgroupError::Step { what: "remove", path: path.to_owned(), source: e.into() }),
    }
}

/// Removes the one of this network namespace, if nobody is in it.
pub(crate) fn remove_ours() {
    if let Err(error) = our_name().and_then(|name| remove(&name)) {
        tracing::debug!("an empty control group stays: {error}");
    }
}

pub(crate) fn enter(group: &Cgroup) -> Result<(), CgroupError> {
    let step =
        |source: Errno| CgroupError::Step { what: "enter", path: group.path.clone(), source: source.into() };
    let root = Root::open()?;
    let file = format!("{}/cgroup.procs", group.path);
    let list =
        rustix::fs::openat(&root.folder, file.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(step)?;
    // 0 is the writer himself.
    rustix::io::write(&list, b"0").map_err(step)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_whole_hierarchy_are_found() {
        let whole = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(mount_point(whole).as_deref(), Some("/sys/fs/cgroup/unified"));
        let part = "41 31 0:38 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(mount_point(part), None);
        assert_eq!(mount_point("33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
        assert_eq!(mount_point("rubbish"), None);
    }
}
