//! One connection: the client's TCP, which ends here, and the outbound's.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use oneway_flow::{FlowGuard, HEARD, SEEN};
use oneway_stack::tcp::{Connection, State, Syn, Time};

use super::Key;
use super::Naming;
use super::budget::{Charge, LEAST};
use super::buffers::{BufferPool, Chunk};
use super::upstream::Upstream;
use crate::limits::Limits;
use crate::worker::asker::Asker;

/// Bytes of one connection that are read before others get their turn.
const TURN: usize = 1 << 20;

/// Data of this length are sent before more are read.
const PROMPT: usize = 16 * 1024;

/// A connection that a client asked for.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) id: u64,
    pub(super) stage: RefCell<Stage>,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum Stage {
    /// The outbound is being connected; nothing is answered.
    Dialing(Dialing),
    /// Both ends are connected, or the client's rests in TIME-WAIT.
    Open(Box<Open>),
    Over,
}

/// What is kept of a client while its outbound is dialled.
#[derive(Debug)]
pub(super) struct Dialing {
    pub(super) syn: Syn,
    /// The client's latest SYN, for a refusal to quote.
    pub(super) packet: Box<[u8]>,
    pub(super) client: Rc<Asker>,
}

/// A connection with both ends.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) conn: Connection<Chunk>,
    /// Memory for what the client has sent and the outbound has not taken.
    pub(super) received: Charge,
    pub(super) upstream: Option<Upstream>,
    pub(super) flow: FlowGuard,
    /// Of the task that the outbound's socket wakes.
    pub(super) waker: Waker,
    /// The appointment in [`super::timers::Timers`].
    pub(super) appointment: Option<Time>,
    /// Is among those to be driven at the end of this batch of packets.
    pub(super) dirty: bool,
    /// When data last moved.
    pub(super) moved: Time,
    /// When the client's SYN was answered.
    pub(super) answered: Time,
    /// Bytes that the outbound sent.
    pub(super) read: u64,
    /// The latest read found as much as it could take.
    pub(super) much: bool,
    /// What the outbound's far end had yet to acknowledge when [`Open::is_silent`] last looked.
    pub(super) unacknowledged: u32,
    /// Its name is looked for; its outbound's socket is held meanwhile.
    pub(super) naming: Option<Box<Naming>>,
    /// Ended from here, whatever its ends have still to say.
    pub(super) given_up: bool,
    /// The outbound took no more: what it said before is passed on, and then both ends are reset.
    pub(super) write_failed: bool,
    /// When that is, if what was said comes right before.
    pub(super) telling: Telling,
}

/// When a client is told that its server has reset the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Telling {
    /// It has not.
    #[default]
    Never,
    At(Time),
    Now,
}

/// What an outbound had to read.
enum Read {
    Nothing,
    Some(usize),
    /// It has failed, and there is no more of what it said before.
    Broken,
}

impl Open {
    /// Moves data both ways as far as both ends take them. Returns whether there is more to do at once.
    pub(super) fn move_data(
        &mut self,
        now: Time,
        pool: &Rc<BufferPool>,
        mut transmit: impl FnMut(&mut Connection<Chunk>),
    ) -> bool {
        if matches!(self.telling, Telling::At(at) if at <= now) {
            self.telling = Telling::Now;
        }
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        let share = pool.account.share();
        self.conn.set_receive_limit(u32::try_from(share).unwrap_or(u32::MAX));
        self.upload(now, &mut cx);
        self.received.set(self.conn.receive_memory());
        let mut read = 0;
        let mut broken = false;
        let more = loop {
            match self.download(now, &mut cx, pool) {
                Read::Nothing => break false,
                Read::Broken => {
                    broken = true;
                    break false;
                }
                Read::Some(len) => {
                    read += len;
                    // A few bytes: the end of the stream may travel with them. More, while they are in the processor's
                    // cache still.
                    if len >= PROMPT {
                        transmit(&mut self.conn);
                    }
                }
            }
            if read >= TURN {
                break true;
            }
        };
        transmit(&mut self.conn);
        if broken && self.is_to_be_heard(now) {
            // What there is to read then is no end of the stream.
            self.write_failed = true;
            broken = false;
        }
        // What has ended with a reset holds nothing, and has not delivered it.
        if self.conn.broken().is_none() {
            let held = if broken { self.conn.unsent() } else { self.conn.queued() };
            let taken = self.read - u64::from(held);
            if self.flow.down.load(Ordering::Relaxed) != taken {
                self.flow.down.store(taken, Ordering::Relaxed);
                self.moved = now;
            }
        }
        if broken {
            // Behind what was sent: who answers and resets at once is heard.
            self.conn.abort();
            transmit(&mut self.conn);
        }
        more
    }

    /// Whether its client is yet to hear what its server has said before it has reset the connection.
    fn is_to_be_heard(&mut self, now: Time) -> bool {
        if self.read == 0 || self.conn.broken().is_some() {
            return false;
        }
        // It does not know yet that it is connected.
        if self.conn.state() == State::SynReceived {
            return true;
        }
        self.telling = match self.telling {
            Telling::Never if now < self.answered + SEEN => Telling::At(now + HEARD),
            Telling::Never => Telling::Now,
            telling => telling,
        };
        self.telling != Telling::Now
    }

    /// Gives the outbound what came from the client and waits, and the end of it.
    fn upload(&mut self, now: Time, cx: &mut Context<'_>) {
        let Some(upstream) = &mut self.upstream else { return };
        if self.write_failed {
            return;
        }
        let (mut failed, mut moved) = (false, 0);
        if self.conn.received() > 0 {
            self.conn.receive(|bytes| match upstream.poll_write(cx, bytes, false) {
                Poll::Ready(Ok(len)) => {
                    moved += len as u64;
                    len
                }
                Poll::Ready(Err(_)) => {
                    failed = true;
                    0
                }
                Poll::Pending => 0,
            });
        }
        if moved > 0 {
            self.moved = now;
            self.flow.up.fetch_add(moved, Ordering::Relaxed);
        }
        if failed {
            self.write_failed = true;
        } else if self.conn.peer_closed() && !upstream.shut() {
            upstream.shut_down();
            self.moved = now;
        }
    }

    /// Takes what the outbound has, up to a few packets' data.
    fn download(&mut self, now: Time, cx: &mut Context<'_>, pool: &Rc<BufferPool>) -> Read {
        let Some(upstream) = &mut self.upstream else { return Read::Nothing };
        if upstream.ended() {
            let failed = self.write_failed || upstream.poll_failed(cx).is_ready();
            return if failed { Read::Broken } else { Read::Nothing };
        }
        let room = match pool.account.share().saturating_sub(self.conn.queued() as usize) {
            // What is queued already has acknowledgments to come, which look here again.
            0 => 0,
            left => self.conn.send_room().min(left.max(LEAST)),
        };
        if room == 0 {
            // Nothing is read for as long as the client takes nothing, which may be forever. What there still was from a
            // server that is gone would have been lost in the server's own buffer, too.
            let takes_nothing = self.conn.is_window_shut() || self.write_failed && self.conn.queued() == 0;
            let failed = takes_nothing && (self.write_failed || upstream.poll_failed(cx).is_ready());
            return if failed { Read::Broken } else { Read::Nothing };
        }
        let mut reading = pool.take_for(room, self.conn.superpacket() as usize, self.much);
        let asked = reading.room();
        let read = reading.with_slices(|slices| match self.write_failed {
            false => upstream.poll_read(cx, slices),
            true => upstream.read_rest(slices),
        });
        match read {
            // Writing has taken the error that would have come behind the last byte, and this is no end of the stream.
            Poll::Ready(Ok(0)) | Poll::Pending if self.write_failed => Read::Broken,
            Poll::Ready(Ok(0)) => {
                self.conn.close();
                upstream.end_reading();
                self.moved = now;
                // Asks to be told of a failure.
                self.download(now, cx, pool)
            }
            Poll::Ready(Ok(len)) => {
                self.much = len == asked;
                reading.filled(len, |chunk| self.conn.send(chunk));
                self.read += len as u64;
                self.moved = now;
                Read::Some(len)
            }
            Poll::Ready(Err(_)) => Read::Broken,
            Poll::Pending => {
                self.much = false;
                Read::Nothing
            }
        }
    }

    /// Whether nothing can move between the two ends any more: the client's is over, and all that it sent is passed on.
    pub(super) fn is_over(&self) -> bool {
        let over = matches!(self.conn.state(), State::Closed | State::TimeWait);
        over && (self.failed() || self.upstream.as_ref().is_none_or(Upstream::shut))
    }

    /// Whether it did not end in order.
    pub(super) fn failed(&self) -> bool {
        self.given_up || self.conn.broken().is_some()
    }

    /// Resets both ends.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
        self.conn.abort();
    }

    /// When this is to be looked at again.
    pub(super) fn next_timeout(&self, limits: &Limits) -> Option<Time> {
        let connection = self.conn.next_timeout();
        let naming = self.naming.as_ref().and_then(|naming| naming.deadline);
        let telling = match self.telling {
            Telling::At(at) => Some(at),
            Telling::Never | Telling::Now => None,
        };
        [connection, self.silent_at(limits), naming, telling].into_iter().flatten().min()
    }

    /// When a client has not finished the handshake for too long, or a half-closed connection has been silent for too long, as
    /// far as is known without asking the kernel.
    fn silent_at(&self, limits: &Limits) -> Option<Time> {
        let upstream = self.upstream.as_ref()?;
        if self.conn.state() == State::SynReceived {
            return Some(self.answered + limits.accept);
        }
        // Also where the client's end is still behind data that the outbound does not take: they may wait forever.
        let is_half_closed = upstream.ended() || upstream.shut() || self.conn.has_peer_fin();
        is_half_closed.then(|| self.moved + limits.half_closed)
    }

    /// Whether a client or a half-closed connection has been silent for too long.
    pub(super) fn is_silent(&mut self, now: Time, limits: &Limits) -> bool {
        if self.silent_at(limits).is_none_or(|at| at > now) {
            return false;
        }
        if self.conn.state() == State::SynReceived {
            return true;
        }
        // The far end may take long to read what is in the kernel's buffers, and nothing else is seen to move meanwhile.
        let unacknowledged = self.upstream.as_ref().map_or(0, Upstream::unacknowledged);
        if std::mem::replace(&mut self.unacknowledged, unacknowledged) == unacknowledged {
            return true;
        }
        self.moved = now;
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "both ends are of this test")]

    use std::sync::Arc;
    use std::time::Duration;

    use oneway_flow::{Arrival, FlowTable, Inbound, Network, Target};
    use oneway_stack::tcp::{Blocks, Config, Segment, Seq, SynOptions};
    use oneway_wire::tcp::Flags;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::StackKind;
    use crate::worker::user::budget::{Account, Budget};

    const CLIENT: &str = "192.0.2.7:40000";

    fn says(seq: u32, flags: Flags, payload: &[u8]) -> Segment<'_> {
        Segment {
            seq: Seq(seq),
            ack: Seq(501),
            flags,
            window: u16::MAX,
            payload,
            timestamps: None,
            sack: Blocks::default(),
            syn: SynOptions::default(),
        }
    }

    fn open(now: Time, pool: &Rc<BufferPool>, upstream: TcpStream) -> Open {
        let syn = Syn::from_segment(&says(100, Flags::SYN, &[])).unwrap();
        let mut conn = Connection::accept(&Arc::new(Config::default()), &syn, false, Seq(500), 0, now);
        conn.transmit(now, |_| {});
        conn.segment_arrives(now, &says(101, Flags::ACK, &[]), |_| 0);
        let arrival = Arrival {
            network: Network::Tcp,
            source: CLIENT.parse().unwrap(),
            inbound: Inbound::Tun,
            dscp: 0,
        };
        let target = Target::from_addr("198.51.100.1:80".parse().unwrap());
        Open {
            conn,
            received: Charge::new(&pool.account),
            upstream: Some(Upstream::of(upstream, None, None)),
            flow: Arc::new(FlowTable::default()).enter(arrival, target, "MATCH".into(), "direct".into()),
            waker: Waker::noop().clone(),
            appointment: None,
            dirty: false,
            moved: now,
            answered: now,
            read: 0,
            much: false,
            unacknowledged: 0,
            naming: None,
            given_up: false,
            write_failed: false,
            telling: Telling::default(),
        }
    }

    async fn stream() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_has_ended_waits_no_longer_than_others_for_what_is_not_taken() {
        let pool = Rc::new(BufferPool::new(Account::new(&Arc::new(Budget::of_machine(None)))));
        let limits = Limits::for_descriptors(1024, StackKind::User);
        let now = Time::from_micros(1);
        let (upstream, _server) = stream().await;
        let mut open = open(now, &pool, upstream);
        open.conn.segment_arrives(now, &says(101, Flags::ACK, &[1; 1000]), |_| 0);
        assert_eq!((open.conn.received(), open.silent_at(&limits)), (1000, None));
        open.conn.segment_arrives(now, &says(1101, Flags::ACK | Flags::FIN, &[]), |_| 0);
        assert_eq!(open.silent_at(&limits), Some(now + limits.half_closed));
        let moment = Duration::from_micros(1);
        assert!(!open.is_silent(now + limits.half_closed - moment, &limits));
        assert!(open.is_silent(now + limits.half_closed, &limits));
        // A server that takes some of it has moved something.
        let later = now + limits.half_closed;
        open.move_data(later, &pool, |_| {});
        assert_eq!((open.conn.received(), open.moved), (0, later));
    }
}
