//! The names that clients' first QUIC packets tell.
//!
//! A datagram of which the address is known alone, and that begins a QUIC connection, is kept until its ClientHello is
//! complete, mostly at once. What was found is remembered for all that its client sends there, which is unreadable. So is a name
//! that is known otherwise when the connection begins.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use oneway_sniff::{Quic, Sniffed, is_initial};
use parking_lot::Mutex;

use crate::worker::Worker;
use crate::worker::ask::Kept;

/// Connections that are remembered; the one that was heard of longest ago gives way.
const MOST: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();
/// Of those, connections of which datagrams are kept.
const MOST_ASKED: usize = 256;
/// Datagrams of one connection that are kept.
const DATAGRAMS: usize = 8;
/// A client that begins a connection again after so long is asked again: its socket's number may be another's by now.
const FRESH: Duration = Duration::from_secs(10);

/// Who sends where to.
type Key = (SocketAddr, SocketAddr);

/// What is known of clients' connections. Shared by all workers: a client's datagrams may come to any of them.
#[derive(Debug)]
pub(crate) struct QuicNames(Mutex<Known>);

#[derive(Debug)]
struct Known {
    connections: LruCache<Key, Connection>,
    asked: usize,
}

#[derive(Debug)]
enum Connection {
    Asked { quic: Quic, kept: Vec<Kept> },
    Known { name: Option<Arc<str>>, since: Instant },
}

/// What is to be done with a datagram.
#[derive(Debug)]
enum Next {
    /// It goes on, with this name if there is one.
    Go(Option<Arc<str>>),
    /// It is kept, as the first of its connection.
    Wait,
    /// It is kept as others are, or lost.
    Kept,
    /// These go on before it.
    GoOn(Vec<Kept>),
}

impl Default for QuicNames {
    fn default() -> Self {
        Self(Mutex::new(Known { connections: LruCache::new(MOST), asked: 0 }))
    }
}

impl Known {
    /// Remembers the answer. Returns the datagrams that waited for it.
    fn answer(&mut self, key: Key, name: Option<Arc<str>>) -> Vec<Kept> {
        let known = Connection::Known { name, since: Instant::now() };
        match self.connections.push(key, known) {
            Some((_, Connection::Asked { kept, .. })) => {
                self.asked -= 1;
                kept
            }
            _ => Vec::new(),
        }
    }

    /// `known` is the name that the address was asked for by, if that is beyond doubt.
    fn next<'a>(
        &mut self,
        key: Key,
        known: Option<Arc<str>>,
        packet: impl FnOnce() -> Option<Kept>,
        payloads: impl Iterator<Item = &'a [u8]>,
    ) -> Next {
        let mut payloads = payloads.peekable();
        let begins = payloads.peek().is_some_and(|first| is_initial(first));
        match self.connections.get_mut(&key) {
            Some(Connection::Known { name, since }) if !begins || since.elapsed() < FRESH => {
                return Next::Go(name.clone());
            }
            Some(Connection::Asked { quic, kept }) => {
                let found = look(quic, payloads);
                if kept.len() < DATAGRAMS {
                    kept.extend(packet());
                }
                let name = match found {
                    Sniffed::More => return Next::Kept,
                    Sniffed::Nothing => None,
                    Sniffed::Name(name) => Some(name.into()),
                };
                return Next::GoOn(self.answer(key, name));
            }
            _ if !begins => return Next::Go(known),
            _ if known.is_some() => {
                drop(self.answer(key, known.clone()));
                return Next::Go(known);
            }
            _ => {}
        }
        let mut quic = Quic::default();
        let found = look(&mut quic, payloads);
        if found == Sniffed::More
            && self.asked < MOST_ASKED
            && let Some(packet) = packet()
        {
            self.asked += 1;
            let asked = Connection::Asked { quic, kept: vec![packet] };
            if let Some((_, Connection::Asked { .. })) = self.connections.push(key, asked) {
                self.asked -= 1;
            }
            return Next::Wait;
        }
        let name = match found {
            Sniffed::Name(name) => Some(Arc::from(name)),
            Sniffed::More | Sniffed::Nothing => None,
        };
        // What gives way may have been asked for.
        drop(self.answer(key, name.clone()));
        Next::Go(name)
    }
}

fn look<'a>(quic: &mut Quic, payloads: impl Iterator<Item = &'a [u8]>) -> Sniffed {
    let mut found = Sniffed::More;
    for payload in payloads {
        found = quic.datagram(payload);
        if found != Sniffed::More {
            break;
        }
    }
    found
}

impl Worker {
    /// The name of the connection that a packet with these datagrams belongs to; `None` in the outer place if it is kept
    /// until that is known. `known` is the name that the address was asked for by, if that is beyond doubt.
    pub(super) fn quic_name(
        self: &Rc<Self>,
        key: Key,
        known: Option<Arc<str>>,
        kept: impl FnOnce() -> Option<Kept>,
        payload: &[u8],
        segment: usize,
        timeout: Duration,
    ) -> Option<Option<Arc<str>>> {
        let next = self.shared.quic.0.lock().next(key, known, kept, payload.chunks(segment));
        match next {
            Next::Go(name) => return Some(name),
            Next::Kept => {}
            Next::GoOn(kept) => self.go_on(kept),
            Next::Wait => {
                let worker = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(timeout).await;
                    let kept = {
                        let mut known = worker.shared.quic.0.lock();
                        match known.connections.peek(&key) {
                            Some(Connection::Asked { .. }) => known.answer(key, None),
                            _ => Vec::new(),
                        }
                    };
                    worker.go_on(kept);
                    worker.end_datagrams();
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use oneway_flow::Inbound;
    use oneway_outbound::Backlog;
    use oneway_wire::virtio::VirtioNetHdr;

    use super::*;

    /// There is room for that.
    fn packet() -> Option<Kept> {
        keep(&Arc::new(Backlog::new(1024)))
    }

    fn keep(backlog: &Arc<Backlog>) -> Option<Kept> {
        Kept::new(&VirtioNetHdr::default(), &[0; 500], Inbound::Tun, backlog)
    }

    fn key(port: u16) -> Key {
        (SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([198, 51, 100, 1], 443)))
    }

    /// The first packet of a ClientHello that does not end.
    fn first() -> Vec<u8> {
        oneway_sniff::initial(1, b"x", 0, &[6, 0, 4, 1, 0, 1, 0]).unwrap()
    }

    #[test]
    fn what_waits_has_limits() {
        let names = QuicNames::default();
        let mut known = names.0.lock();
        let first = first();
        let mut next = |port, payload: &[u8]| known.next(key(port), None, packet, std::iter::once(payload));
        for port in 0..MOST_ASKED as u16 {
            assert!(matches!(next(port, &first), Next::Wait), "{port}");
        }
        assert!(matches!(next(1000, &first), Next::Go(None)), "there are too many");
        for _ in 0..6 {
            assert!(matches!(next(0, &first), Next::Kept));
        }
        assert!(matches!(next(0, &first), Next::GoOn(kept) if kept.len() == 8));
        assert!(matches!(next(0, b"unreadable"), Next::Go(None)));
        assert!(matches!(next(1001, &first), Next::Wait), "there is room again");
        assert!(matches!(next(2000, b"no QUIC"), Next::Go(None)));
        assert_eq!(known.asked, MOST_ASKED);
        assert!(known.connections.peek(&key(2000)).is_none());
    }

    #[test]
    fn what_waits_has_no_more_memory_than_there_is() {
        let names = QuicNames::default();
        let mut known = names.0.lock();
        let (backlog, first) = (Arc::new(Backlog::new(1500)), first());
        let mut next = |port| known.next(key(port), None, || keep(&backlog), std::iter::once(&first[..]));
        assert!(matches!([next(1), next(2)], [Next::Wait, Next::Wait]));
        assert!(matches!(next(1), Next::Kept), "lost");
        assert!(matches!(next(3), Next::Go(None)), "by its address");
        let kept = known.answer(key(1), None);
        assert_eq!(kept.len(), 1);
        drop((kept, known.answer(key(2), None)));
        assert_eq!(backlog.taken(), 0);
    }

    #[test]
    fn a_connection_keeps_the_name_that_it_began_with() {
        let names = QuicNames::default();
        let mut known = names.0.lock();
        let mut next = |port, name: Option<&str>, payload: &[u8]| {
            let name = name.map(Arc::from);
            match known.next(key(port), name, packet, std::iter::once(payload)) {
                Next::Go(name) => name.map(|name| name.to_string()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(next(1, Some("a.example"), &first()).as_deref(), Some("a.example"));
        for now in [None, Some("b.example")] {
            assert_eq!(next(1, now, b"unreadable").as_deref(), Some("a.example"), "{now:?}");
            assert_eq!(next(2, now, b"of before").as_deref(), now, "nothing is known of its beginning");
        }
    }
}
