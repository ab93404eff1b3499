//! Systems where whose a socket is cannot be asked yet: nobody's, so that no rule about users or programs matches.

use std::net::SocketAddr;

use super::Owner;
use crate::Network;

/// There is none.
#[derive(Debug)]
pub enum SocketTable {}

#[derive(Debug, Default)]
pub(super) struct Sockets;

/// There is none.
pub(super) enum Socket {}

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

    pub(super) fn owner(&mut self, socket: Socket, _with_process: bool) -> Owner {
        match socket {}
    }
}

pub(super) fn is_orphan(_source: SocketAddr, _destination: SocketAddr) -> bool {
    false
}
