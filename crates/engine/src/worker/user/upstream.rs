//! The outbound's side of a connection.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use oneway_egress::{FlowEnd, Protected, Registered};
use rustix::net::SendFlags;
use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The outbound's socket, each half as far as it is open.
pub(super) struct Upstream {
    /// Before the socket, so that it is dropped before.
    _registered: Option<Registered>,
    /// To the tunnel, where the socket leads to one.
    tie: Option<FlowEnd>,
    read: Read,
    write: OwnedWriteHalf,
    shut: bool,
    held: Held,
}

/// What of a socket waits until it is known whether it is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing.
    No,
    /// What the client sends.
    Writes,
    /// Both directions.
    Both,
}

enum Read {
    Open(OwnedReadHalf),
    /// All was read. What is left to learn is that the socket failed: nobody reads it any more.
    Ended(Pin<Box<dyn Future<Output = io::Error>>>),
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("ended", &self.ended()).field("shut", &self.shut).finish()
    }
}

impl Upstream {
    pub(super) fn new(mut stream: Protected<TcpStream>) -> Self {
        let tie = stream.take_tie();
        let (stream, registered) = stream.into_parts();
        let (read, write) = stream.into_split();
        Self { _registered: registered, tie, read: Read::Open(read), write, shut: false, held: Held::No }
    }

    /// Holds back what is to be sent, or lets it go. Whoever lets it go sees to it that it is tried again.
    pub(super) fn hold(&mut self, held: Held) {
        self.held = held;
    }

    /// Whether everything was read.
    pub(super) fn ended(&self) -> bool {
        matches!(self.read, Read::Ended(_))
    }

    /// Whether no more can be written.
    pub(super) fn shut(&self) -> bool {
        self.shut
    }

    /// Bytes written that the far end has not acknowledged.
    pub(super) fn unacknowledged(&self) -> u32 {
        oneway_flow::unacknowledged(self.write.as_ref())
    }

    /// Reads into `buffer`; 0 at the end of the stream.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Read::Open(half) = &mut self.read else { return Poll::Pending };
        if self.held == Held::Both {
            return Poll::Pending;
        }
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(half).poll_read(cx, &mut buffer))?;
        let len = buffer.filled().len();
        if len == 0 && self.tie.as_ref().is_some_and(FlowEnd::is_cut) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(len))
    }

    /// Stops reading, after the end of the stream.
    pub(super) fn end_reading(self) -> Self {
        let read = match self.read {
            Read::Open(half) => Read::Ended(Box::pin(async move {
                let ready = half.ready(Interest::ERROR).await;
                let error = ready.and_then(|_| half.as_ref().take_error()).ok().flatten();
                error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
            })),
            ended => ended,
        };
        Self { read, ..self }
    }

    /// Ready when a socket that was read to its end has failed since.
    pub(super) fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match &mut self.read {
            Read::Open(_) => Poll::Pending,
            Read::Ended(failed) => failed.as_mut().poll(cx),
        }
    }

    /// Writes what the socket takes now. With `more` an incomplete segment at the end may wait for what comes next
    /// (`MSG_MORE`): a superpacket is no multiple of the segment size beyond, and each would leave a scrap behind.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        if self.held != Held::No {
            return Poll::Pending;
        }
        let stream = self.write.as_ref();
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        loop {
            match stream.try_io(Interest::WRITABLE, || Ok(rustix::net::send(stream, bytes, flags)?)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            // Asks to be woken; ready again only when the kernel made room in between.
            match stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Passes the end of the client's stream on.
    pub(super) fn shut_down(&mut self) {
        if !self.shut {
            self.shut = true;
            // On a socket that failed there is nothing to shut; reading says how it failed.
            let _ = SockRef::from(self.write.as_ref()).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Closes the socket in order.
    pub(super) fn close(self) {
        if self.shut {
            self.write.forget();
        }
    }

    /// Closes the socket with a reset (`SO_LINGER` with time 0).
    pub(super) fn reset(self) {
        let _ = SockRef::from(self.write.as_ref()).set_linger(Some(Duration::ZERO));
        if let Some(tie) = &self.tie {
            tie.reset();
        }
        self.write.forget();
    }
}
