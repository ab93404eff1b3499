//! What must hold of one connection at any time.

use std::collections::HashSet;

use oneway_wire::tcp::Flags;

use super::super::super::*;

/// The edges of RFC 9293 3.3.2, figure 5, as far as there is a connection: LISTEN is none. Every state may be reset or
/// aborted.
fn edges(from: State) -> &'static [State] {
    use State::*;
    match from {
        SynSent => &[SynReceived, Established, Closed],
        SynReceived => &[Established, FinWait1, Closed],
        Established => &[FinWait1, CloseWait, Closed],
        FinWait1 => &[FinWait2, Closing, Closed],
        FinWait2 => &[TimeWait, Closed],
        CloseWait => &[LastAck, Closed],
        Closing => &[TimeWait, Closed],
        LastAck => &[Closed],
        TimeWait => &[Closed],
        Closed => &[],
    }
}

/// Whether there is a way: one segment may acknowledge and close, and so take several edges.
fn leads(from: State, to: State, edges_left: u8) -> bool {
    from == to || (edges_left > 0 && edges(from).iter().any(|&next| leads(next, to, edges_left - 1)))
}

/// What was seen of a connection.
#[derive(Default)]
pub(super) struct Watched {
    state: Option<State>,
    una: Option<Seq>,
    /// RCV.NXT + RCV.WND, once the peer's SYN came.
    edge: Option<Seq>,
    /// The furthest that the peer was told.
    told: Option<Seq>,
    /// For which states it was seen; only to say so.
    seen: HashSet<State>,
}

impl Watched {
    /// Something is about to happen.
    pub(super) fn before(&mut self, conn: &Connection<Vec<u8>>) {
        self.state = Some(conn.state());
    }

    /// A segment was taken in: nothing beyond the window.
    pub(super) fn after_segment(&mut self, conn: &Connection<Vec<u8>>) {
        if let Some(edge) = self.edge {
            // A FIN may stand right at the edge.
            assert!(conn.rcv.nxt.le(edge + 1), "accepted beyond the window");
        }
    }

    pub(super) fn check(&mut self, conn: &Connection<Vec<u8>>, read: u64, written: u64) {
        let state = conn.state();
        self.seen.insert(state);
        let before = self.state.unwrap_or(state);
        assert!(leads(before, state, 3), "from {before:?} to {state:?} after {:?}", self.seen);
        self.state = Some(state);

        let (una, nxt) = conn.outstanding();
        assert!(una.le(nxt), "SND.UNA {una:?} beyond SND.NXT {nxt:?}");
        assert!(self.una.is_none_or(|last| last.le(una)), "SND.UNA moves back");
        self.una = Some(una);
        assert!(nxt.le(conn.queue.end() + 1), "sent what nobody wrote");
        assert!(u64::from(conn.queued()) <= written);
        if !matches!(state, State::Closed | State::TimeWait) {
            conn.board.check(una, nxt);
        }

        if state == State::SynSent {
            return;
        }
        let edge = conn.rcv.nxt + conn.rcv.window();
        assert!(self.edge.is_none_or(|last| last.le(edge)), "the window's right edge moves back");
        self.edge = Some(edge);
        let received = conn.rcv.held();
        assert!(received <= conn.config.receive_limit as usize, "{received} bytes are held");
        // All that is acknowledged was taken by the application or waits for it; a FIN counts one.
        let ready = read + conn.received() as u64;
        let stream = conn.rcv.nxt - conn.rcv.first();
        let fin = u32::from(conn.rcv.is_closed());
        assert_eq!(stream, (ready as u32).wrapping_add(fin), "acknowledged and neither taken nor held");
    }

    /// A segment leaves.
    pub(super) fn sends(&mut self, out: &Outgoing<'_>, received: Seq, shift: u8) {
        if !out.flags.contains(Flags::ACK) || out.flags.contains(Flags::RST) {
            return;
        }
        assert_eq!(out.ack, received, "acknowledges what was received");
        if !out.flags.contains(Flags::SYN) {
            let told = out.ack + (u32::from(out.window) << shift);
            // RFC 7323 2.4: by what the scale cannot say it may.
            assert!(self.told.is_none_or(|last| (last - ((1 << shift) - 1)).le(told)), "the window shrinks");
            self.told = Some(self.told.map_or(told, |last| last.max(told)));
        }
    }

    /// All was sent that is to be sent now.
    pub(super) fn after_transmit(&mut self, conn: &Connection<Vec<u8>>) {
        if matches!(conn.state(), State::Closed | State::TimeWait) {
            return;
        }
        let (una, nxt) = conn.outstanding();
        let waits = una != nxt || conn.queued() > 0 || conn.state() == State::SynSent;
        assert!(!waits || conn.next_timeout().is_some(), "nothing will send it again");
        // Opening may not be over; the edge as the peer may know it now.
        if conn.state() != State::SynSent {
            self.edge = Some(conn.rcv.nxt + conn.rcv.window());
        }
    }
}
