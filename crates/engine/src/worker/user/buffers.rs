//! Buffers for data on their way to clients: lent while the data are not acknowledged, then used again.

use std::cell::RefCell;
use std::io::IoSliceMut;
use std::rc::Rc;

use super::budget::Account;

/// Length of a buffer: the data of the longest packet.
pub(super) const BUFFER: usize = u16::MAX as usize;

/// Buffers that are kept for the next transfer; more are given back to the allocator.
const KEPT: usize = 64;

/// Buffers that one read fills, where there is much to read: for each call the socket acknowledges what was taken, which costs
/// more than the call itself.
const AT_ONCE: usize = 4;

/// Reads up to this length are copied into memory of their own: a few bytes that a client is slow to acknowledge are
/// not worth a whole buffer.
const SMALL: usize = 4096;

/// The buffers of one worker.
#[derive(Debug)]
pub(super) struct BufferPool {
    free: RefCell<Vec<Box<[u8]>>>,
    /// What is lent, and what connections hold besides.
    pub(super) account: Rc<Account>,
}

impl BufferPool {
    pub(super) fn new(account: Account) -> Self {
        Self { free: RefCell::default(), account: Rc::new(account) }
    }

    /// A buffer, whatever it holds.
    fn take(&self) -> Box<[u8]> {
        self.account.add(BUFFER);
        self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
    }

    /// Buffers for one read of `room` bytes at most, of which one packet carries `piece`: with `much` several, else one.
    pub(super) fn take_for(self: &Rc<Self>, room: usize, piece: usize, much: bool) -> Reading<'_> {
        let piece = piece.clamp(1, BUFFER);
        let mut reading = Reading { pool: self, buffers: Default::default(), piece, room: 0 };
        let most = if much { AT_ONCE } else { 1 };
        for buffer in reading.buffers.iter_mut().take(most.min(room.div_ceil(piece))) {
            *buffer = self.take();
            reading.room = (reading.room + piece).min(room);
        }
        reading
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        self.account.sub(buffer.len());
        let mut free = self.free.borrow_mut();
        if buffer.len() == BUFFER && free.len() < KEPT {
            free.push(buffer);
        }
    }

    /// The first `len` bytes of a buffer, as data to be sent.
    fn chunk(self: &Rc<Self>, buffer: Box<[u8]>, len: usize) -> Chunk {
        if len > SMALL && !(len < BUFFER / 2 && self.account.is_tight()) {
            return Chunk::Lent(Lent { pool: Rc::clone(self), buffer, len });
        }
        let copy: Box<[u8]> = buffer.get(..len).unwrap_or_default().into();
        self.give_back(buffer);
        self.account.add(len);
        Chunk::Lent(Lent { pool: Rc::clone(self), buffer: copy, len })
    }
}

/// Where one read goes.
pub(super) struct Reading<'a> {
    pool: &'a Rc<BufferPool>,
    /// Those that are used have [`BUFFER`] bytes, the others none.
    buffers: [Box<[u8]>; AT_ONCE],
    /// What is used of each but the last.
    piece: usize,
    /// What is used of all.
    room: usize,
}

impl Reading<'_> {
    /// Bytes that one read can bring.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Gives `read` the memory to be filled.
    pub(super) fn with_slices<T>(&mut self, read: impl FnOnce(&mut [IoSliceMut<'_>]) -> T) -> T {
        let mut left = self.room;
        let mut count = 0;
        let mut slices = self.buffers.each_mut().map(|buffer| {
            let len = left.min(self.piece);
            left -= len;
            count += usize::from(len > 0);
            IoSliceMut::new(buffer.get_mut(..len).unwrap_or_default())
        });
        read(slices.get_mut(..count).unwrap_or_default())
    }

    /// Hands the first `len` bytes to `each`, a packet's data at a time.
    pub(super) fn filled(mut self, len: usize, mut each: impl FnMut(Chunk)) {
        let mut left = len.min(self.room);
        for buffer in &mut self.buffers {
            if left == 0 {
                break;
            }
            let len = left.min(self.piece);
            left -= len;
            each(self.pool.chunk(std::mem::take(buffer), len));
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        for buffer in &mut self.buffers {
            if !buffer.is_empty() {
                self.pool.give_back(std::mem::take(buffer));
            }
        }
    }
}

/// Data to be sent.
#[derive(Debug)]
pub(super) enum Chunk {
    Owned(Box<[u8]>),
    Lent(Lent),
}

/// A buffer that goes back to its pool, or a copy that only its account hears of.
#[derive(Debug)]
pub(super) struct Lent {
    pool: Rc<BufferPool>,
    buffer: Box<[u8]>,
    len: usize,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        match self {
            Chunk::Owned(bytes) => bytes,
            Chunk::Lent(lent) => lent.buffer.get(..lent.len).unwrap_or_default(),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::worker::user::budget::Budget;

    fn pool(most: usize) -> Rc<BufferPool> {
        Rc::new(BufferPool::new(Account::new(&Arc::new(Budget::new(most)))))
    }

    /// What a read of `len` bytes becomes.
    fn chunks(pool: &Rc<BufferPool>, (room, piece, much): (usize, usize, bool), len: usize) -> Vec<Vec<u8>> {
        let mut reading = pool.take_for(room, piece, much);
        reading.with_slices(|slices| {
            for (n, byte) in slices.iter_mut().flat_map(|slice| slice.iter_mut()).enumerate() {
                *byte = n as u8;
            }
        });
        let mut chunks = Vec::new();
        reading.filled(len, |chunk| chunks.push(chunk.as_ref().to_vec()));
        chunks
    }

    #[test]
    fn what_was_read_lies_in_packets_in_its_order() {
        let pool = pool(64 << 20);
        for (room, piece, much) in
            [(1, 65_000, false), (65_000, 65_000, false), (130_001, 65_000, true), (1 << 20, 65_000, true)]
        {
            let able = pool.take_for(room, piece, much).room();
            for len in [1, able / 2, able.saturating_sub(1), able] {
                let chunks = chunks(&pool, (room, piece, much), len);
                assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() == piece));
                let bytes = chunks.concat();
                assert_eq!(bytes.len(), len, "room {room}");
                assert!(bytes.iter().enumerate().all(|(n, &byte)| byte == n as u8));
            }
        }
    }

    #[test]
    fn no_more_is_read_than_there_is_room_for() {
        let pool = pool(64 << 20);
        assert_eq!(pool.take_for(70_000, 65_000, false).room(), 65_000);
        assert_eq!(pool.take_for(70_000, 65_000, true).room(), 70_000);
        assert_eq!(pool.take_for(1 << 20, 65_000, true).room(), AT_ONCE * 65_000);
        assert_eq!(pool.take_for(100, 1460, true).room(), 100);
    }

    #[test]
    fn buffers_come_back_once() {
        let pool = pool(64 << 20);
        drop(pool.take_for(1 << 20, BUFFER, true));
        assert_eq!(pool.free.borrow().len(), AT_ONCE);
        pool.take_for(1 << 20, BUFFER, true).filled(BUFFER + SMALL, |_| {});
        assert_eq!(pool.free.borrow().len(), AT_ONCE);
        assert!(pool.free.borrow().iter().all(|buffer| buffer.len() == BUFFER));
    }

    #[test]
    fn what_is_lent_is_on_the_account_and_short_of_memory_no_more_than_twice_the_data() {
        for (most, len, on_account) in
            [(64 << 20, 100, 100), (64 << 20, 5000, BUFFER), (0, 5000, 5000), (0, BUFFER / 2, BUFFER)]
        {
            let pool = pool(most);
            let mut lent = Vec::new();
            pool.take_for(1 << 20, BUFFER, false).filled(len, |chunk| lent.push(chunk));
            assert_eq!(pool.account.held(), on_account, "{len} of {most}");
            drop(lent);
            assert_eq!(pool.account.held(), 0);
        }
    }
}
