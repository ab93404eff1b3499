//! One direction of a relay.

use std::cell::RefCell;
use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::splice::{AVAILABLE, Pipe, PipePool, splice_in, splice_out};
use super::{End, Side, Tunnel, is_at_mark};
use crate::stream::poll_read_by;

/// A read that fills this is taken for the start of a bulk transfer.
const SCRATCH: usize = 64 * 1024;

/// Turns of one poll before other flows get theirs.
const TURNS: usize = 16;

/// Bytes below which a turn of `splice` was not worth its second system call.
const SMALL: usize = 8 * 1024;

thread_local! {
    /// Where small reads go. It is used within one poll only: what cannot be written at once moves to the flow.
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What one direction holds between two polls: nothing, unless bytes are in flight.
#[derive(Default)]
pub(super) struct Half<'a> {
    /// What the near socket leads to, if not to a network.
    tunnel: Option<&'a (dyn Tunnel + 'a)>,
    /// Copied bytes that the far socket did not take yet.
    rest: Vec<u8>,
    rest_at: usize,
    /// Spliced bytes that the far socket did not take yet.
    pipe: Option<Pipe>,
    in_pipe: usize,
    bulk: bool,
    small_turns: u8,
    eof: bool,
    last: bool,
    cut: bool,
}

/// Which of the two sockets failed.
#[derive(Debug)]
pub(super) enum Broken {
    Read(io::Error),
    Write(io::Error),
}

impl Broken {
    /// The relay's end, where the direction read from `from`.
    pub(super) fn into_end(self, from: Side) -> End {
        match self {
            Self::Read(error) => End::Reset { by: from, error },
            Self::Write(error) => End::Reset { by: from.other(), error },
        }
    }
}

impl<'a> Half<'a> {
    /// A direction from a tunnel, if that is what is there, with these bytes to deliver first.
    pub(super) fn new(rest: Vec<u8>, tunnel: Option<&'a (dyn Tunnel + 'a)>) -> Self {
        Self { rest, tunnel, ..Self::default() }
    }

    /// The other direction has ended: the sockets are closed right after this one, which says the same as a shutdown.
    /// Nothing is unread then, so that closing sends a FIN and no RST (RFC 2525, 2.17).
    pub(super) fn set_last(&mut self) {
        self.last = true;
    }

    /// The near socket has failed, and another call was told: an end behind what it still has is none of the stream.
    pub(super) fn set_cut(&mut self) {
        self.cut = true;
    }

    /// Whether the far socket did not take all that was read: nothing more is read before it has.
    pub(super) fn waits_for_room(&self) -> bool {
        self.in_pipe > 0 || self.rest_at < self.rest.len()
    }

    /// Whether the end of the stream was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.eof
    }

    /// Moves bytes until there are none, or none can be taken. Ready when the end of the stream was passed on.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        count: &AtomicU64,
        pipes: &PipePool,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            ready!(self.flush(cx, to, count, pipes)).map_err(Broken::Write)?;
            if self.eof && (self.cut || self.tunnel.is_some_and(Tunnel::is_cut)) {
                return Poll::Ready(Err(Broken::Read(io::ErrorKind::ConnectionReset.into())));
            }
            if self.eof && self.last {
                return Poll::Ready(Ok(()));
            }
            if self.eof {
                return Poll::Ready(shut_down(to).map_err(Broken::Write));
            }
            if self.bulk {
                ready!(self.fill_pipe(cx, from, pipes)).map_err(Broken::Read)?;
            } else {
                ready!(self.copy(cx, from, to, count))?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes out what is held.
    fn flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        count: &AtomicU64,
        pipes: &PipePool,
    ) -> Poll<io::Result<()>> {
        while self.rest_at < self.rest.len() {
            let rest = self.rest.get(self.rest_at..).unwrap_or_default();
            let n = ready!(poll_write(cx, to, rest))?;
            count.fetch_add(n as u64, Ordering::Relaxed);
            self.rest_at += n;
        }
        if self.rest_at > 0 {
            self.rest = Vec::new();
            self.rest_at = 0;
        }
        while self.in_pipe > 0 {
            let Some(pipe) = &self.pipe else { break };
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || splice_out(pipe, to, self.in_pipe)) {
                Ok(n) => {
                    count.fetch_add(n as u64, Ordering::Relaxed);
                    self.in_pipe -= n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.in_pipe == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipes.give_back(pipe);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the near socket has into a pipe.
    fn fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        pipes: &PipePool,
    ) -> Poll<io::Result<()>> {
        ready!(from.poll_read_ready(cx))?;
        let Ok(pipe) = pipes.take() else {
            // No descriptor is free: copying needs none.
            self.bulk = false;
            return Poll::Ready(Ok(()));
        };
        let spliced = from.try_io(Interest::READABLE, || match splice_in(from, &pipe) {
            // Reading gets across, and says whether that is the end.
            Ok(0) if is_at_mark(from) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_at_mark(from) => Ok(None),
            spliced => spliced.map(Some),
        });
        match spliced {
            Ok(None) => {
                pipes.give_back(pipe);
                self.bulk = false;
                self.small_turns = 0;
            }
            Ok(Some(0)) => {
                pipes.give_back(pipe);
                self.eof = true;
            }
            Ok(Some(n)) => {
                self.in_pipe = n;
                self.pipe = Some(pipe);
                self.small_turns = if n < SMALL { self.small_turns + 1 } else { 0 };
                if self.small_turns >= 4 {
                    self.bulk = false;
                    self.small_turns = 0;
                }
            }
            Err(error) => {
                pipes.give_back(pipe);
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the worker's scratch buffer and writes from there: one system call less than `splice` for a small
    /// message, as a short read says that the socket is empty.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        count: &AtomicU64,
    ) -> Poll<Result<(), Broken>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let read = poll_read_by(cx, from, scratch.len(), || (&*SockRef::from(from)).read(scratch));
            let len = ready!(read).map_err(Broken::Read)?;
            let bytes = scratch.get(..len).unwrap_or_default();
            if bytes.is_empty() {
                self.eof = true;
                return Poll::Ready(Ok(()));
            }
            if bytes.len() == SCRATCH {
                self.bulk = AVAILABLE;
            }
            let mut written = 0;
            while written < bytes.len() {
                let part = bytes.get(written..).unwrap_or_default();
                match poll_write(cx, to, part) {
                    Poll::Ready(Ok(n)) => {
                        count.fetch_add(n as u64, Ordering::Relaxed);
                        written += n;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Write(error))),
                    Poll::Pending => {
                        self.rest = part.to_vec();
                        self.rest_at = 0;
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

/// Writes what there is room for.
fn poll_write(cx: &mut Context<'_>, socket: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

/// Passes the end of the stream on.
fn shut_down(socket: &TcpStream) -> io::Result<()> {
    match SockRef::from(socket).shutdown(Shutdown::Write) {
        // Its reset is what reading comes to.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}
