//! Systems where a socket cannot choose its congestion control.

use socket2::{SockRef, Socket};

#[derive(Debug, Default)]
pub(crate) struct Congestion;

impl Congestion {
    pub(crate) fn of_host() -> Self {
        Self
    }

    pub(crate) fn before_connect(&self, _socket: &Socket) {}

    pub(crate) fn connected(&self, _socket: &SockRef<'_>) {}
}
