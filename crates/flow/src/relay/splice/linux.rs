//! `splice(2)`: pages go from a socket's queue into a pipe and from there into another socket's.
#![allow(unsafe_code, reason = "pthread_sigmask has no safe wrapper")]

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::net::TcpStream;

/// Whether a relay may borrow pipes at all.
pub(crate) const AVAILABLE: bool = true;

/// Bytes that a pipe holds: enough for several superpackets in one turn. Unprivileged users may go up to 1 MiB
/// (`/proc/sys/fs/pipe-max-size`).
const PIPE_SIZE: usize = 512 * 1024;

/// Empty pipes kept for the next burst; more than this many at once are made and closed as needed.
const KEPT: usize = 64;

/// A pipe that bytes pass through.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty pipes of one worker. A flow borrows one only while it has bytes in flight, so that an idle flow holds its
/// two sockets and nothing else.
#[derive(Debug, Default)]
pub struct PipePool {
    empty: RefCell<Vec<Pipe>>,
}

impl PipePool {
    pub(crate) fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.empty.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The size is a wish: where the user's limit is reached the kernel keeps the pipe smaller, and it works.
        let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
        Ok(Pipe { read, write })
    }

    /// Takes back a pipe that must be empty: what is left in it would go to another flow.
    pub(crate) fn give_back(&self, pipe: Pipe) {
        let mut empty = self.empty.borrow_mut();
        if empty.len() < KEPT {
            empty.push(pipe);
        }
    }
}

/// Moves what `from` has into an empty pipe. `Ok(0)` is the end of the stream.
pub(crate) fn splice_in(from: &TcpStream, pipe: &Pipe) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(from, None, &pipe.write, None, PIPE_SIZE, flags)?)
}

/// Moves up to `len` bytes of the pipe into `to`.
pub(crate) fn splice_out(pipe: &Pipe, to: &TcpStream, len: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(&pipe.read, None, to, None, len, flags)?)
}

/// Keeps the calling thread from being told by `SIGPIPE` that a socket is closed: `splice(2)` has no flag for that as `send(2)`
/// has, and a program that leaves the signal at its default would end by it. Threads that it starts inherit this.
pub fn block_sigpipe() {
    let mut pipe = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialized by `sigemptyset`, and lives until the last call returns; a null pointer asks for nothing of
    // the mask of before. They fail for signals that do not exist alone.
    unsafe {
        libc::sigemptyset(pipe.as_mut_ptr());
        libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, pipe.as_ptr(), ptr::null_mut());
    }
}
