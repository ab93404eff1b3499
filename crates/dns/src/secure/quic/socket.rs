//! A protected socket, connected to its server, as the transport wants it.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use oneway_egress::Protected;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

pub(super) struct Socket {
    inner: Protected<UdpSocket>,
    server: SocketAddr,
    /// What went wrong last; the kernel says it once, to whoever uses the socket next.
    said: Mutex<Option<io::Error>>,
    has_said: Notify,
}

impl Socket {
    pub(super) fn new(inner: Protected<UdpSocket>, server: SocketAddr) -> Self {
        Self { inner, server, said: Mutex::default(), has_said: Notify::new() }
    }

    /// What the host or, by ICMP, the network says of what was sent. Never ends as long as it says nothing.
    pub(super) async fn error(&self) -> io::Error {
        let taken = self.inner.async_io(Interest::ERROR, || match self.inner.take_error() {
            Ok(Some(error)) | Err(error) => Err::<Infallible, _>(error),
            Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
        });
        tokio::select! {
            Err(error) = taken => error,
            () = self.has_said.notified() => self.said.lock().take().unwrap_or(io::ErrorKind::Other.into()),
        }
    }

    /// It ends no connection that there is, as anybody could send such ICMP (RFC 9000, 14.2.1).
    fn note(&self, error: io::Error) {
        tracing::debug!(%error, server = %self.server, "a DNS server cannot be reached");
        *self.said.lock() = Some(error);
        self.has_said.notify_one();
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.inner.try_send(transmit.contents) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // The transport sends it again.
            Err(error) => {
                self.note(error);
                Ok(())
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let mut buffer = ReadBuf::new(buffer);
        while let Err(error) = ready!(self.inner.poll_recv(cx, &mut buffer)) {
            self.note(error);
        }
        let len = buffer.filled().len();
        *meta = RecvMeta::default();
        (meta.addr, meta.len, meta.stride) = (self.server, len, len);
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

struct Writable(Arc<Socket>);

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.inner.poll_send_ready(cx)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("server", &self.server).finish_non_exhaustive()
    }
}
