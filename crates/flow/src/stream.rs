//! What both stacks do with a TCP socket.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::relay::is_at_mark;

/// What a server says and resets at once is heard by a client that is told of the reset so much later. Told at once, its `connect`
/// fails before it could have read anything: its kernel has both before the program runs again, as we are nearer to it than the
/// server is.
pub const HEARD: Duration = Duration::from_millis(20);

/// A connection that there has been for so long has been seen by its client.
pub const SEEN: Duration = Duration::from_secs(1);

/// Has the kernel send a RST when the socket is closed (`SO_LINGER` with time 0).
pub fn reset_on_close(socket: &TcpStream) {
    // On a socket that failed already there is nothing left to reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Reads by `read`, which has room for so many bytes and says how many came; 0 at the end of the stream. Without the second
/// system call that would tell that there are no more.
///
/// # Errors
/// Those of `read`, and that the runtime is shutting down.
pub fn poll_read_by(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    room: usize,
    mut read: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let mut came = None;
        let tried = socket.try_io(Interest::READABLE, || {
            let len = read()?;
            came = Some(len);
            // Less than there was room for: the socket is empty, and what comes next makes it readable anew (epoll(7),
            // question 9). The reactor is told so by this error. Before an urgent byte it need not be empty.
            if len > 0 && len < room && !is_at_mark(socket) {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(())
            }
        });
        match (came, tried) {
            (Some(len), _) => return Poll::Ready(Ok(len)),
            (None, Err(error))
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                return Poll::Ready(Err(error));
            }
            (None, _) => {}
        }
    }
}
