//! A TUN device of the laboratory's own: to be handed to the program under test, or to play another VPN.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{FileType, Mode};

use crate::error::LabError;
use crate::ns::NetNs;

impl NetNs {
    /// Makes a TUN device, down. It is gone when the descriptor, and those that programs were given, are closed.
    /// With `offload`, packets carry a `virtio_net_hdr` (`IFF_VNET_HDR`). Reads block.
    ///
    /// # Errors
    /// [`LabError::Client`], also when `/dev/net/tun` is missing or not for this user.
    pub fn tun(&self, name: &str, offload: bool) -> Result<OwnedFd, LabError> {
        self.tun_of(name, libc::IFF_NO_PI | if offload { libc::IFF_VNET_HDR } else { 0 })
    }

    /// The same, with four bytes before each packet that name its protocol (no `IFF_NO_PI`).
    ///
    /// # Errors
    /// As [`NetNs::tun`].
    pub fn tun_with_packet_info(&self, name: &str) -> Result<OwnedFd, LabError> {
        self.tun_of(name, 0)
    }

    fn tun_of(&self, name: &str, flags: libc::c_int) -> Result<OwnedFd, LabError> {
        self.run(|| open(name, flags))?
            .map(OwnedFd::from)
            .map_err(|source| LabError::Client { what: format!("make the TUN device \"{name}\""), source })
    }
}

/// Lets every user open `/dev/net/tun`, as most distributions do. The process and its children alone see it so.
///
/// # Errors
/// [`LabError::Enter`] when the process is not root of the machine, or [`enter`](crate::enter) was not called.
pub fn open_tun_to_everybody() -> Result<(), LabError> {
    const PATH: &str = "/dev/net/tun";
    let fail = |source| LabError::Enter { step: "open /dev/net/tun to everybody", source };
    if crate::entered().is_none() {
        return Err(fail(io::Error::other("enter() was not called, so the mounts are the machine's own")));
    }
    if fs::metadata(PATH).is_ok_and(|found| found.permissions().mode() & 0o666 == 0o666) {
        return Ok(());
    }
    // Not in /run, where `enter` has forbidden devices. The mount keeps the node when its name is gone.
    let node = std::env::temp_dir().join(format!("oneway-lab-tun-{}", std::process::id()));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        rustix::fs::makedev(10, 200),
    )
    .map_err(|error| fail(error.into()))?;
    // The mask of the process may have taken rights away.
    let mounted = fs::set_permissions(&node, Permissions::from_mode(0o666))
        .and_then(|()| Ok(rustix::mount::mount_bind(&node, PATH)?));
    let removed = fs::remove_file(&node);
    mounted.and(removed).map_err(fail)
}

fn open(name: &str, flags: libc::c_int) -> io::Result<File> {
    let path = "/dev/net/tun";
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("open {path}: {error}")))?;
    // SAFETY: all bits zero are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is longer than 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | flags) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives throughout the call.
    match unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(tun),
        _ => Err(io::Error::last_os_error()),
    }
}
