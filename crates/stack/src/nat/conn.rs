//! One translated connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use oneway_wire::tcp::{Flags, TcpView};

/// How far a connection is, as the translation sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The client's SYN is held: the outbound is not connected yet.
    Dialing = 0,
    /// The SYN was handed to the kernel; segments pass both ways.
    Open = 1,
    /// The dial failed or was given up, or both ends are closed: a new SYN starts a new connection.
    Closed = 2,
}

/// Which end sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the captured program.
    FromClient,
    /// From the kernel's TCP behind our listener.
    FromLocal,
}

/// One connection and its two names. `T` is what the owner keeps with it.
#[derive(Debug)]
pub struct Conn<T> {
    /// The captured program's end.
    pub client: SocketAddr,
    /// Where it wants to go.
    pub target: SocketAddr,
    /// What the kernel sees in place of the client.
    pub peer: SocketAddr,
    /// The listener that the kernel ends the connection in.
    pub local: SocketAddr,
    /// The owner's own part.
    pub data: T,
    state: AtomicU8,
    seen: AtomicU8,
    /// Sequence number behind the local end's FIN: what the client's last ACK must say.
    local_fin_end: AtomicU32,
}

const CLIENT_FIN: u8 = 1;
const LOCAL_FIN: u8 = 2;
const LOCAL_FIN_ACKED: u8 = 4;
const RESET: u8 = 8;
/// The local end sent its FIN before it had seen the client's: its TIME-WAIT is in our kernel (RFC 9293, 3.6).
const LOCAL_CLOSED_FIRST: u8 = 16;
/// The local end has sent something since [`Conn::take_heard`] was last asked.
const LOCAL_SPOKE: u8 = 32;
/// And in the time before that.
const LOCAL_SPOKE_BEFORE: u8 = 64;

impl<T> Conn<T> {
    pub(super) fn new(
        client: SocketAddr,
        target: SocketAddr,
        peer: SocketAddr,
        local: SocketAddr,
        data: T,
    ) -> Self {
        Self {
            client,
            target,
            peer,
            local,
            data,
            state: AtomicU8::new(State::Dialing as u8),
            seen: AtomicU8::new(0),
            local_fin_end: AtomicU32::new(0),
        }
    }

    /// How far the connection is.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Dialing,
            1 => State::Open,
            _ => State::Closed,
        }
    }

    /// The outbound is connected: from now on segments pass. False if the connection was given up meanwhile.
    pub fn set_open(&self) -> bool {
        self.change(State::Dialing, State::Open)
    }

    /// Gives the connection up while it is dialling; false if it was not dialling any more.
    pub fn abandon(&self) -> bool {
        self.change(State::Dialing, State::Closed)
    }

    /// No socket holds the connection any more; only late segments may still come.
    pub fn set_closed(&self) {
        self.state.store(State::Closed as u8, Ordering::Release);
    }

    fn change(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Looks at a passing segment for the signs of an ending.
    pub fn observe(&self, direction: Direction, tcp: &TcpView<'_>, payload_len: u32) {
        let flags = tcp.flags();
        let seen = self.seen.load(Ordering::Relaxed);
        // Only what changes is written: all workers read this with every packet.
        if direction == Direction::FromLocal && seen & LOCAL_SPOKE == 0 {
            self.seen.fetch_or(LOCAL_SPOKE, Ordering::Relaxed);
        }
        if !flags.intersects(Flags::FIN | Flags::RST) && seen & LOCAL_FIN == 0 {
            return;
        }
        let mut now = 0;
        if flags.contains(Flags::RST) {
            now |= RESET;
        }
        match direction {
            Direction::FromClient => {
                if flags.contains(Flags::FIN) {
                    now |= CLIENT_FIN;
                }
                let end = self.local_fin_end.load(Ordering::Acquire);
                if seen & LOCAL_FIN != 0 && flags.contains(Flags::ACK) && tcp.ack() == end {
                    now |= LOCAL_FIN_ACKED;
                }
            }
            Direction::FromLocal if flags.contains(Flags::FIN) => {
                let end = tcp.seq().wrapping_add(payload_len).wrapping_add(1);
                self.local_fin_end.store(end, Ordering::Release);
                now |= LOCAL_FIN;
                if seen & (CLIENT_FIN | LOCAL_FIN) == 0 {
                    now |= LOCAL_CLOSED_FIRST;
                }
            }
            Direction::FromLocal => {}
        }
        self.seen.fetch_or(now, Ordering::AcqRel);
    }

    /// Whether our kernel has said anything in a connection that is open.
    pub fn is_answered(&self) -> bool {
        self.seen.load(Ordering::Relaxed) & LOCAL_SPOKE != 0
    }

    /// Whether our kernel keeps nothing of the connection any more: it was reset, or the client closed first and has
    /// acknowledged our FIN. Otherwise our kernel may be in TIME-WAIT.
    pub fn is_finished(&self) -> bool {
        let seen = self.seen.load(Ordering::Acquire);
        let closed = CLIENT_FIN | LOCAL_FIN | LOCAL_FIN_ACKED;
        seen & RESET != 0 || (seen & closed == closed && seen & LOCAL_CLOSED_FIRST == 0)
    }

    /// Whether our kernel still has the connection, as far as its segments tell since this was last asked. What the client
    /// sends says nothing: to a connection that is no more the kernel answers with a reset. While it waits for the client to
    /// acknowledge its FIN and the data before, up to `TCP_RTO_MAX` (120 s, `include/net/tcp.h`) pass between two tries, which
    /// is why being silent for one linger time is no sign then.
    pub(super) fn take_heard(&self) -> bool {
        let seen = self.seen.fetch_and(!(LOCAL_SPOKE | LOCAL_SPOKE_BEFORE), Ordering::AcqRel);
        if seen & LOCAL_SPOKE != 0 {
            self.seen.fetch_or(LOCAL_SPOKE_BEFORE, Ordering::AcqRel);
        }
        let waits = seen & LOCAL_FIN_ACKED == 0 && seen & LOCAL_SPOKE_BEFORE != 0;
        seen & RESET == 0 && (seen & LOCAL_SPOKE != 0 || waits)
    }
}
