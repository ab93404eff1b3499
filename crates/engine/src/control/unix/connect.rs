//! Connects to a socket without waiting for ever where nobody accepts.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

/// A listener that lives accepts at once, or has ended a silent connection before.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connects, or says after a while that it takes too long.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    #[expect(clippy::disallowed_methods, reason = "what goes to a path of this host leaves by no network")]
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    // With a full queue connect(2) waits for as long as sending may take (`unix_stream_connect` in net/unix/af_unix.c).
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Whether somebody listens at a path, be it that he accepts nobody.
pub(super) fn is_taken(path: &Path) -> bool {
    match connect(path) {
        Ok(_) => true,
        Err(e) => e.kind() == io::ErrorKind::WouldBlock,
    }
}
