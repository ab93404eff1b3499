//! What programs inside ask for names: `resolv.conf`, and the daemons that would be asked past it.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oneway_file::limit;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where daemons are asked for names by a Unix socket, which no network namespace separates: nscd(8) and nss-resolve(8).
const DAEMONS: [&str; 3] = ["/run/nscd", "/var/run/nscd", "/run/systemd/resolve"];

/// Has programs of the calling process's mount namespace ask `nameserver`; what could not be done is returned in words.
pub(super) fn replace(nameserver: IpAddr) -> Option<String> {
    // The file may lie in a folder that is hidden next.
    let target = fs::canonicalize(RESOLV_CONF).unwrap_or_else(|_| PathBuf::from(RESOLV_CONF));
    let search = oneway_file::read_text(&target, limit::SYSTEM).unwrap_or_default();
    let text = text(nameserver, &search);
    let outcome = lay_over(&target, &text).map_err(|e| {
        format!("{RESOLV_CONF} cannot be replaced ({e}), so that names are asked of the servers in it")
    });
    let daemons =
        DAEMONS.iter().map(Path::new).filter(|folder| folder.is_dir() && !target.starts_with(folder));
    for folder in daemons {
        if let Err(error) = hide(folder) {
            return Some(format!(
                "{} cannot be hidden ({error}), so that names may be asked outside",
                folder.display()
            ));
        }
    }
    outcome.err()
}

/// What is wrong with the servers that programs would ask if they were left alone.
pub(super) fn unreachable() -> Option<String> {
    let text = oneway_file::read_text(Path::new(RESOLV_CONF), limit::SYSTEM);
    let servers = oneway_dns::nameservers(&text.unwrap_or_default());
    servers.iter().all(|server| server.ip().is_loopback()).then(|| {
        format!("names cannot be looked up: the servers in {RESOLV_CONF} are on loopback, which is another one here; use --dns real")
    })
}

/// The servers are another's; how names are completed stays.
fn text(nameserver: IpAddr, before: &str) -> String {
    let kept = |line: &&str| {
        ["search", "domain", "options"].contains(&line.split_whitespace().next().unwrap_or_default())
    };
    let mut text = format!("nameserver {nameserver}\n");
    for line in before.lines().filter(kept) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// A new file system in memory, mounted nowhere.
fn memory() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0755")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Lays a file with this text over another one. It lives as long as the mount namespace.
fn lay_over(target: &Path, text: &str) -> Result<(), Errno> {
    let memory = memory()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&memory, "resolv.conf", flags, Mode::from_raw_mode(0o644))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    drop(file);
    // Before Linux 6.15 a file of a file system that is mounted nowhere cannot be cloned: it is for that moment.
    let place = PLACES.iter().find(|place| Path::new(place).is_dir()).ok_or(Errno::NOENT)?;
    put(&memory, Path::new(place))?;
    let tree = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, format!("{place}/resolv.conf").as_str(), tree);
    rustix::mount::unmount(*place, UnmountFlags::DETACH)?;
    put(&tree?, target)
}

/// Folders that every system has, and of which nothing is needed here.
const PLACES: [&str; 3] = ["/sys", "/mnt", "/tmp"];

fn put(mount: &OwnedFd, target: &Path) -> Result<(), Errno> {
    rustix::mount::move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Puts an empty folder over one.
fn hide(folder: &Path) -> Result<(), Errno> {
    put(&memory()?, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_are_others() {
        let before = "# x\nnameserver 192.0.2.1\nsearch example\noptions edns0\n\n";
        let nameserver = "192.0.2.53".parse().unwrap();
        assert_eq!(text(nameserver, before), "nameserver 192.0.2.53\nsearch example\noptions edns0\n");
        assert_eq!(text(nameserver, ""), "nameserver 192.0.2.53\n");
    }
}
