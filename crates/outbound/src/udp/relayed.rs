//! Datagrams behind a relay's header.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::UdpCounters;
use crate::socks5::datagram::{Rejected, Source, decode_header};

/// So many names that datagrams were sent to are remembered, for relays that answer with names.
const NAMES: usize = 32;

/// What is remembered and counted of them.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    names: Mutex<Vec<(Arc<str>, SocketAddr)>>,
    foreign: AtomicU64,
    fragments: AtomicU64,
    malformed: AtomicU64,
}

impl Relayed {
    /// Counts one that came from somebody else.
    pub(super) fn is_foreign(&self) {
        self.foreign.fetch_add(1, Relaxed);
    }

    /// The payload of a received datagram, and its true source; none if it is to be dropped.
    pub(super) fn unwrap(&self, slot: &[u8], datagram: Range<usize>) -> Option<(Range<usize>, SocketAddr)> {
        match decode_header(slot.get(datagram.clone()).unwrap_or_default()) {
            Ok(header) => match self.source(header.source) {
                Some(source) => return Some((datagram.start + header.len..datagram.end, source)),
                None => self.malformed.fetch_add(1, Relaxed),
            },
            Err(Rejected::Fragment) => self.fragments.fetch_add(1, Relaxed),
            Err(Rejected::Malformed) => self.malformed.fetch_add(1, Relaxed),
        };
        None
    }

    /// Remembers by which address the client knows a name that a datagram goes to.
    pub(super) fn remember(&self, host: &Arc<str>, addr: SocketAddr) {
        let mut names = self.names.lock();
        if names.last().is_some_and(|(name, at)| *at == addr && name == host) {
            return;
        }
        names.retain(|(name, at)| at.port() != addr.port() || name != host);
        if names.len() == NAMES {
            names.remove(0);
        }
        names.push((Arc::clone(host), addr));
    }

    pub(super) fn counters(&self) -> UdpCounters {
        UdpCounters {
            foreign: self.foreign.load(Relaxed),
            fragments: self.fragments.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
        }
    }

    /// The address of a source. A name is that of a destination: the client knows it by the address it used.
    fn source(&self, source: Source<'_>) -> Option<SocketAddr> {
        match source {
            Source::Ip(addr) => Some(addr),
            Source::Name(name, port) => {
                let names = self.names.lock();
                let mut known = names.iter().rev();
                known.find(|(known, at)| at.port() == port && **known == *name).map(|(_, at)| *at)
            }
        }
    }
}
