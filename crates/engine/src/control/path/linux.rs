//! Folders and network namespaces on Linux.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags};

use crate::control::{StateError, StatePaths};

const RUN: &str = "/run";

/// See [`StatePaths::here`].
pub(in crate::control) fn here() -> Result<StatePaths, StateError> {
    let namespace = namespace().map_err(StateError::Namespace)?;
    let folder = folder();
    Ok(StatePaths::in_folder(&folder, &stem(&folder, namespace)))
}

/// The number of the calling thread's network namespace. Not that of `/proc/self`, which is the main thread's.
fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Only in `/run` can the machine's own namespace have a name of its own: elsewhere users with and without a view
/// of process 1 would disagree on it.
fn stem(folder: &Path, namespace: u64) -> String {
    if folder == Path::new(RUN) && is_machines_own() { "oneway".to_owned() } else { numbered_stem(namespace) }
}

fn numbered_stem(namespace: u64) -> String {
    format!("oneway-{namespace}")
}

/// Whether the calling thread is in the network namespace of process 1.
///
/// `/proc/1/ns/net` would say so, but following it takes `CAP_SYS_PTRACE` (`proc_ns_get_link` in
/// fs/proc/namespaces.c), and a service without it must find the same files as its administrator. The files below
/// `/proc/PID/net` are not guarded (`get_proc_task_net` in fs/proc/proc_net.c), and each namespace has its own
/// with inode numbers of their own.
fn is_machines_own() -> bool {
    let inode = |path| fs::metadata(path).map(|file| file.ino());
    match (inode("/proc/1/net/dev"), inode("/proc/thread-self/net/dev")) {
        (Ok(first), Ok(ours)) => first == ours,
        _ => false,
    }
}

/// The folder for this user.
fn folder() -> PathBuf {
    if rustix::fs::access(RUN, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
        return RUN.into();
    }
    let uid = rustix::process::geteuid().as_raw();
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
        && folder.is_absolute()
        && fs::metadata(&folder).is_ok_and(|found| is_private(&found, uid))
    {
        return folder;
    }
    private_folder(uid)
}

/// Whether a folder is one that nobody but this user can write to.
pub(super) fn is_private(found: &fs::Metadata, uid: u32) -> bool {
    found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0
}

/// Why the files are not in `/run`, if `folder` is the one that is taken where nothing better is.
pub(in crate::control) fn instead_of_run(folder: &Path) -> Option<io::Error> {
    if folder != private_folder(rustix::process::geteuid().as_raw()) {
        return None;
    }
    rustix::fs::access(RUN, Access::WRITE_OK | Access::EXEC_OK).err().map(io::Error::from)
}

fn private_folder(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/oneway-{uid}"))
}

/// See [`StatePaths::control_candidates`].
pub(in crate::control) fn control_candidates() -> Vec<PathBuf> {
    let Ok(namespace) = namespace() else { return Vec::new() };
    let numbered = format!("{}.sock", numbered_stem(namespace));
    let mut candidates = Vec::new();
    if is_machines_own() {
        candidates.push(Path::new(RUN).join("oneway.sock"));
    }
    candidates.push(Path::new(RUN).join(&numbered));
    if rustix::process::geteuid().is_root() {
        // Root may be asking after an instance that somebody runs with CAP_NET_ADMIN alone.
        let users = entries(Path::new("/run/user"), "");
        let private = entries(Path::new("/tmp"), "oneway-");
        let folders = users.chain(private).filter(|folder| is_what_its_name_says(folder));
        candidates.extend(folders.map(|folder| folder.join(&numbered)).filter(|path| path.exists()));
    }
    candidates
}

/// Whether nobody but the user whom a folder is named for can write to it. In `/tmp` anybody may have made it.
pub(super) fn is_what_its_name_says(folder: &Path) -> bool {
    let found = fs::symlink_metadata(folder);
    named_for(folder).is_some_and(|uid| found.is_ok_and(|found| is_private(&found, uid)))
}

/// The user whom `/run/user/UID` or `/tmp/oneway-UID` is named for.
pub(super) fn named_for(folder: &Path) -> Option<u32> {
    let name = folder.file_name()?.to_str()?;
    match folder.parent()?.to_str()? {
        "/run/user" => name.parse().ok(),
        _ => name.strip_prefix("oneway-")?.parse().ok(),
    }
}

/// Whether a user may be the one who listens at a socket: in a folder that is named for a user nobody but that one, and root.
pub(in crate::control) fn may_serve(path: &Path, uid: u32) -> bool {
    path.parent().and_then(named_for).is_none_or(|owner| uid == owner || uid == 0)
}

/// The user who listens at the other end of a Unix socket (`SO_PEERCRED`, unix(7)).
pub(in crate::control) fn listener(socket: impl AsFd) -> io::Result<Option<u32>> {
    Ok(Some(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw()))
}

fn entries(folder: &Path, prefix: &'static str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
}

/// Makes the private folder if that is what `folder` is, and checks that nobody else can write to it.
pub(in crate::control) fn prepare_folder(folder: &Path) -> Result<(), StateError> {
    let uid = rustix::process::geteuid().as_raw();
    if folder != private_folder(uid) {
        return Ok(());
    }
    prepare_private(folder, uid)
}

/// Checks, if `folder` is the private one and there, that nobody else can write to it.
pub(in crate::control) fn check_folder(folder: &Path) -> Result<(), StateError> {
    let uid = rustix::process::geteuid().as_raw();
    if folder != private_folder(uid) {
        return Ok(());
    }
    check_private(folder, uid)
}

/// Removes the private folder if that is what `folder` is and it is empty.
pub(in crate::control) fn tidy_folder(folder: &Path) {
    if folder == private_folder(rustix::process::geteuid().as_raw()) {
        // What another namespace's instance keeps there is a reason to leave it, and the only one.
        let _ = fs::remove_dir(folder);
    }
}

pub(super) fn prepare_private(folder: &Path, uid: u32) -> Result<(), StateError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(StateError::Folder { path: folder.to_owned(), source })
        }
        _ => check_private(folder, uid),
    }
}

/// In /tmp anybody may have made it first, also as a link to somewhere else.
pub(super) fn check_private(folder: &Path, uid: u32) -> Result<(), StateError> {
    let found = match fs::symlink_metadata(folder) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(StateError::Folder { path: folder.to_owned(), source }),
    };
    let unsafe_because = |why| Err(StateError::UnsafeFolder { path: folder.to_owned(), why });
    if !found.is_dir() {
        return unsafe_because("it is no folder");
    }
    if found.uid() != uid {
        return unsafe_because("it belongs to another user");
    }
    if found.mode() & 0o077 != 0 {
        return unsafe_because("its mode is not 0700");
    }
    Ok(())
}

/// Opens or makes a file that only this user may open: whoever can open it can also lock it.
pub(in crate::control) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

/// Whether an open file is the one that is now at a path.
pub(in crate::control) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (open.dev(), open.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
