//! The type that says "this socket cannot loop".

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A socket that [`Egress`](crate::Egress) has made, protected, and read back.
///
/// Only this crate can construct one, so a function that takes `Protected<TcpStream>` cannot be handed a socket
/// that would be captured.
pub struct Protected<S>(S);

impl<S> Protected<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self(socket)
    }

    /// Gives up the proof and returns the socket, for APIs that want it by value.
    pub fn into_inner(self) -> S {
        self.0
    }
}

impl<S> Deref for Protected<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S> DerefMut for Protected<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.0
    }
}

impl<S: fmt::Debug> fmt::Debug for Protected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Protected").field(&self.0).finish()
    }
}
