//! Runs a handshake over a socket.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::ProxyFault;
use crate::handshake::{Handshake, Progress};

/// How a handshake ended early.
#[derive(Debug)]
pub(crate) enum Broken {
    Io(io::Error),
    Fault(ProxyFault),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ProxyFault> for Broken {
    fn from(fault: ProxyFault) -> Self {
        Self::Fault(fault)
    }
}

/// Read at once, whatever the protocol says that is still missing: most replies come whole, and one call takes them.
const CHUNK: usize = 512;

/// Drives `machine` to its end and returns the bytes that were read behind it. One write per message.
pub(crate) async fn run(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    machine: &mut (dyn Handshake + Send),
    pipelined: bool,
) -> Result<Vec<u8>, Broken> {
    let mut out = Vec::with_capacity(64);
    let mut input = Vec::new();
    machine.start(pipelined, &mut out);
    loop {
        if !out.is_empty() {
            stream.write_all(&out).await?;
            stream.flush().await?;
            out.clear();
        }
        match machine.step(&input, &mut out)? {
            Progress::Need(most) => read_some(stream, &mut input, most.max(CHUNK)).await?,
            Progress::Took(len) => drop(input.drain(..len)),
            Progress::Done(len) => {
                input.drain(..len);
                input.shrink_to_fit();
                return Ok(input);
            }
        }
    }
}

/// Appends what has come, at most `most` bytes.
async fn read_some(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut Vec<u8>,
    most: usize,
) -> io::Result<()> {
    let len = input.len();
    input.resize(len + most, 0);
    // Not `try_read`: a short read tells tokio that the socket is empty, which saves the next one.
    let read = poll_fn(|cx| {
        let mut buffer = ReadBuf::new(input.get_mut(len..).unwrap_or_default());
        let done = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
        Poll::Ready(done.map(|()| buffer.filled().len()))
    })
    .await;
    input.truncate(len + read.as_ref().map_or(0, |read| *read));
    match read? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
