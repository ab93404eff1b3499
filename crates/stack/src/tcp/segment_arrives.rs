//! SEGMENT ARRIVES (RFC 9293 3.10.7), in the RFC's own steps, with those of RFC 5961 and RFC 7323.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::connection::{Ack, Broken, Connection, Reset, State};
use super::segment::{Blocks, Segment};
use super::seq::Seq;
use super::syn::Syn;
use super::time::Time;

/// RFC 7323 5.5: a TS.Recent this old says nothing any more.
const OLD_TIMESTAMP: Duration = Duration::from_secs(24 * 24 * 3600);

/// At most one challenge acknowledgment in this time (RFC 5961 7; `tcp_invalid_ratelimit` of Linux).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);

/// RFC 9293 3.8.6.3: "the delay MUST be less than 0.5 seconds".
const MAX_DELAYED_ACK: Duration = Duration::from_millis(499);

/// What a segment did beyond changing the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was dealt with.
    Processed,
    /// It asks for a new connection with the same addresses and ports, and this one, which was in TIME-WAIT, has given way
    /// to it (RFC 9293 3.10.7.4, RFC 6191): it is closed, and says nothing any more. What it has received can still be
    /// taken.
    NewConnection(Syn),
}

impl<B: AsRef<[u8]>> Connection<B> {
    /// Takes in a segment. Data in order are given to `take`, which returns how many bytes of them it took; the others
    /// are kept for [`Connection::receive`], and the window shrinks by them.
    pub fn segment_arrives(
        &mut self,
        now: Time,
        segment: &Segment<'_>,
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> Arrival {
        match self.state {
            State::Closed => {}
            State::SynSent => self.arrives_in_syn_sent(now, segment),
            State::TimeWait => {
                if let Some(syn) = self.reopens(now, segment) {
                    self.end(None);
                    return Arrival::NewConnection(syn);
                }
                self.arrives_otherwise(now, segment, &mut take);
            }
            _ => self.arrives_otherwise(now, segment, &mut take),
        }
        Arrival::Processed
    }

    /// 3.10.7.3.
    fn arrives_in_syn_sent(&mut self, now: Time, segment: &Segment<'_>) {
        let flags = segment.flags;
        // First, check the ACK bit.
        let acks = flags.contains(Flags::ACK);
        if acks && (segment.ack.le(self.iss) || segment.ack.gt(self.nxt)) {
            if !flags.contains(Flags::RST) {
                self.reset = Some(Reset { seq: segment.ack, ack: None });
            }
            return;
        }
        // Second, the RST bit. Without an acceptable ACK it may be anybody's.
        if flags.contains(Flags::RST) {
            if acks {
                self.end(Some(Broken::Refused));
            }
            return;
        }
        // Fourth, the SYN bit.
        if !flags.contains(Flags::SYN) {
            return;
        }
        let syn = Syn::from_segment(&Segment { flags: Flags::SYN, ..*segment });
        let (Some(syn), Some(own)) = (syn, self.timestamps) else { return };
        self.peer_syn(&syn, own.offset, now);
        self.last_heard = now;
        if acks {
            let delivered = self.board.acknowledge(now, segment.ack, &Blocks::default(), None);
            self.on_syn_acknowledged(now, segment, delivered.rtt);
            self.una = segment.ack;
            self.wl2 = segment.ack;
            self.timer = None;
            self.stalled = None;
            self.state = State::Established;
            self.ack = Ack::Now;
        } else {
            // Both ends open at once (RFC 9293 3.5, figure 8): the SYN goes out again, now with an ACK.
            self.state = State::SynReceived;
            self.board.all_is_lost(true);
        }
    }

    /// TIME-WAIT: whether a SYN may begin a new connection.
    fn reopens(&self, now: Time, segment: &Segment<'_>) -> Option<Syn> {
        let syn = Syn::from_segment(segment)?;
        // RCV.NXT is one beyond the last sequence number seen, the FIN's.
        let later = segment.seq.ge(self.rcv.nxt);
        let newer = match (self.timestamps, segment.timestamps) {
            // RFC 6191 2: a later timestamp, or an equal one and a later sequence number; timestamps where there were none.
            (Some(known), Some(new)) if now.since(known.recent_at) < OLD_TIMESTAMP => {
                let age = new.value.wrapping_sub(known.recent) as i32;
                age > 0 || (age == 0 && later)
            }
            (None, Some(_)) => true,
            _ => later,
        };
        newer.then_some(Syn { after: Some(self.nxt), ..syn })
    }

    /// 3.10.7.4: all other states.
    fn arrives_otherwise(&mut self, now: Time, segment: &Segment<'_>, take: &mut impl FnMut(&[u8]) -> usize) {
        let flags = segment.flags;
        let rst = flags.contains(Flags::RST);

        // RFC 7323 5.3, R1: before anything else.
        if !rst && !self.timestamp_is_acceptable(now, segment) {
            return;
        }

        // First, check the sequence number.
        if !self.is_acceptable(segment) {
            if rst {
                return;
            }
            if self.is_opening() && flags.contains(Flags::SYN) && segment.seq + 1 == self.rcv.nxt {
                if !flags.contains(Flags::ACK) {
                    // The peer asks again: our SYN-ACK was lost.
                    return self.board.all_is_lost(true);
                }
                // Both have opened at once, and this is the peer's SYN again, which acknowledges ours (RFC 9293 3.5,
                // figure 7). Answering it by our SYN again would go on for ever.
                if self.acknowledgment_arrives(now, segment) {
                    self.heard(now);
                    self.remember_timestamp(now, segment);
                    self.ack = Ack::Now;
                }
                return;
            }
            self.rcv.came_again(segment.seq, segment.payload.len() as u32);
            if self.state == State::TimeWait && flags.contains(Flags::FIN) {
                // Its FIN again: our acknowledgment was lost. 2 MSL begin anew.
                self.time_wait_until = now + self.config.time_wait;
            }
            self.answer_unacceptable(now, segment);
            // "special allowance should be made to accept valid ACKs" while the window is shut. Those of a keep-alive count,
            // too: two ends that have probed each other's windows, and each took the other's byte without knowing that
            // its own was taken, acknowledge from one byte before, and would never hear each other.
            let shut = self.rcv.window() == 0 && segment.seq == self.rcv.nxt;
            let one_before = segment.is_empty() && segment.seq + 1 == self.rcv.nxt;
            let valid = flags.contains(Flags::ACK) && !flags.contains(Flags::SYN) && self.is_synchronized();
            if (shut || one_before) && valid && self.acknowledgment_arrives(now, segment) {
                self.heard(now);
            }
            return;
        }

        // Second, check the RST bit (RFC 5961 3.2).
        if rst {
            if segment.seq == self.rcv.nxt {
                let why = match self.state {
                    State::TimeWait => None,
                    // RFC 9293 3.10.7.4: to whom opened actively, "connection refused".
                    State::SynReceived if !self.passive => Some(Broken::Refused),
                    _ => Some(Broken::Reset),
                };
                self.end(why);
            } else {
                self.challenge(now);
            }
            return;
        }

        // Fourth, check the SYN bit (RFC 5961 4.2).
        if flags.contains(Flags::SYN) {
            // In SYN-RECEIVED after a simultaneous open this is the peer's SYN-ACK, whose ACK counts.
            let is_first = self.state == State::SynReceived && segment.seq + 1 == self.rcv.nxt;
            if !is_first {
                return self.challenge(now);
            }
        }

        // Fifth, check the ACK field.
        if !flags.contains(Flags::ACK) {
            if flags.contains(Flags::SYN) {
                // The peer asks again, with data behind its SYN.
                self.board.all_is_lost(true);
            }
            return;
        }
        if !self.acknowledgment_arrives(now, segment) {
            return;
        }
        self.heard(now);
        self.remember_timestamp(now, segment);

        // Sixth, check the URG bit: urgent data are data (RFC 6093 6).
        // Seventh, process the segment text. Eighth, check the FIN bit.
        self.text_arrives(now, segment, take);
    }

    /// RFC 7323 5.3, R1 to R3.
    fn timestamp_is_acceptable(&mut self, now: Time, segment: &Segment<'_>) -> bool {
        let Some(known) = self.timestamps else { return true };
        let Some(new) = segment.timestamps else {
            // RFC 7323 3.2: "If a non-<RST> segment is received without a TSopt, a TCP SHOULD silently drop the
            // segment." A SYN again may come from a peer that gave the option up.
            return segment.flags.contains(Flags::SYN);
        };
        let is_old = (new.value.wrapping_sub(known.recent) as i32) < 0;
        if is_old && now.since(known.recent_at) < OLD_TIMESTAMP {
            self.rcv.came_again(segment.seq, segment.payload.len() as u32);
            self.answer_unacceptable(now, segment);
            return false;
        }
        true
    }

    /// RFC 7323 4.3 (2).
    fn remember_timestamp(&mut self, now: Time, segment: &Segment<'_>) {
        let last_ack = self.last_ack_sent;
        if let (Some(known), Some(new)) = (&mut self.timestamps, segment.timestamps)
            && segment.seq.le(last_ack)
            && (new.value.wrapping_sub(known.recent) as i32 >= 0
                || now.since(known.recent_at) >= OLD_TIMESTAMP)
        {
            known.recent = new.value;
            known.recent_at = now;
        }
    }

    /// The four cases of RFC 9293 3.4, table 6.
    fn is_acceptable(&self, segment: &Segment<'_>) -> bool {
        let (nxt, window) = (self.rcv.nxt, self.rcv.window());
        let in_window = |seq: Seq| seq.ge(nxt) && seq.lt(nxt + window);
        // Of a reset only the sequence number counts (RFC 5961 3.2), whatever it carries, and also while the window is
        // shut (RFC 9293 3.8.6, MUST-66).
        let len = if segment.flags.contains(Flags::RST) { 0 } else { segment.len() };
        let rst = segment.flags.contains(Flags::RST);
        match (len, window) {
            (0, 0) => segment.seq == nxt,
            // A peer that has used the window up acknowledges from where it ends. By the letter of the table nothing of
            // that would count while its data are lost, and two such peers would live by their retransmission timers
            // alone. Linux takes it, too (`tcp_sequence`).
            (0, _) => in_window(segment.seq) || (segment.seq == nxt + window && !rst),
            (_, 0) => false,
            (len, _) => in_window(segment.seq) || in_window(segment.seq + (len - 1)),
        }
    }

    /// "If an incoming segment is not acceptable, an acknowledgment should be sent in reply": for data at once, for others
    /// at a bounded rate. Two ends that disagree about their sequence numbers would answer each other for ever, and one
    /// forged byte that each took is enough for that.
    fn answer_unacceptable(&mut self, now: Time, segment: &Segment<'_>) {
        if !segment.is_empty() && !segment.flags.contains(Flags::SYN) {
            self.ack = Ack::Now;
            return;
        }
        self.challenge(now);
    }

    /// RFC 5961 7.
    pub(super) fn challenge(&mut self, now: Time) {
        if self.challenged.is_none_or(|last| now.since(last) >= CHALLENGE_INTERVAL) {
            self.challenged = Some(now);
            self.ack = Ack::Now;
        }
    }

    /// The peer lives.
    fn heard(&mut self, now: Time) {
        self.last_heard = now;
        self.keep_alive_probes = 0;
        if self.wnd == 0 {
            // RFC 9293 3.8.6.1: a peer that keeps answering probes may keep its window shut for as long as it likes.
            self.stalled = None;
        }
    }

    /// The seventh and the eighth step.
    fn text_arrives(&mut self, now: Time, segment: &Segment<'_>, take: &mut impl FnMut(&[u8]) -> usize) {
        if !self.is_receiving() {
            return;
        }
        if segment.payload.is_empty() && !segment.flags.contains(Flags::FIN) {
            return;
        }
        // A SYN stands before the data.
        let start = segment.seq + u32::from(segment.flags.contains(Flags::SYN));
        // "trim off any portions that lie outside the window"
        let room = (self.rcv.nxt + self.rcv.window()).since(start) as usize;
        let data = segment.payload.get(..room).unwrap_or(segment.payload);
        let fin = segment.flags.contains(Flags::FIN) && data.len() == segment.payload.len();
        let had_holes = self.rcv.has_holes();
        let before = self.rcv.nxt;
        let moved = self.rcv.text(start, data, fin, take);
        self.unacknowledged += self.rcv.nxt - before;
        let tells = self.sack_permitted && self.rcv.has_sack();
        if !moved || had_holes || tells || fin || self.unacknowledged >= self.ack_threshold() {
            // RFC 5681 4.2: at once when out of order or filling a hole; at least every second full-sized segment.
            self.ack = Ack::Now;
        } else if self.ack == Ack::None {
            self.ack = Ack::Delayed(now + self.config.delayed_ack.min(MAX_DELAYED_ACK));
        }
        if self.rcv.is_closed() {
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.time_wait(now),
                _ => {}
            }
        }
    }

    /// Received bytes that are acknowledged without delay: two full-sized segments (RFC 5681 4.2), and where segments
    /// are superpackets, what shows that this is a transfer and not a conversation.
    fn ack_threshold(&self) -> u32 {
        (2 * self.receive_mss()).min(4096)
    }

    /// RFC 9293 3.6.1.
    pub(super) fn time_wait(&mut self, now: Time) {
        self.state = State::TimeWait;
        self.time_wait_until = now + self.config.time_wait;
        self.timer = None;
        self.release();
    }
}
