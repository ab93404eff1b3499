//! Systems where whose a socket is cannot be asked yet: nobody's, so that no rule about users or programs matches.

use std::net::SocketAddr;

use super::Owner;
use crate::Network;

/// There is none.
#[derive(Debug)]
pub enum SocketTable {}

#[derive(Clone, Copy, Debug)]
pub(super) enum Socket {}

impl Socket {
    pub(super) fn uid(self) -> u32 {
        match self {}
    }

    pub(super) fn owner(self) -> Owner {
        match self {}
    }
}

#[derive(Debug, Default)]
pub(super) struct Sockets;

impl Sockets {
    pub(super) fn of(table: SocketTable) -> Self {
        match table {}
    }

    pub(super) fn find(
        &mut self,
        _network: Network,
        _source: SocketAddr,
        _destination: SocketAddr,
    ) -> Vec<Socket> {
        Vec::new()
    }
}

#[derive(Debug, Default)]
pub(super) struct Programs;

impl Programs {
    pub(super) fn find(&mut self, socket: Socket) -> Owner {
        match socket {}
    }
}

/// There is no right that would help.
pub(super) fn sees_programs() -> bool {
    true
}

pub(super) fn is_orphan(_source: SocketAddr, _destination: SocketAddr) -> bool {
    false
}
