//! One direction of a relay between its two sockets, from both being open to its end.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::half::{Broken, Half};
use super::{End, PipePool, Side, Tunnel, unacknowledged};

/// How often it is looked whether an end takes what the other one sent before its reset, and how often in vain.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 10;

/// A direction and its sockets.
pub(super) struct Direction<'a> {
    half: Half<'a>,
    from: &'a TcpStream,
    /// Which end `from` is.
    side: Side,
    to: &'a TcpStream,
    count: &'a AtomicU64,
    /// What `from` leads to, if not to a network: such sockets have no resets of their own.
    tunnel: Option<&'a (dyn Tunnel + 'a)>,
    /// Resolves when `from` has failed, which nobody learns who does not read. Made when it is first asked for: most
    /// directions never wait.
    failed: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    /// How long it may wait for room behind the end of its stream with nothing moving, and what counts the other direction.
    silence: Option<(Duration, &'a AtomicU64)>,
    /// Made when it first waits.
    watch: Option<Watch>,
}

/// What had moved when it was last looked, and when to look again.
struct Watch {
    seen: Moved,
    again: Pin<Box<Sleep>>,
}

/// What changes for as long as anything moves or ends: both directions' counts, what the two ends have yet to take out of the
/// kernel's buffers, and whether the near end has said all.
type Moved = ((u64, u32, u32), u64, bool);

/// How much of it a direction has passed on.
pub(super) enum Passed {
    /// All of it, and its end.
    Whole,
    /// What its far end took. The near one has failed meanwhile.
    Part,
    /// What its far end took before it failed.
    Refused(io::Error),
}

impl<'a> Direction<'a> {
    /// From the end `side`, with these bytes to deliver first. `tunnel` is what `from` leads to, if not to a network.
    pub(super) fn new(
        (from, side): (&'a TcpStream, Side),
        to: &'a TcpStream,
        count: &'a AtomicU64,
        early: Vec<u8>,
        tunnel: Option<&'a (dyn Tunnel + 'a)>,
    ) -> Self {
        Self {
            half: Half::new(early, tunnel),
            from,
            side,
            to,
            count,
            tunnel,
            failed: None,
            silence: None,
            watch: None,
        }
    }

    /// Ends it when its near end has said all, some of that waits, and nothing moves either way for so long.
    pub(super) fn end_silent(&mut self, limit: Duration, other: &'a AtomicU64) {
        self.silence = Some((limit, other));
    }

    /// Moves bytes until there are none, or none can be taken. Ready at the end of the stream, and when `from` fails or is silent
    /// while `to` takes nothing.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, pipes: &PipePool) -> Poll<Result<Passed, End>> {
        match self.half.poll(cx, self.from, self.to, self.count, pipes) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Passed::Whole)),
            Poll::Ready(Err(Broken::Write(error))) => Poll::Ready(Ok(Passed::Refused(error))),
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken.into_end(self.side))),
            Poll::Pending if self.half.waits_for_room() => {
                if self.is_silent(cx) {
                    return Poll::Ready(Err(End::Silent));
                }
                let (from, tunnel) = (self.from, self.tunnel);
                let failed = self.failed.get_or_insert_with(|| match tunnel {
                    Some(tunnel) => tunnel.failed(),
                    None => Box::pin(async move {
                        let _ = from.ready(Interest::ERROR).await;
                    }),
                });
                failed.as_mut().poll(cx).map(|()| Ok(Passed::Part))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Carries what is left after the other direction has ended, and so `to` is not read any more.
    pub(super) async fn finish(mut self, silence_limit: Duration, pipes: &PipePool) -> End {
        self.half.set_last();
        let to = self.to;
        let mut failed = pin!(to.ready(Interest::ERROR));
        let mut seen = self.progress();
        loop {
            let mut silence = pin!(tokio::time::sleep(silence_limit));
            let step = poll_fn(|cx| {
                if let Poll::Ready(passed) = self.poll(cx, pipes) {
                    return Poll::Ready(Some(passed));
                }
                if failed.as_mut().poll(cx).is_ready() {
                    let by = self.side.other();
                    return Poll::Ready(Some(Err(End::Reset { by, error: failure(to) })));
                }
                silence.as_mut().poll(cx).map(|()| None)
            })
            .await;
            match step {
                Some(Ok(Passed::Whole)) => return End::Closed,
                Some(Ok(Passed::Part)) => return self.finish_failed(pipes).await,
                Some(Ok(Passed::Refused(error))) => return End::Reset { by: self.side.other(), error },
                Some(Err(end)) => return end,
                None => {}
            }
            let now = self.progress();
            if now == seen {
                return End::Silent;
            }
            seen = now;
        }
    }

    /// Carries what `from` said before it failed, of which writing to it has told: who answers and resets at once is heard.
    pub(super) async fn finish_cut(mut self, error: io::Error, pipes: &PipePool) -> End {
        self.half.set_cut();
        let by = self.side;
        self.finish_failed(pipes).await;
        End::Reset { by, error }
    }

    /// Carries what came before `from` failed, for as long as `to` takes any of it.
    ///
    /// A client that reads slowly misses nothing that it would have had without a relay; one that reads nothing is told at
    /// once. The failure stays in the socket meanwhile: it is what reading comes to behind the last byte.
    pub(super) async fn finish_failed(mut self, pipes: &PipePool) -> End {
        let mut end = None;
        let mut seen = self.progress();
        let mut in_vain = 0;
        while in_vain < LOOKS {
            let mut pause = pin!(tokio::time::sleep(LOOK));
            poll_fn(|cx| {
                if end.is_none()
                    && let Poll::Ready(done) = self.half.poll(cx, self.from, self.to, self.count, pipes)
                {
                    end = Some(done.map_err(|broken| broken.into_end(self.side)));
                    return Poll::Ready(());
                }
                pause.as_mut().poll(cx)
            })
            .await;
            if end.is_some() && unacknowledged(self.to) == 0 {
                break;
            }
            let now = self.progress();
            in_vain = if now == seen { in_vain + 1 } else { 0 };
            seen = now;
        }
        match end {
            Some(Err(end)) => end,
            _ => End::Reset { by: self.side, error: failure(self.from) },
        }
    }

    /// Whether nothing moves any more behind the end of the stream. Looks when the time comes, and asks to be woken then.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((limit, other)) = self.silence else { return false };
        let progress = self.progress();
        let closed = self.half.is_at_end() || is_read_closed(self.from);
        let now: Moved = (progress, other.load(Ordering::Relaxed), closed);
        let watch = self.watch.get_or_insert_with(|| Watch { seen: now, again: Box::pin(sleep(limit)) });
        while watch.again.as_mut().poll(cx).is_ready() {
            if closed && watch.seen == now {
                return true;
            }
            watch.seen = now;
            watch.again.as_mut().reset(Instant::now() + limit);
        }
        false
    }

    /// What changes for as long as anything moves: what was passed on, and what the two ends have yet to take out of the
    /// kernel's buffers. That may take them long, and nothing else is seen to move meanwhile.
    fn progress(&self) -> (u64, u32, u32) {
        (self.count.load(Ordering::Relaxed), unacknowledged(self.from), unacknowledged(self.to))
    }
}

/// Whether the peer of `socket` has said all, though not all of it may be read (`EPOLLRDHUP`, epoll_ctl(2)).
fn is_read_closed(socket: &TcpStream) -> bool {
    let ready = pin!(socket.ready(Interest::READABLE));
    let ready = ready.poll(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

/// Why a socket has failed.
fn failure(socket: &TcpStream) -> io::Error {
    socket.take_error().ok().flatten().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}
