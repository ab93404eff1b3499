//! Carrying bytes between a client's socket and the outbound's, both ways.

mod half;
mod splice;
mod unsent;

use std::future::{Future, poll_fn};
use std::io;
use std::ops::DerefMut;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use half::Half;
pub use splice::PipePool;
pub use unsent::unacknowledged;

/// One of the two ends of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The captured program's socket.
    Client,
    /// The outbound's socket.
    Upstream,
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both ends closed in order, and every byte was delivered.
    Closed,
    /// An end was reset or failed; the other end has been reset as well.
    Reset {
        /// Where it began.
        by: Side,
        /// What the kernel said.
        error: io::Error,
    },
    /// One end closed and the other said nothing for too long; both were reset.
    Silent,
    /// The relay was asked to stop; both ends were reset.
    Stopped,
}

/// What lies behind the outbound's socket, where that leads to a tunnel inside this program: such sockets have no resets.
pub trait Tunnel: std::fmt::Debug {
    /// Whether the end of what it delivered is not the end of the stream.
    fn is_cut(&self) -> bool;
    /// Has the far end see a reset.
    fn reset(&self);
}

/// One connection's two sockets, and where its bytes are counted.
#[derive(Debug)]
pub struct Relay<'a, S> {
    /// The captured program's socket.
    pub client: TcpStream,
    /// The outbound's socket, or what holds it: that is dropped with it.
    pub upstream: S,
    /// What the outbound's socket leads to, if not to a network.
    pub tunnel: Option<&'a (dyn Tunnel + 'a)>,
    /// Bytes that the upstream sent before the relay began: behind a proxy's reply.
    pub early: Vec<u8>,
    /// Counts payload delivered to the upstream.
    pub up: &'a AtomicU64,
    /// Counts payload delivered to the client.
    pub down: &'a AtomicU64,
    /// How long a half-closed connection may be silent.
    pub half_closed_limit: Duration,
}

impl<S: DerefMut<Target = TcpStream>> Relay<'_, S> {
    /// Carries bytes until both ends are closed, one fails, or `stop` resolves.
    ///
    /// A FIN travels as a FIN (half-close) and a RST as a RST.
    pub async fn run(self, pipes: &PipePool, stop: impl Future<Output = ()>) -> End {
        let Self { mut client, mut upstream, tunnel, early, up, down, half_closed_limit } = self;
        let end = tokio::select! {
            end = carry((&mut client, &mut upstream), tunnel, early, (up, down), half_closed_limit, pipes) => end,
            () = stop => End::Stopped,
        };
        if !matches!(end, End::Closed) {
            reset_on_close(&client);
            reset_on_close(&upstream);
            if let Some(tunnel) = tunnel {
                tunnel.reset();
            }
        }
        end
    }
}

/// Makes the kernel send a RST when the socket is closed (`SO_LINGER` with time 0).
fn reset_on_close(socket: &TcpStream) {
    // On a socket that failed already there is nothing left to reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

async fn carry(
    (client, upstream): (&mut TcpStream, &mut TcpStream),
    tunnel: Option<&dyn Tunnel>,
    early: Vec<u8>,
    (up_count, down_count): (&AtomicU64, &AtomicU64),
    half_closed_limit: Duration,
    pipes: &PipePool,
) -> End {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_upstream, mut to_upstream) = upstream.split();
    let mut up = Half::default();
    let mut down = Half::new(early, tunnel);

    let first = poll_fn(|cx| {
        match up.poll(cx, &mut from_client, &mut to_upstream, up_count, pipes) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(Side::Client)),
            Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken.into_end(Side::Client))),
            Poll::Pending => {}
        }
        match down.poll(cx, &mut from_upstream, &mut to_client, down_count, pipes) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Side::Upstream)),
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken.into_end(Side::Upstream))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let closed = match first {
        Ok(side) => side,
        Err(end) => return end,
    };

    match closed {
        Side::Client => {
            let half = HalfClosed { half: &mut down, count: down_count, closed, open: Side::Upstream };
            half.finish(&mut from_upstream, &mut to_client, from_client.as_ref(), half_closed_limit, pipes)
                .await
        }
        Side::Upstream => {
            let half = HalfClosed { half: &mut up, count: up_count, closed, open: Side::Client };
            half.finish(&mut from_client, &mut to_upstream, from_upstream.as_ref(), half_closed_limit, pipes)
                .await
        }
    }
}

/// A relay of which one direction has ended.
struct HalfClosed<'a> {
    half: &'a mut Half<'a>,
    count: &'a AtomicU64,
    closed: Side,
    open: Side,
}

impl HalfClosed<'_> {
    /// Carries the direction that is left. `watched` is the closed end's socket: it is not read any more, so that its
    /// RST would go unseen.
    async fn finish(
        self,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        watched: &TcpStream,
        silence_limit: Duration,
        pipes: &PipePool,
    ) -> End {
        let Self { half, count, closed, open } = self;
        half.set_last();
        let mut failed = pin!(watched.ready(Interest::ERROR));
        let mut seen = progress(count, from, watched);
        loop {
            let mut silence = pin!(tokio::time::sleep(silence_limit));
            let step = poll_fn(|cx| {
                match half.poll(cx, from, to, count, pipes) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Some(End::Closed)),
                    Poll::Ready(Err(broken)) => return Poll::Ready(Some(broken.into_end(open))),
                    Poll::Pending => {}
                }
                if failed.as_mut().poll(cx).is_ready() {
                    let error = watched.take_error().ok().flatten();
                    let error = error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
                    return Poll::Ready(Some(End::Reset { by: closed, error }));
                }
                silence.as_mut().poll(cx).map(|()| None)
            })
            .await;
            if let Some(end) = step {
                return end;
            }
            let now = progress(count, from, watched);
            if now == seen {
                return End::Silent;
            }
            seen = now;
        }
    }
}

/// What changes for as long as anything moves: what was passed on, and what the two ends have yet to take out of the
/// kernel's buffers. That may take them long, and nothing else is seen to move meanwhile.
fn progress(count: &AtomicU64, from: &ReadHalf<'_>, watched: &TcpStream) -> (u64, u32, u32) {
    (count.load(Ordering::Relaxed), unacknowledged(from.as_ref()), unacknowledged(watched))
}

#[cfg(test)]
mod tests;
