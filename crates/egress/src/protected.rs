//! The type that says "this socket cannot loop".

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{FlowEnd, Registered};

/// A socket that [`Egress`](crate::Egress) has made, protected, and read back.
///
/// Only this crate can construct one, so a function that takes `Protected<TcpStream>` cannot be handed a socket
/// that would be captured.
pub struct Protected<S> {
    /// Before the socket, as it is to be dropped before: a closed descriptor's number is soon another's.
    registered: Option<Registered>,
    /// To the tunnel, where the socket leads to one.
    tie: Option<FlowEnd>,
    socket: S,
}

impl<S> Protected<S> {
    pub(crate) fn new(socket: S, registered: Option<Registered>) -> Self {
        Self { registered, tie: None, socket }
    }

    pub(crate) fn tied(self, tie: FlowEnd) -> Self {
        Self { tie: Some(tie), ..self }
    }

    /// Takes what a flow and its tunnel tell each other by, where there is a tunnel. For the flow's owner, who keeps it as
    /// long as the socket.
    pub fn take_tie(&mut self) -> Option<FlowEnd> {
        self.tie.take()
    }

    /// Whether there is a tunnel, which holds two descriptors besides: its end of the pair, and a socket.
    pub fn is_tunnel(&self) -> bool {
        self.tie.is_some()
    }

    /// Returns the socket, for APIs that want it by value, and its place among our own sockets, which is to be dropped
    /// **before** the socket is closed.
    pub fn into_parts(self) -> (S, Option<Registered>) {
        (self.socket, self.registered)
    }
}

impl<S> Deref for Protected<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.socket
    }
}

impl<S> DerefMut for Protected<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.socket
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Protected<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Protected<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S: fmt::Debug> fmt::Debug for Protected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Protected").field(&self.socket).finish()
    }
}
