//! The bytes that the peer has not acknowledged, in the buffers that they were read into.

use std::collections::VecDeque;

use super::segment::Payload;
use super::seq::Seq;

/// Bytes from SND.UNA on: sent ones, then those that wait.
///
/// It owns the caller's buffers and gives each back, by dropping it, when its last byte is acknowledged. An empty queue
/// owns no memory.
#[derive(Debug)]
pub(super) struct SendQueue<B> {
    chunks: VecDeque<B>,
    /// Bytes of the first chunk that are acknowledged.
    skip: usize,
    /// The sequence number of the first byte.
    base: Seq,
    len: u32,
}

impl<B: AsRef<[u8]>> SendQueue<B> {
    pub(super) fn new(base: Seq) -> Self {
        Self { chunks: VecDeque::new(), skip: 0, base, len: 0 }
    }

    /// The sequence number behind the last byte.
    pub(super) fn end(&self) -> Seq {
        self.base + self.len
    }

    /// Bytes held.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Buffers held.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Buffers that there is memory for; for tests.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.chunks.capacity()
    }

    /// Appends a buffer.
    pub(super) fn push(&mut self, chunk: B) {
        let len = chunk.as_ref().len() as u32;
        if len > 0 {
            self.len += len;
            self.chunks.push_back(chunk);
        }
    }

    /// Drops what lies before `una`.
    pub(super) fn acknowledge(&mut self, una: Seq) {
        let mut by = una.since(self.base).min(self.len);
        self.base += by;
        self.len -= by;
        while let Some(first) = self.chunks.front() {
            let left = (first.as_ref().len() - self.skip) as u32;
            if by < left {
                self.skip += by as usize;
                return;
            }
            by -= left;
            self.skip = 0;
            self.chunks.pop_front();
        }
        if self.chunks.capacity() > 4 {
            self.chunks = VecDeque::new();
        }
    }

    /// The bytes `from..to`, or a beginning of them where they lie in too many pieces.
    pub(super) fn payload(&self, from: Seq, to: Seq) -> Payload<'_> {
        let mut payload = Payload::default();
        let mut skip = self.skip + from.since(self.base) as usize;
        let mut wanted = to.min(self.end()).since(from.max(self.base)) as usize;
        for chunk in &self.chunks {
            let chunk = chunk.as_ref();
            if skip >= chunk.len() {
                skip -= chunk.len();
                continue;
            }
            let part = chunk.get(skip..(skip + wanted).min(chunk.len())).unwrap_or_default();
            skip = 0;
            if part.is_empty() || !payload.push(part) {
                break;
            }
            wanted -= part.len();
        }
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(payload: &Payload<'_>) -> Vec<u8> {
        payload.parts().concat()
    }

    #[test]
    fn gives_any_range_and_drops_what_is_acknowledged() {
        let base = Seq(u32::MAX - 5);
        let mut queue = SendQueue::new(base);
        let all: Vec<u8> = (0..100).collect();
        for part in all.chunks(7) {
            queue.push(part.to_vec());
        }
        assert_eq!((queue.len(), queue.end()), (100, base + 100));
        for from in 0..60 {
            for to in from..(from + 40) {
                let payload = queue.payload(base + from, base + to);
                assert_eq!(bytes(&payload), all[from as usize..to as usize]);
                assert_eq!(payload.len() as u32, to - from);
            }
        }
        let mut una = 0;
        for step in [0, 1, 6, 7, 13, 20, 1, 30, 21, 1] {
            una += step;
            queue.acknowledge(base + una);
            assert_eq!(queue.len(), 100 - una);
            let left = bytes(&queue.payload(base + una, base + una + 10));
            assert_eq!(left, all[una as usize..(una as usize + 10).min(100)]);
        }
        assert_eq!((queue.len(), queue.chunks()), (0, 0));
        assert!(queue.payload(base + 100, base + 200).is_empty());
        queue.acknowledge(base + 400);
        assert_eq!(queue.end(), base + 100, "nothing is acknowledged that was never there");
    }

    #[test]
    fn a_range_in_too_many_pieces_is_cut() {
        let mut queue = SendQueue::new(Seq(0));
        for n in 0..20 {
            queue.push(vec![n]);
        }
        assert_eq!(queue.payload(Seq(3), Seq(20)).len(), Payload::MAX_PARTS);
    }
}
