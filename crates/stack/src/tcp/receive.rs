//! The receiving half: what came in order and was not taken yet, and what came ahead of its turn.

use std::collections::VecDeque;

use super::segment::Blocks;
use super::seq::Seq;

/// Ranges kept out of order. A peer that makes more holes than this sends again what is dropped here.
const MAX_RANGES: usize = 256;

/// Above this, memory for what waits grows by as much and not to twice as much.
const STEP: usize = 128 * 1024;

/// Bytes that came ahead of their turn.
#[derive(Debug)]
struct Range {
    start: Seq,
    bytes: Vec<u8>,
}

impl Range {
    fn end(&self) -> Seq {
        self.start + self.bytes.len() as u32
    }
}

/// The receive sequence variables (RFC 9293 3.3.1) and what is held. Idle, it owns no memory.
#[derive(Debug)]
pub(super) struct Receiver {
    /// RCV.NXT.
    pub(super) nxt: Seq,
    /// RCV.NXT + RCV.WND as last advertised: it never moves back (RFC 9293 3.8.6: "SHOULD NOT shrink the window").
    edge: Seq,
    /// How many bytes may be held: what the window is opened for.
    limit: u32,
    /// How many bytes are kept, whatever the window has promised.
    most: u32,
    /// In order, acknowledged, not taken by the application.
    ready: VecDeque<u8>,
    /// Sorted, not touching one another.
    ahead: Vec<Range>,
    /// Bytes in `ahead`.
    ahead_len: u32,
    /// Where the range is that changed last: the first SACK block (RFC 2018 4).
    latest: Seq,
    /// A range that came twice (RFC 2883), to be told once.
    duplicate: Option<(Seq, Seq)>,
    /// The sequence number of the peer's FIN, once it came.
    fin: Option<Seq>,
    #[cfg(test)]
    first: Seq,
}

impl Receiver {
    pub(super) fn new(irs: Seq, limit: u32) -> Self {
        Self {
            nxt: irs + 1,
            edge: irs + 1 + limit.min(u16::MAX.into()),
            limit,
            most: u32::MAX,
            ready: VecDeque::new(),
            ahead: Vec::new(),
            ahead_len: 0,
            latest: irs,
            duplicate: None,
            fin: None,
            #[cfg(test)]
            first: irs + 1,
        }
    }

    /// RCV.WND: what the peer was told that it may send.
    pub(super) fn window(&self) -> u32 {
        self.edge.since(self.nxt)
    }

    /// How far the window could be opened now.
    fn possible_edge(&self) -> Seq {
        self.edge.max(self.nxt + self.limit.saturating_sub(self.ready.len() as u32))
    }

    /// Whether the window can open by so much that the peer should be told (RFC 9293 3.8.6.2.2).
    pub(super) fn update_is_due(&self, mss: u32) -> bool {
        self.possible_edge() - self.edge >= (self.limit / 2).min(mss).max(1)
    }

    /// Opens the window as far as it can without making it silly, and returns it.
    pub(super) fn advertise(&mut self, mss: u32) -> u32 {
        if self.update_is_due(mss) {
            self.edge = self.possible_edge();
        }
        self.window()
    }

    /// Changes how many bytes may be held from now on; the window that was granted stays. Returns whether that is another
    /// number.
    pub(super) fn set_limit(&mut self, limit: u32) -> bool {
        std::mem::replace(&mut self.limit, limit) != limit
    }

    /// Keeps no more than so many bytes from now on: what comes beyond is as lost on the way, and is sent again.
    pub(super) fn keep_at_most(&mut self, most: u32) {
        self.most = most;
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.ready.capacity() + self.ahead_len as usize
    }

    /// Bytes held in order.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Bytes held in all.
    pub(super) fn held(&self) -> usize {
        self.ready.len() + self.ahead_len as usize
    }

    /// Whether something came ahead of its turn.
    pub(super) fn has_holes(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether the peer's FIN came, in its turn or ahead of it.
    pub(super) fn has_fin(&self) -> bool {
        self.fin.is_some()
    }

    /// Whether all came up to the peer's FIN, which is counted in RCV.NXT.
    pub(super) fn is_closed(&self) -> bool {
        self.fin.is_some_and(|fin| self.nxt.gt(fin))
    }

    /// Takes in data within the window. `take` gets what is in order, and returns how much of it it took; the rest is
    /// kept. Returns whether RCV.NXT moved.
    pub(super) fn text(
        &mut self,
        seq: Seq,
        data: &[u8],
        fin: bool,
        take: &mut impl FnMut(&[u8]) -> usize,
    ) -> bool {
        let before = self.nxt;
        // Nothing follows a FIN, and a FIN is not where something followed.
        let data = match self.fin {
            Some(fin) => data.get(..fin.since(seq) as usize).unwrap_or(data),
            None => data,
        };
        let end = seq + data.len() as u32;
        if fin && self.fin.is_none() && self.ahead.last().map_or(self.nxt, Range::end).le(end) {
            self.fin = Some(end);
        }
        if seq.le(self.nxt) {
            let old = self.nxt.since(seq) as usize;
            if old > 0 && !data.is_empty() {
                self.duplicate = Some((seq, self.nxt.min(seq + data.len() as u32)));
            }
            self.in_order(data.get(old..).unwrap_or_default(), self.room_to_keep(), take);
            self.fill_holes(take);
        } else if data.len() <= self.room_to_keep() {
            self.keep_ahead(seq, data);
        }
        if self.fin == Some(self.nxt) {
            self.nxt += 1;
        }
        self.nxt != before
    }

    fn room_to_keep(&self) -> usize {
        (self.most as usize).saturating_sub(self.held())
    }

    /// Of what is not taken, `room` bytes are kept.
    fn in_order(&mut self, data: &[u8], room: usize, take: &mut impl FnMut(&[u8]) -> usize) {
        if data.is_empty() {
            return;
        }
        // What waits goes first.
        let taken = if self.ready.is_empty() { take(data).min(data.len()) } else { 0 };
        let rest = data.get(taken..).unwrap_or_default();
        let kept = rest.get(..room).unwrap_or(rest);
        self.nxt += (taken + kept.len()) as u32;
        let len = self.ready.len() + kept.len();
        if len > STEP && len > self.ready.capacity() {
            self.ready.reserve_exact(kept.len().next_multiple_of(STEP));
        }
        self.ready.extend(kept);
    }

    fn fill_holes(&mut self, take: &mut impl FnMut(&[u8]) -> usize) {
        let filled = self.ahead.iter().take_while(|range| range.start.le(self.nxt)).count();
        for range in self.ahead.drain(..filled).collect::<Vec<_>>() {
            self.ahead_len -= range.bytes.len() as u32;
            let old = self.nxt.since(range.start) as usize;
            // It was held before, and the peer knows.
            self.in_order(range.bytes.get(old..).unwrap_or_default(), usize::MAX, take);
        }
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
    }

    fn keep_ahead(&mut self, seq: Seq, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = seq + data.len() as u32;
        // The ranges that it touches: they become one with it.
        let first = self.ahead.partition_point(|range| range.end().lt(seq));
        let touched = self
            .ahead
            .get(first..)
            .unwrap_or_default()
            .iter()
            .take_while(|range| range.start.le(end))
            .count();
        self.latest = seq;
        if touched == 0 {
            if self.ahead.len() < MAX_RANGES {
                self.ahead_len += data.len() as u32;
                self.ahead.insert(first, Range { start: seq, bytes: data.to_vec() });
            }
            return;
        }
        let before: u32 =
            self.ahead.iter().skip(first).take(touched).map(|range| range.bytes.len() as u32).sum();
        let mut drained = self.ahead.drain(first..first + touched);
        let Some(mut joined) = drained.next() else { return };
        if seq.ge(joined.start) && end.le(joined.end()) {
            self.duplicate = Some((seq, end));
        }
        if seq.lt(joined.start) {
            let gap = (joined.start - seq) as usize;
            let mut bytes = data.get(..gap).unwrap_or(data).to_vec();
            bytes.append(&mut joined.bytes);
            joined = Range { start: seq, bytes };
        }
        let append = |joined: &mut Range, from: Seq, bytes: &[u8]| {
            let known = joined.end().since(from) as usize;
            joined.bytes.extend_from_slice(bytes.get(known..).unwrap_or_default());
        };
        for next in drained {
            // Between two ranges that do not touch lies only what came now.
            let until = (next.start.since(seq) as usize).min(data.len());
            append(&mut joined, seq, data.get(..until).unwrap_or_default());
            append(&mut joined, next.start, &next.bytes);
        }
        append(&mut joined, seq, data);
        self.ahead_len = self.ahead_len - before + joined.bytes.len() as u32;
        self.ahead.insert(first, joined);
    }

    /// `len` bytes from `seq` on came that were had and acknowledged already (RFC 2883 4.1).
    pub(super) fn came_again(&mut self, seq: Seq, len: u32) {
        let end = (seq + len).min(self.nxt);
        if seq.lt(end) {
            self.duplicate = Some((seq, end));
        }
    }

    /// Hands over what is held in order, until `take` takes nothing more.
    pub(super) fn read(&mut self, mut take: impl FnMut(&[u8]) -> usize) {
        while !self.ready.is_empty() {
            let (first, _) = self.ready.as_slices();
            let taken = take(first).min(first.len());
            if taken == 0 {
                return;
            }
            self.ready.drain(..taken);
        }
        self.ready = VecDeque::new();
    }

    /// The blocks to tell the peer: a duplicate first (RFC 2883), then the range that changed last, then the others
    /// (RFC 2018 4).
    pub(super) fn sack_blocks(&mut self) -> Blocks {
        let mut blocks = Blocks::default();
        if let Some((left, right)) = self.duplicate.take() {
            blocks.push(left, right);
        }
        let holds = |range: &&Range| range.start.le(self.latest) && self.latest.lt(range.end());
        if let Some(range) = self.ahead.iter().find(holds) {
            blocks.push(range.start, range.end());
        }
        for range in self.ahead.iter().filter(|range| !holds(range)) {
            blocks.push(range.start, range.end());
        }
        blocks
    }

    /// The sequence number of the first byte; for tests.
    #[cfg(test)]
    pub(super) fn first(&self) -> Seq {
        self.first
    }

    /// Bytes of memory; for tests.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.ready.capacity() + self.ahead.capacity()
    }

    /// Gives up what came ahead of its turn.
    pub(super) fn forget(&mut self) {
        self.ahead = Vec::new();
        self.ahead_len = 0;
        self.duplicate = None;
    }

    /// Whether there is anything to tell by SACK.
    pub(super) fn has_sack(&self) -> bool {
        !self.ahead.is_empty() || self.duplicate.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver() -> Receiver {
        let mut receiver = Receiver::new(Seq(u32::MAX - 20), 100_000);
        receiver.advertise(1000);
        receiver
    }

    fn nothing(_: &[u8]) -> usize {
        0
    }

    #[test]
    fn pieces_in_any_order_come_out_in_one() {
        // A linear congruential generator: the same pieces in every run.
        let mut state = 1_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for _ in 0..300 {
            let all: Vec<u8> = (0..2000).map(|n: u32| (n * 31 / 8) as u8).collect();
            let mut receiver = receiver();
            let start = receiver.nxt;
            let mut got = Vec::new();
            while got.len() < all.len() || !receiver.is_closed() {
                let from = random(2000);
                let to = (from + 1 + random(300)).min(2000);
                let room = random(500) as usize;
                let data = &all[from as usize..to as usize];
                receiver.text(start + from, data, to == 2000, &mut |bytes| {
                    let n = bytes.len().min(room);
                    got.extend_from_slice(&bytes[..n]);
                    n
                });
                let ahead: usize = receiver.ahead.iter().map(|range| range.bytes.len()).sum();
                assert_eq!(ahead as u32, receiver.ahead_len);
                for pair in receiver.ahead.windows(2) {
                    assert!(pair[0].end().lt(pair[1].start), "sorted, and not touching");
                }
                assert!(receiver.ahead.first().is_none_or(|first| first.start.gt(receiver.nxt)));
                if random(4) == 0 {
                    receiver.read(|bytes| {
                        let n = bytes.len().min(100);
                        got.extend_from_slice(&bytes[..n]);
                        n
                    });
                }
            }
            assert_eq!(got, all);
            assert_eq!((receiver.held(), receiver.nxt), (0, start + 2001));
        }
    }

    #[test]
    fn the_latest_range_is_told_first() {
        let mut receiver = receiver();
        let at = receiver.nxt;
        for from in [100, 300, 500, 200] {
            receiver.text(at + from, &[0; 10], false, &mut nothing);
        }
        let told = receiver.sack_blocks();
        assert_eq!(told.as_slice()[0], (at + 200, at + 210));
        assert_eq!(told.as_slice().len(), 4);
        receiver.text(at + 300, &[0; 10], false, &mut nothing);
        // RFC 2883 4: the first block is what came twice, the second the range that it lies in.
        assert_eq!(receiver.sack_blocks().as_slice()[..2], [(at + 300, at + 310); 2]);
        assert_eq!(receiver.sack_blocks().as_slice()[0], (at + 300, at + 310), "the duplicate is told once");
    }

    #[test]
    fn the_window_never_moves_back_and_is_never_silly() {
        let mut receiver = Receiver::new(Seq(0), 10_000);
        receiver.advertise(1000);
        assert_eq!(receiver.window(), 10_000);
        receiver.text(Seq(1), &[0; 900], false, &mut nothing);
        assert_eq!(receiver.advertise(1000), 9_100);
        // RFC 9293 3.8.6.2.2: 900 bytes are less than a segment and less than half of the buffer.
        receiver.read(|bytes| bytes.len());
        assert_eq!(receiver.advertise(1000), 9_100);
        receiver.text(Seq(901), &[0; 100], false, &mut |bytes| bytes.len());
        assert_eq!(receiver.advertise(1000), 10_000);
        receiver.set_limit(100);
        assert_eq!(receiver.advertise(1000), 10_000);
    }

    #[test]
    fn what_is_not_kept_is_not_acknowledged() {
        let mut receiver = receiver();
        let at = receiver.nxt;
        receiver.text(at + 300, &[3; 100], false, &mut nothing);
        receiver.keep_at_most(250);
        receiver.text(at + 500, &[5; 100], false, &mut nothing);
        assert_eq!(receiver.held(), 200);
        receiver.text(at + 700, &[7; 100], false, &mut nothing);
        assert_eq!(receiver.held(), 200, "ahead of its turn: all or nothing");
        assert!(receiver.text(at, &[0; 300], false, &mut nothing));
        assert_eq!((receiver.held(), receiver.nxt), (250, at + 50));
        assert!(!receiver.text(at + 50, &[0; 250], false, &mut nothing));
        // What is taken at once needs no room, and what was held is not given up.
        receiver.read(|bytes| bytes.len());
        assert!(receiver.text(at + 50, &[0; 250], false, &mut |bytes| bytes.len().min(240)));
        assert_eq!((receiver.held(), receiver.nxt), (210, at + 400));
        receiver.read(|bytes| bytes.len());
        receiver.text(at + 400, &[0; 100], false, &mut nothing);
        assert_eq!((receiver.held(), receiver.nxt), (200, at + 600));
    }

    #[test]
    fn memory_is_little_more_than_what_is_held() {
        let mut receiver = Receiver::new(Seq(0), 1 << 20);
        for _ in 0..8 {
            receiver.text(receiver.nxt, &[0; 65_000], false, &mut nothing);
            assert!(receiver.memory() < receiver.held() + STEP, "{receiver:?}");
        }
        receiver.read(|bytes| bytes.len());
        assert_eq!(receiver.memory(), 0);
    }

    #[test]
    fn nothing_follows_a_fin() {
        let mut got = 0;
        let mut take = |bytes: &[u8]| {
            got += bytes.len();
            bytes.len()
        };
        // Data beyond a FIN that is known are cut off.
        let mut receiver = receiver();
        let at = receiver.nxt;
        receiver.text(at + 100, &[0; 50], true, &mut take);
        receiver.text(at, &[0; 400], false, &mut take);
        assert!(receiver.is_closed());
        assert_eq!(receiver.nxt, at + 151);
        // A FIN before data that came already is none.
        let mut receiver = self::receiver();
        receiver.text(at + 100, &[0; 50], false, &mut take);
        receiver.text(at, &[0; 50], true, &mut take);
        assert!(!receiver.is_closed());
        receiver.text(at + 50, &[0; 50], false, &mut take);
        assert_eq!((receiver.nxt, receiver.is_closed()), (at + 150, false));
        assert_eq!(got, 300);
    }

    #[test]
    fn holes_are_bounded() {
        let mut receiver = receiver();
        let at = receiver.nxt;
        for n in 0..10_000 {
            receiver.text(at + 2 + 2 * n, &[0], false, &mut nothing);
        }
        assert_eq!(receiver.ahead.len(), MAX_RANGES);
    }
}
