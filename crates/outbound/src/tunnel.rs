//! A stream that is no socket, made to look like one: both stacks carry sockets.
//!
//! ```text
//! flow ◀═ socketpair ═▶ a task here ◀═ TLS ═▶ protected socket ◀══▶ proxy
//! ```
//!
//! The end of the stream travels as such, each way for itself, and a reset as a reset. What either end does not take
//! is not taken from the other.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use oneway_egress::{EgressError, Protected, TunnelEnd, tunnel_pair};
use oneway_tls::TlsStream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::Connected;

/// Read at once.
const SCRATCH: usize = 64 * 1024;

/// Turns of one poll before other tasks get theirs.
const TURNS: usize = 16;

/// How long what a flow has left behind may take to be sent on, without any of it being taken.
const LINGER: Duration = Duration::from_secs(30);

thread_local! {
    /// Used within one poll only: what cannot be written at once moves to the tunnel. An idle tunnel owns none.
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What a tunnel's bytes go by.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The socket below.
    fn socket(&self) -> &TcpStream;
}

impl Carrier for Protected<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl<S: Carrier> Carrier for TlsStream<S> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0.socket()
    }
}

/// A connection by way of `carrier`. `first` is sent before what the flow sends; `early` has come for it already.
pub(crate) fn open<S: Carrier>(carrier: S, first: Vec<u8>, early: Vec<u8>) -> Result<Connected, EgressError> {
    let (stream, own, end) = tunnel_pair()?;
    tokio::spawn(carry(carrier, own, end, first));
    Ok(Connected { stream, early })
}

async fn carry<S: Carrier>(mut carrier: S, mut pair: TcpStream, end: TunnelEnd, first: Vec<u8>) {
    let (mut from_flow, mut to_flow) = pair.split();
    let mut up = Direction { rest: first, ..Direction::default() };
    let mut down = Direction::default();
    let mut gone = pin!(end.gone());
    let mut is_gone = false;
    let mut failing: Option<Failing> = None;
    let mut has_failed = false;
    let carried = loop {
        let before = up.moved;
        let mut silence = pin!(tokio::time::sleep(LINGER));
        let turn = poll_fn(|cx| {
            if !down.is_over && down.poll(cx, &mut carrier, &mut to_flow)?.is_ready() {
                down.is_over = true;
            }
            if !up.is_over && up.poll(cx, &mut from_flow, &mut carrier)?.is_ready() {
                up.is_over = true;
            }
            if down.waits_for_room() && !has_failed {
                let failing = failing.get_or_insert_with(|| failing_of(carrier.socket()));
                has_failed = failing.as_mut().poll(cx).is_ready();
                if has_failed {
                    end.fail();
                }
            }
            if up.is_over && down.is_over {
                return Poll::Ready(Ok(true));
            }
            is_gone = is_gone || gone.as_mut().poll(cx).is_ready();
            if is_gone && (end.was_reset() || !down.is_over) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            // Nobody else has a clock for it then.
            if is_gone { silence.as_mut().poll(cx).map(|()| Ok(false)) } else { Poll::Pending }
        })
        .await;
        match turn {
            Ok(false) if up.moved == before => break Err(io::ErrorKind::TimedOut.into()),
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err::<(), io::Error>(error),
        }
    };
    if let Err(error) = carried {
        tracing::debug!(%error, "a tunnel is cut");
        end.cut();
        // What was delivered before an end in the wrong place waits for the flow as before one in the right place.
        if error.kind() != io::ErrorKind::UnexpectedEof {
            end.fail();
        }
        oneway_flow::reset_on_close(carrier.socket());
    }
}

type Failing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Resolves when the socket has failed, which nobody learns who does not read. By a descriptor of its own: the stream above
/// is borrowed anew for each poll.
fn failing_of(socket: &TcpStream) -> Failing {
    let socket = SockRef::from(socket).try_clone().and_then(|socket| TcpStream::from_std(socket.into()));
    Box::pin(async move {
        match socket {
            Ok(socket) => drop(socket.ready(Interest::ERROR).await),
            // Out of descriptors: it is learnt later, by reading.
            Err(_) => std::future::pending().await,
        }
    })
}

/// One direction. Between two polls it holds nothing, unless bytes are in flight.
#[derive(Default)]
struct Direction {
    rest: Vec<u8>,
    rest_at: usize,
    /// The end of the stream was read.
    ended: bool,
    /// The end of the stream was passed on.
    is_over: bool,
    /// Bytes passed on.
    moved: u64,
}

impl Direction {
    /// Whether what was read is not taken: nothing more is read before it is.
    fn waits_for_room(&self) -> bool {
        self.rest_at < self.rest.len()
    }

    /// Moves bytes until there are none, or none can be taken. Ready when the end of the stream was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            while let Some(rest) = self.rest.get(self.rest_at..).filter(|rest| !rest.is_empty()) {
                let len = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
                self.moved += len as u64;
                self.rest_at += len;
            }
            (self.rest, self.rest_at) = (Vec::new(), 0);
            if self.ended {
                return Pin::new(&mut *to).poll_shutdown(cx);
            }
            if self.copy(cx, from, to)?.is_pending() {
                // What is written may wait in the cipher still.
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once. Pending if there is nothing to read; what cannot be written becomes the rest.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
            let mut bytes = buffer.filled();
            self.ended = bytes.is_empty();
            while !bytes.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, bytes)? {
                    Poll::Ready(len) => {
                        self.moved += len as u64;
                        bytes = bytes.get(len..).unwrap_or_default();
                    }
                    Poll::Pending => {
                        self.rest = bytes.to_vec();
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
