//! Datagrams behind a relay's header.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use oneway_flow::Target;
use parking_lot::Mutex;

use super::UdpCounters;
use crate::socks5::datagram::{HEADER_MAX, Rejected, Source, decode_header, encode_header};

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
    /// Writes the header of a datagram to `dst`, and remembers what an answer may call it; the header's length.
    ///
    /// # Errors
    /// That nobody can be asked for by such a name.
    pub(super) fn header(&self, header: &mut [u8; HEADER_MAX], dst: &Target) -> io::Result<usize> {
        let len = encode_header(header, dst)
            // Nobody is there by such a name.
            .map_err(|fault| io::Error::new(io::ErrorKind::HostUnreachable, fault))?;
        if let Some(host) = &dst.host {
            self.remember(host, dst.addr);
        }
        Ok(len)
    }

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

    /// Hands the payloads of datagrams of `size` bytes on, of which the last may be shorter. Those that follow each other
    /// and have the same header are handed on together: where they lie, one behind the other.
    pub(super) fn unwrap_joined(
        &self,
        slot: &mut [u8],
        received: Range<usize>,
        size: usize,
        each: &mut impl FnMut(&mut [u8], Range<usize>, usize, SocketAddr),
    ) {
        let size = size.max(1);
        let mut at = received.start;
        loop {
            let datagram = at..received.end.min(at + size);
            at = datagram.end;
            if let Some((first, source)) = self.unwrap(slot, datagram.clone()) {
                let header = datagram.start..first.start;
                let mut run = first.clone();
                // Without payload there is nothing that would tell how many there are.
                while at < received.end && !first.is_empty() {
                    let next = at..received.end.min(at + size);
                    let behind = at..(at + header.len()).min(next.end);
                    // The same is true of the last one.
                    if behind.end == next.end || slot.get(behind.clone()) != slot.get(header.clone()) {
                        break;
                    }
                    slot.copy_within(behind.end..next.end, run.end);
                    run.end += next.end - behind.end;
                    at = next.end;
                }
                each(slot, run, first.len().max(1), source);
            }
            if at >= received.end {
                return;
            }
        }
    }

    /// Remembers by which address the client knows a name that a datagram goes to.
    fn remember(&self, host: &Arc<str>, addr: SocketAddr) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 10] = [0, 0, 0, 1, 192, 0, 2, 1, 0, 53];
    const B: [u8; 10] = [0, 0, 0, 1, 192, 0, 2, 2, 0, 53];
    const FRAGMENT: [u8; 10] = [0, 0, 1, 1, 192, 0, 2, 1, 0, 53];

    /// What is handed on of these datagrams, which lie behind some bytes of headroom: source and payloads.
    fn handed_on(relayed: &Relayed, datagrams: &[(&[u8], &[u8])]) -> Vec<(String, Vec<Vec<u8>>)> {
        let mut slot = vec![0xee; 7];
        for (header, payload) in datagrams {
            slot.extend_from_slice(header);
            slot.extend_from_slice(payload);
        }
        let size = datagrams.first().map_or(0, |(header, payload)| header.len() + payload.len());
        let all = 7..slot.len();
        let mut seen = Vec::new();
        relayed.unwrap_joined(&mut slot, all, size, &mut |slot, run, size, source| {
            let payloads = match slot[run].chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>() {
                none if none.is_empty() => vec![Vec::new()],
                some => some,
            };
            seen.push((source.to_string(), payloads));
        });
        seen
    }

    fn from(source: &str, payloads: &[&[u8]]) -> (String, Vec<Vec<u8>>) {
        (source.to_owned(), payloads.iter().map(|payload| payload.to_vec()).collect())
    }

    #[test]
    fn datagrams_of_one_source_stay_together() {
        let relayed = Relayed::default();
        let (a, b) = ("192.0.2.1:53", "192.0.2.2:53");
        assert_eq!(handed_on(&relayed, &[(&A, b"one")]), [from(a, &[b"one"])]);
        assert_eq!(
            handed_on(&relayed, &[(&A, b"one"), (&A, b"two"), (&A, b"3")]),
            [from(a, &[b"one", b"two", b"3"])]
        );
        assert_eq!(
            handed_on(&relayed, &[(&A, b"one"), (&B, b"two"), (&B, b"six"), (&A, b"end")]),
            [from(a, &[b"one"]), from(b, &[b"two", b"six"]), from(a, &[b"end"])]
        );
        assert_eq!(handed_on(&relayed, &[(&A, b""), (&A, b"")]), [from(a, &[b""]), from(a, &[b""])]);
        assert_eq!(handed_on(&relayed, &[(&A, b"one"), (&A, b"")]), [from(a, &[b"one"]), from(a, &[b""])]);
        assert_eq!(relayed.counters(), UdpCounters::default());
    }

    #[test]
    fn what_is_dropped_takes_no_neighbour_with_it() {
        let relayed = Relayed::default();
        let a = "192.0.2.1:53";
        assert_eq!(
            handed_on(&relayed, &[(&A, b"one"), (&FRAGMENT, b"two"), (&A, b"six"), (&[0, 0, 0], b"")]),
            [from(a, &[b"one"]), from(a, &[b"six"])]
        );
        let counted = UdpCounters { foreign: 0, fragments: 1, malformed: 1 };
        assert_eq!(relayed.counters(), counted);
        assert_eq!(handed_on(&relayed, &[]), []);
        assert_eq!(relayed.counters().malformed, 2);
    }
}
