//! The outbound's side of a connection.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use oneway_egress::{FlowEnd, Protected, Registered};
use oneway_flow::{poll_read_by, reset_on_close};
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What the kernel joins to one packet at most: 64 KiB without room for headers (`sk_setup_caps`, net/core/sock.c).
const LONGEST_SENT: u16 = u16::MAX - 320;

/// A write of this length shows a transfer.
const TRANSFER: usize = 16 * 1024;

/// What a transfer leaves unsent in its socket. More of it is sent later by whoever acknowledges, from memory that has left the
/// cache by then; with 64 KiB the whole of both cores had 6 % less to do for a byte than with the 4 MB that the kernel takes.
const UNSENT: u32 = 64 * 1024;

/// The outbound's socket, each half as far as it is open.
pub(super) struct Upstream {
    /// Before the socket, so that it is dropped before.
    _registered: Option<Registered>,
    /// To the tunnel, where the socket leads to one.
    tie: Option<FlowEnd>,
    /// Resolves when the socket has failed, which nobody learns who does not read. Made when it is first asked for: most
    /// sockets are always read.
    failed: Option<Pin<Box<dyn Future<Output = io::Error>>>>,
    stream: Arc<TcpStream>,
    /// All was read.
    ended: bool,
    shut: bool,
    held: Held,
    /// Was written to by [`TRANSFER`] at once; what it leaves unsent is bounded.
    is_transfer: bool,
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

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("ended", &self.ended()).field("shut", &self.shut).finish()
    }
}

impl Upstream {
    pub(super) fn new(mut stream: Protected<TcpStream>) -> Self {
        let tie = stream.take_tie();
        let (stream, registered) = stream.into_parts();
        Self::of(stream, registered, tie)
    }

    pub(super) fn of(stream: TcpStream, registered: Option<Registered>, tie: Option<FlowEnd>) -> Self {
        Self {
            _registered: registered,
            tie,
            failed: None,
            stream: Arc::new(stream),
            ended: false,
            shut: false,
            held: Held::No,
            is_transfer: false,
        }
    }

    /// Holds back what is to be sent, or lets it go. Whoever lets it go sees to it that it is tried again.
    pub(super) fn hold(&mut self, held: Held) {
        self.held = held;
    }

    /// Whether everything was read.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether no more can be written.
    pub(super) fn shut(&self) -> bool {
        self.shut
    }

    /// Bytes written that the far end has not acknowledged.
    pub(super) fn unacknowledged(&self) -> u32 {
        oneway_flow::unacknowledged(&self.stream)
    }

    /// Data of the segments that the client is to send, of which `room` bytes fit into one: a whole number of those that leave
    /// here. `None` if that is not known, or too few of them fit.
    pub(super) fn client_segment(&self, room: u16) -> Option<u16> {
        client_segment(oneway_flow::segment_size(&self.stream)?, room)
    }

    /// Reads into `buffers`, one after the other, which have room; 0 at the end of the stream.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.ended || self.held == Held::Both {
            return Poll::Pending;
        }
        let stream = &*self.stream;
        let room: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let read = poll_read_by(cx, stream, room, || {
            Ok(match buffers {
                [buffer] => rustix::net::recv(stream, &mut **buffer, RecvFlags::empty())?.0,
                _ => rustix::io::readv(stream, buffers)?,
            })
        });
        match ready!(read)? {
            0 if self.tie.as_ref().is_some_and(FlowEnd::is_cut) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            len => Poll::Ready(Ok(len)),
        }
    }

    /// Reads what a socket that has failed still has, whatever the reactor knows of it by now.
    pub(super) fn read_rest(&self, buffers: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        match rustix::io::readv(&*self.stream, buffers) {
            Err(rustix::io::Errno::AGAIN) => Poll::Pending,
            read => Poll::Ready(read.map_err(io::Error::from)),
        }
    }

    /// Stops reading, after the end of the stream.
    pub(super) fn end_reading(&mut self) {
        self.ended = true;
    }

    /// Ready when the socket has failed, or what carries the tunnel behind it, for one that is not read.
    pub(super) fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let failed = self.failed.get_or_insert_with(|| {
            if let Some(tie) = &self.tie {
                let failed = tie.failed();
                return Box::pin(async {
                    failed.await;
                    io::ErrorKind::ConnectionReset.into()
                });
            }
            let stream = Arc::clone(&self.stream);
            Box::pin(async move {
                let ready = stream.ready(Interest::ERROR).await;
                let error = ready.and_then(|_| stream.take_error()).ok().flatten();
                error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
            })
        });
        let error = ready!(failed.as_mut().poll(cx));
        self.failed = None;
        Poll::Ready(error)
    }

    /// Writes what the socket takes now. With `more` an incomplete segment at the end may wait for what comes next
    /// (`MSG_MORE`): a superpacket is no multiple of the segment size beyond, and each would leave a scrap behind.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        if self.held != Held::No {
            return Poll::Pending;
        }
        if bytes.len() >= TRANSFER && !self.is_transfer {
            self.is_transfer = true;
            oneway_flow::bound_unsent(&self.stream, UNSENT);
        }
        let stream = &*self.stream;
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
            let _ = SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Closes the socket with a reset (`SO_LINGER` with time 0).
    pub(super) fn reset(self) {
        reset_on_close(&self.stream);
        if let Some(tie) = &self.tie {
            tie.reset();
        }
    }
}

/// Of the client's segments the kernel makes packets of [`LONGEST_SENT`], which are to hold as many of ours as fit. What is
/// beyond whole ones would leave as a packet of its own wherever the client pauses. One segment for each packet would do, but
/// Linux gives a sender a buffer of twenty segments at least (`tcp_sndbuf_expand`, net/ipv4/tcp_input.c), and what waits
/// there has left the cache when it is read.
fn client_segment(segment: NonZeroU16, room: u16) -> Option<u16> {
    let sizes = (3..=8).map_while(|count| segment.checked_mul(NonZeroU16::new(count)?));
    let fit = sizes.take_while(|size| size.get() <= room.min(LONGEST_SENT));
    fit.max_by_key(|&size| LONGEST_SENT / size * size.get()).map(NonZeroU16::get)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "both ends are of this test")]

    use super::*;

    #[test]
    fn a_client_sends_what_leaves_as_whole_segments() {
        let client_segment = |segment, room| client_segment(NonZeroU16::new(segment).unwrap(), room);
        // 45 segments of Ethernet with timestamps are nine of the client's.
        assert_eq!(client_segment(1448, 65_483), Some(5 * 1448));
        assert_eq!(client_segment(1448, 8948), Some(5 * 1448));
        assert_eq!(client_segment(8948, 65_483), Some(7 * 8948));
        for (segment, room) in [(1448, 1448), (1448, 4000), (65_483, 65_483), (32_000, 65_483)] {
            assert_eq!(client_segment(segment, room), None, "{segment} in {room}");
        }
        for segment in 1..u16::MAX {
            let Some(asked) = client_segment(segment, 65_483) else { continue };
            let packet = LONGEST_SENT / asked * asked;
            assert_eq!((asked % segment, packet % segment), (0, 0));
            let most = LONGEST_SENT / segment * segment;
            assert!(most - packet <= most / 5, "{packet} of {most} in segments of {segment}");
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    mod unsent {
        use super::*;

        /// What a far end takes that reads nothing, in writes of `len` bytes.
        async fn taken(len: usize) -> usize {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let _far_end = listener.accept().await.unwrap();
            let mut upstream = Upstream::of(stream, None, None);
            let bytes = vec![0; len];
            let mut taken = 0;
            let mut cx = Context::from_waker(std::task::Waker::noop());
            while let Poll::Ready(written) = upstream.poll_write(&mut cx, &bytes, false) {
                taken += written.unwrap();
            }
            taken
        }

        #[tokio::test]
        async fn a_transfer_leaves_little_in_its_socket() {
            // The far end's window is 64 KiB, and a packet may be under way to each bound.
            let bound = UNSENT as usize + 4 * 65_536;
            let (short, long) = (taken(TRANSFER - 1).await, taken(TRANSFER).await);
            assert!(short > 2 * bound && long <= bound, "{short} and {long} bytes");
        }
    }
}
