//! `unshare(2)`.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::thread::UnshareFlags;

/// Gives the calling process a network and a mount namespace of its own; `with_user` in a user namespace of its own too, in
/// which it may do everything to them. To be called while the process has one thread.
///
/// # Errors
/// What the kernel says.
pub fn unshare(with_user: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if with_user {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: CLONE_FILES is not among the flags, so that no descriptor changes its meaning; CLONE_NEWNS separates the root
    // and working directories of threads, which name the same places afterwards.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// A descriptor that whoever started this program has handed over across `exec`, by its number. It is not handed on.
///
/// # Errors
/// When there is none of that number, or it is one of the standard ones.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: F_SETFD sets a flag; on a number that is not open it fails with EBADF and does nothing.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and was given to this program to be owned by it: this is called first thing, when
    // nothing else here has one but the standard ones.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
