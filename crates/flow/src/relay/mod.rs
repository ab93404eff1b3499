//! Carrying bytes between a client's socket and the outbound's, both ways.

mod direction;
mod half;
mod sending;
mod splice;

use std::future::{Future, poll_fn};
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::stream::{HEARD, SEEN, reset_on_close};
use direction::{Direction, Passed};
pub(crate) use sending::is_at_mark;
pub use sending::{bound_unsent, segment_size, unacknowledged};
pub use splice::{PipePool, block_sigpipe};

/// One of the two ends of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The captured program's socket.
    Client,
    /// The outbound's socket.
    Upstream,
}

impl Side {
    /// The one at the other end.
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
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
    /// Resolves when what carries it has failed, for an end that takes nothing of what was delivered.
    fn failed(&self) -> Pin<Box<dyn Future<Output = ()>>>;
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

impl<S: Deref<Target = TcpStream>> Relay<'_, S> {
    /// Carries bytes until both ends are closed, one fails, or `stop` resolves.
    ///
    /// A FIN travels as a FIN (half-close) and a RST as a RST, also to an end that takes nothing; and not before the client could have
    /// heard what came before it.
    pub async fn run(self, pipes: &PipePool, stop: impl Future<Output = ()>) -> End {
        let Self { client, upstream, tunnel, early, up, down, half_closed_limit } = self;
        let begun = Instant::now();
        let carried = async {
            let end = carry(&client, &upstream, tunnel, early, (up, down), half_closed_limit, pipes).await;
            let is_by_server = matches!(end, End::Reset { by: Side::Upstream, .. });
            if is_by_server && down.load(Relaxed) > 0 && begun.elapsed() < SEEN {
                tokio::time::sleep(HEARD).await;
            }
            end
        };
        let end = tokio::select! {
            end = carried => end,
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

async fn carry(
    client: &TcpStream,
    upstream: &TcpStream,
    tunnel: Option<&dyn Tunnel>,
    early: Vec<u8>,
    (up_count, down_count): (&AtomicU64, &AtomicU64),
    half_closed_limit: Duration,
    pipes: &PipePool,
) -> End {
    let mut up = Direction::new((client, Side::Client), upstream, up_count, Vec::new(), None);
    // A client that is gone is not told, and would never ask.
    up.end_silent(half_closed_limit, down_count);
    let mut down = Direction::new((upstream, Side::Upstream), client, down_count, early, tunnel);
    let first = poll_fn(|cx| {
        if let Poll::Ready(passed) = up.poll(cx, pipes) {
            return Poll::Ready(passed.map(|passed| (Side::Client, passed)));
        }
        down.poll(cx, pipes).map(|passed| passed.map(|passed| (Side::Upstream, passed)))
    })
    .await;
    match first {
        Ok((Side::Client, Passed::Whole)) => down.finish(half_closed_limit, pipes).await,
        Ok((Side::Upstream, Passed::Whole)) => up.finish(half_closed_limit, pipes).await,
        Ok((Side::Client, Passed::Refused(error))) => down.finish_cut(error, pipes).await,
        Ok((Side::Upstream, Passed::Refused(error))) => up.finish_cut(error, pipes).await,
        Ok((Side::Client, Passed::Part)) => up.finish_failed(pipes).await,
        Ok((Side::Upstream, Passed::Part)) => down.finish_failed(pipes).await,
        Err(end) => end,
    }
}

#[cfg(test)]
mod tests;
