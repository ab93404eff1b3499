//! What was sent and not acknowledged, what the peer has of it by SACK (RFC 2018), and what is lost (RACK, RFC 8985).

use std::collections::VecDeque;
use std::time::Duration;

use super::segment::Blocks;
use super::seq::Seq;
use super::time::Time;

/// Records that a peer's blocks may cut others into. Honest blocks end where segments do, and so many segments are never
/// outstanding; without this, a peer could have one record kept of every byte.
const MAX_RECORDS: usize = 2048;

/// A range of sequence numbers that was sent in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) start: Seq,
    pub(super) end: Seq,
    /// When it was last sent.
    at: Time,
    /// It was sent more than once.
    again: bool,
    /// The peer has it (RFC 2018).
    sacked: bool,
    /// It is taken for lost, and was not sent again yet.
    lost: bool,
}

impl Sent {
    fn len(&self) -> u32 {
        self.end - self.start
    }
}

/// What an acknowledgment brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Sequence numbers that the peer is now known to have.
    pub(super) bytes: u32,
    /// The round trip of the latest of them that was sent once.
    pub(super) rtt: Option<Duration>,
}

/// All that is outstanding, in sequence order without holes.
#[derive(Debug)]
pub(super) struct Scoreboard {
    records: VecDeque<Sent>,
    /// Outstanding and neither had by the peer nor lost: "pipe" of RFC 6675.
    in_flight: u32,
    sacked: u32,
    lost: u32,
    /// RACK.xmit_ts and RACK.end_seq: of the delivered, what was sent last.
    newest: Option<(Time, Seq)>,
    /// RACK.rtt.
    rtt: Duration,
    /// RACK.fack: the highest sequence number that the peer is known to have.
    fack: Seq,
    /// RACK.reordering_seen.
    reordered: bool,
    /// When that was sent, again, which was found lost a second time: the latest.
    lost_again: Option<Time>,
}

/// RACK_sent_after (RFC 8985 6.2): the higher sequence number decides between those sent at one moment.
fn sent_after((a_time, a_end): (Time, Seq), (b_time, b_end): (Time, Seq)) -> bool {
    a_time > b_time || (a_time == b_time && a_end.gt(b_end))
}

impl Scoreboard {
    pub(super) fn new(iss: Seq) -> Self {
        Self {
            records: VecDeque::new(),
            in_flight: 0,
            sacked: 0,
            lost: 0,
            newest: None,
            rtt: Duration::ZERO,
            fack: iss,
            reordered: false,
            lost_again: None,
        }
    }

    /// Bytes in flight.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Bytes that wait to be sent again.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// Bytes that the peer has out of order.
    pub(super) fn sacked(&self) -> u32 {
        self.sacked
    }

    /// Whether nothing is outstanding.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// `start..end` was sent for the first time.
    pub(super) fn sent(&mut self, now: Time, start: Seq, end: Seq) {
        self.in_flight += end - start;
        self.records.push_back(Sent { start, end, at: now, again: false, sacked: false, lost: false });
    }

    /// Takes in a cumulative acknowledgment and the SACK blocks that came with it. `una < blocks <= nxt` holds for those
    /// that are looked at; others are passed over (RFC 2018 4 allows them to be anything).
    pub(super) fn acknowledge(
        &mut self,
        now: Time,
        ack: Seq,
        blocks: &Blocks,
        min_rtt: Option<Duration>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        while let Some(first) = self.records.front_mut() {
            if ack.le(first.start) {
                break;
            }
            let mut gone = *first;
            if ack.lt(first.end) {
                gone.end = ack;
                first.start = ack;
            } else {
                self.records.pop_front();
            }
            let len = gone.len();
            if gone.sacked {
                self.sacked -= len;
                continue;
            }
            if gone.lost {
                self.lost -= len;
            } else {
                self.in_flight -= len;
            }
            self.deliver(now, &gone, min_rtt, &mut delivered);
        }
        if self.records.is_empty() && self.records.capacity() > 4 {
            self.records = VecDeque::new();
        }
        for &(left, right) in blocks.as_slice() {
            let end = self.records.back().map_or(ack, |last| last.end);
            // A block at or below `ack` is a D-SACK (RFC 2883), one beyond what was sent is a lie.
            if left.lt(right) && left.gt(ack) && right.le(end) {
                self.sack(now, left, right, min_rtt, &mut delivered);
            }
        }
        delivered
    }

    fn sack(
        &mut self,
        now: Time,
        left: Seq,
        right: Seq,
        min_rtt: Option<Duration>,
        delivered: &mut Delivered,
    ) {
        let mut at = self.records.partition_point(|record| record.end.le(left));
        while let Some(&record) = self.records.get(at) {
            if record.start.ge(right) {
                break;
            }
            if record.sacked {
                at += 1;
                continue;
            }
            if self.records.len() >= MAX_RECORDS && (record.start.lt(left) || record.end.gt(right)) {
                return;
            }
            if record.start.lt(left) {
                self.split(at, left);
                at += 1;
                continue;
            }
            if record.end.gt(right) {
                self.split(at, right);
            }
            let Some(record) = self.records.get_mut(at) else { break };
            let len = record.len();
            if record.lost {
                self.lost -= len;
            } else {
                self.in_flight -= len;
            }
            record.sacked = true;
            record.lost = false;
            self.sacked += len;
            let record = *record;
            self.deliver(now, &record, min_rtt, delivered);
            at = self.merge(at) + 1;
        }
    }

    /// Cuts the record `at` in two at `seq`, which lies within.
    fn split(&mut self, at: usize, seq: Seq) {
        let Some(record) = self.records.get_mut(at) else { return };
        let rest = Sent { start: seq, ..*record };
        record.end = seq;
        self.records.insert(at + 1, rest);
    }

    /// Joins the record `at`, which the peer has, with its neighbours that the peer has, and returns its new place.
    /// What the peer has needs no times any more.
    fn merge(&mut self, mut at: usize) -> usize {
        let has = |records: &VecDeque<Sent>, at: usize| records.get(at).is_some_and(|record| record.sacked);
        if has(&self.records, at + 1)
            && let Some(next) = self.records.remove(at + 1)
            && let Some(record) = self.records.get_mut(at)
        {
            record.end = next.end;
        }
        if at > 0
            && has(&self.records, at - 1)
            && let Some(record) = self.records.remove(at)
        {
            at -= 1;
            if let Some(before) = self.records.get_mut(at) {
                before.end = record.end;
            }
        }
        at
    }

    /// RFC 8985 6.2, steps 1 to 3, for one range that the peer now has.
    fn deliver(&mut self, now: Time, record: &Sent, min_rtt: Option<Duration>, delivered: &mut Delivered) {
        delivered.bytes += record.len();
        let rtt = now.since(record.at);
        if !record.again {
            delivered.rtt = Some(delivered.rtt.map_or(rtt, |best| best.min(rtt)));
        }
        // Faster than ever: it acknowledges what was sent before.
        let spurious = record.again && min_rtt.is_some_and(|min| rtt < min);
        if !spurious && self.newest.is_none_or(|newest| sent_after((record.at, record.end), newest)) {
            self.newest = Some((record.at, record.end));
            // No round trip takes no time. With none, what is sent again is lost again at once, for as long as the clock
            // stands still.
            self.rtt = rtt.max(Duration::from_micros(1));
        }
        if record.end.gt(self.fack) {
            self.fack = record.end;
        } else if record.end.lt(self.fack) && !record.again {
            self.reordered = true;
        }
    }

    /// RFC 8985 6.2, steps 4 and 5: marks as lost what was sent well before something that the peer has. Returns when to
    /// look again for what may be lost by then.
    pub(super) fn detect_losses(
        &mut self,
        now: Time,
        mss: u32,
        recovering: bool,
        smoothed: Duration,
        min_rtt: Duration,
    ) -> Option<Time> {
        let newest = self.newest?;
        // DupThresh of RFC 5681: three segments' worth had out of order say that it is no mere reordering.
        let wait = if !self.reordered && (recovering || self.sacked >= 3 * mss) {
            Duration::ZERO
        } else {
            (min_rtt / 4).min(smoothed)
        };
        let mut look_again: Option<Time> = None;
        for record in &mut self.records {
            if record.sacked || record.lost || !sent_after(newest, (record.at, record.end)) {
                continue;
            }
            let due = record.at + self.rtt + wait;
            if due <= now {
                if record.again {
                    self.lost_again = self.lost_again.max(Some(record.at));
                }
                record.lost = true;
                let len = record.end - record.start;
                self.in_flight -= len;
                self.lost += len;
            } else {
                look_again = Some(look_again.map_or(due, |other| other.max(due)));
            }
        }
        look_again
    }

    /// When what was found lost a second time had been sent again, if there was any since this was last asked.
    pub(super) fn take_lost_again(&mut self) -> Option<Time> {
        self.lost_again.take()
    }

    /// Whether the peer said to have what it then did not acknowledge: it dropped it again (RFC 2018 8).
    pub(super) fn is_reneged(&self) -> bool {
        self.records.front().is_some_and(|record| record.sacked)
    }

    /// Marks the first range that the peer lacks as lost.
    pub(super) fn first_is_lost(&mut self) {
        if let Some(record) = self.records.iter_mut().find(|record| !record.sacked)
            && !record.lost
        {
            record.lost = true;
            let len = record.end - record.start;
            self.in_flight -= len;
            self.lost += len;
        }
    }

    /// Marks everything as lost that the peer is not known to have (RFC 6675 5.1). With `forget` also what it said to
    /// have: RFC 2018 8 lets it drop that again.
    pub(super) fn all_is_lost(&mut self, forget: bool) {
        if forget {
            self.sacked = 0;
        }
        for record in &mut self.records {
            if forget {
                record.sacked = false;
            }
            record.lost = !record.sacked;
        }
        self.in_flight = 0;
        self.lost = self.records.iter().filter(|record| record.lost).map(Sent::len).sum();
    }

    /// The first lost range, at most `max` of it.
    pub(super) fn next_lost(&self, max: u32) -> Option<(Seq, Seq)> {
        if self.lost == 0 {
            return None;
        }
        let record = self.records.iter().find(|record| record.lost)?;
        Some((record.start, record.start + record.len().min(max)))
    }

    /// The last range, at most `max` of its end.
    pub(super) fn last(&self, max: u32) -> Option<(Seq, Seq)> {
        let record = self.records.iter().rev().find(|record| !record.sacked)?;
        Some((record.end - record.len().min(max), record.end))
    }

    /// `start..end`, outstanding already, was sent again.
    pub(super) fn sent_again(&mut self, now: Time, start: Seq, end: Seq) {
        let mut at = self.records.partition_point(|record| record.end.le(start));
        if self.records.get(at).is_some_and(|record| record.start.lt(start)) {
            self.split(at, start);
            at += 1;
        }
        while let Some(&record) = self.records.get(at)
            && record.start.lt(end)
        {
            if record.end.gt(end) {
                self.split(at, end);
            }
            if let Some(record) = self.records.get_mut(at) {
                if record.lost {
                    record.lost = false;
                    let len = record.end - record.start;
                    self.lost -= len;
                    self.in_flight += len;
                }
                record.at = now;
                record.again = true;
            }
            at += 1;
        }
    }

    /// Records that there is memory for; for tests.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.records.capacity()
    }

    /// How many records there are; for tests.
    #[cfg(test)]
    pub(super) fn records(&self) -> usize {
        self.records.len()
    }

    /// Checks what must hold at any time; for tests.
    #[cfg(test)]
    pub(super) fn check(&self, una: Seq, nxt: Seq) {
        let mut at = una;
        let (mut in_flight, mut sacked, mut lost) = (0, 0, 0);
        for record in &self.records {
            assert_eq!(record.start, at, "no holes");
            assert!(record.start.lt(record.end));
            assert!(!(record.sacked && record.lost));
            match (record.sacked, record.lost) {
                (true, _) => sacked += record.len(),
                (_, true) => lost += record.len(),
                _ => in_flight += record.len(),
            }
            at = record.end;
        }
        assert_eq!(at, nxt, "everything outstanding has a record");
        assert_eq!((self.in_flight, self.sacked, self.lost), (in_flight, sacked, lost));
    }
}
