//! Which real addresses a session's fake ones are.
//!
//! A client that sends to a fake address waits for answers from there. They come from the real address, which is known
//! before if we resolve the name ourselves, and only then if the proxy does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use oneway_outbound::{Backlog, Room};
use parking_lot::Mutex;

/// Destinations of one session that are remembered; the one that was sent to longest ago gives way.
const MOST: usize = 32;
/// Datagrams that wait for one name, and their bytes.
const WAITING: usize = 16;
const WAITING_BYTES: usize = 32 * 1024;

/// The fake destinations of one session. `P` keeps the address.
#[derive(Debug)]
pub(super) struct Names<P> {
    /// The last one was sent to last.
    list: Mutex<Vec<Name<P>>>,
}

#[derive(Debug)]
struct Name<P> {
    fake: SocketAddr,
    real: Real,
    _pin: P,
}

#[derive(Debug)]
enum Real {
    /// The proxy knows.
    Unheard,
    /// We are asking; these wait.
    Asking(Vec<Kept>),
    At(IpAddr),
}

/// A datagram that waits, and its room.
#[derive(Debug)]
struct Kept {
    payload: Vec<u8>,
    _room: Room,
}

/// What is to be done with a datagram to a fake address that is resolved here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send it there.
    Send(SocketAddr),
    /// It waits; the name has to be resolved.
    Resolve,
    /// It waits for somebody who resolves the name.
    Wait,
    /// There is no room.
    Drop,
}

impl<P> Default for Names<P> {
    fn default() -> Self {
        Self { list: Mutex::default() }
    }
}

impl<P> Names<P> {
    /// Notes that a datagram goes to `fake` by a proxy. False if the address cannot be kept.
    pub(super) fn note(&self, fake: SocketAddr, pin: impl FnOnce() -> Option<P>) -> bool {
        let mut list = self.list.lock();
        move_to_end(&mut list, fake) || {
            let Some(pin) = pin() else { return false };
            push(&mut list, Name { fake, real: Real::Unheard, _pin: pin });
            true
        }
    }

    /// Where a datagram to `fake` goes that is sent without a proxy. None if the address cannot be kept.
    pub(super) fn next(
        &self,
        fake: SocketAddr,
        payload: &[u8],
        backlog: &Arc<Backlog>,
        pin: impl FnOnce() -> Option<P>,
    ) -> Option<Next> {
        let keep = || Some(Kept { payload: payload.to_vec(), _room: backlog.room(payload.len())? });
        let mut list = self.list.lock();
        if !move_to_end(&mut list, fake) {
            let pin = pin()?;
            let Some(kept) = keep() else { return Some(Next::Drop) };
            push(&mut list, Name { fake, real: Real::Asking(vec![kept]), _pin: pin });
            return Some(Next::Resolve);
        }
        let name = list.last_mut()?;
        Some(match &mut name.real {
            Real::At(ip) => Next::Send(SocketAddr::new(*ip, fake.port())),
            Real::Asking(waiting) => {
                let bytes: usize = waiting.iter().map(|kept| kept.payload.len()).sum();
                let fits = waiting.len() < WAITING && bytes + payload.len() <= WAITING_BYTES;
                match fits.then(keep).flatten() {
                    Some(kept) => {
                        waiting.push(kept);
                        Next::Wait
                    }
                    None => Next::Drop,
                }
            }
            Real::Unheard => match keep() {
                Some(kept) => {
                    name.real = Real::Asking(vec![kept]);
                    Next::Resolve
                }
                None => Next::Drop,
            },
        })
    }

    /// `fake` is `real`, or nowhere, so that it is asked for again with the next datagram. Returns those that waited.
    pub(super) fn resolved(&self, fake: SocketAddr, real: Option<IpAddr>) -> Vec<Vec<u8>> {
        let mut list = self.list.lock();
        let Some(at) = list.iter().position(|name| name.fake == fake) else { return Vec::new() };
        let Some(name) = list.get_mut(at) else { return Vec::new() };
        let before = match real {
            Some(ip) => std::mem::replace(&mut name.real, Real::At(ip)),
            None => list.remove(at).real,
        };
        match before {
            Real::Asking(waiting) => waiting.into_iter().map(|kept| kept.payload).collect(),
            Real::Unheard | Real::At(_) => Vec::new(),
        }
    }

    /// The address that the client knows a source by. The first datagram from an unknown source is the answer of the
    /// destination that was sent to last on its port and has not answered yet.
    pub(super) fn source(&self, real: SocketAddr) -> SocketAddr {
        let mut list = self.list.lock();
        let same_port = |name: &&mut Name<P>| name.fake.port() == real.port();
        let known = |name: &Name<P>| matches!(name.real, Real::At(ip) if ip == real.ip());
        if let Some(name) = list.iter_mut().rev().filter(same_port).find(|name| known(name)) {
            return name.fake;
        }
        let unheard = |name: &&mut Name<P>| matches!(name.real, Real::Unheard) && name.fake.ip() != real.ip();
        let answers_itself = list.iter().any(|name| name.fake == real);
        match list.iter_mut().rev().filter(same_port).find(unheard) {
            // A proxy that answers with the name has had it turned into the fake address already.
            _ if answers_itself => real,
            Some(name) => {
                name.real = Real::At(real.ip());
                name.fake
            }
            None => real,
        }
    }
}

/// Whether the destination is known; it is the last one then.
fn move_to_end<P>(list: &mut Vec<Name<P>>, fake: SocketAddr) -> bool {
    let Some(at) = list.iter().rposition(|name| name.fake == fake) else { return false };
    if at + 1 != list.len() {
        let name = list.remove(at);
        list.push(name);
    }
    true
}

fn push<P>(list: &mut Vec<Name<P>>, name: Name<P>) {
    if list.len() == MOST {
        list.remove(0);
    }
    list.push(name);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([198, 18, 0, last], port))
    }

    fn real(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    #[test]
    fn by_a_proxy_the_first_answer_on_a_port_is_that_of_the_last_destination() {
        let names = Names::default();
        assert!(names.note(fake(1, 443), || Some(())));
        assert!(names.note(fake(2, 443), || Some(())));
        assert!(names.note(fake(3, 80), || Some(())));
        assert_eq!(names.source(real(2, 443)), fake(2, 443));
        assert_eq!(names.source(real(1, 443)), fake(1, 443));
        assert_eq!(names.source(real(2, 443)), fake(2, 443), "known by now");
        assert_eq!(names.source(real(9, 443)), real(9, 443), "a third party, all have answered");
        assert_eq!(names.source(real(9, 444)), real(9, 444));
        assert_eq!(names.source(fake(3, 80)), fake(3, 80), "answered by name");
        assert!(!names.note(fake(4, 80), || None));
    }

    #[test]
    fn directly_datagrams_wait_for_the_address() {
        let (names, backlog) = (Names::default(), Arc::new(Backlog::new(1 << 20)));
        let pin = || Some(());
        assert_eq!(names.next(fake(1, 443), b"a", &backlog, pin), Some(Next::Resolve));
        assert_eq!(names.next(fake(1, 443), b"b", &backlog, pin), Some(Next::Wait));
        assert_eq!(names.next(fake(1, 443), &[0; WAITING_BYTES], &backlog, pin), Some(Next::Drop));
        assert_eq!(names.resolved(fake(1, 443), Some(real(1, 0).ip())), [b"a", b"b"]);
        assert_eq!(names.next(fake(1, 443), b"c", &backlog, pin), Some(Next::Send(real(1, 443))));
        assert_eq!(names.source(real(1, 443)), fake(1, 443));
        assert_eq!(names.next(fake(2, 443), b"x", &backlog, pin), Some(Next::Resolve));
        assert_eq!(names.resolved(fake(2, 443), None), [b"x"]);
        assert_eq!(names.next(fake(2, 443), b"y", &backlog, pin), Some(Next::Resolve), "asked for again");
        assert_eq!(names.next(fake(3, 443), b"z", &backlog, || None), None);
        assert_eq!(names.resolved(fake(2, 443), None), [b"y"]);
        assert_eq!(backlog.taken(), 0);
    }

    #[test]
    fn what_waits_has_no_more_memory_than_there_is() {
        let backlog = Arc::new(Backlog::new(2500));
        let [one, other] = [(); 2].map(|()| Names::default());
        let next = |names: &Names<()>, last| names.next(fake(last, 443), &[0; 1000], &backlog, || Some(()));
        assert_eq!(next(&one, 1), Some(Next::Resolve));
        assert_eq!(next(&other, 1), Some(Next::Resolve));
        assert_eq!([next(&one, 1), next(&one, 2)], [Some(Next::Drop), Some(Next::Drop)], "all is taken");
        drop(other);
        assert_eq!([next(&one, 2), next(&one, 1)], [Some(Next::Resolve), Some(Next::Drop)]);
    }

    #[test]
    fn the_oldest_gives_way_and_lets_its_address_go() {
        let names = Names::default();
        let pin = std::rc::Rc::new(());
        for last in 0..=MOST as u8 {
            assert!(names.note(fake(last, 443), || Some(pin.clone())));
        }
        assert_eq!(std::rc::Rc::strong_count(&pin), 1 + MOST);
        assert!(names.note(fake(1, 443), || None), "still known");
        assert!(!names.note(fake(0, 443), || None), "forgotten");
    }
}
