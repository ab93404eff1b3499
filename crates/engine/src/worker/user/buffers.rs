//! Buffers for data on their way to clients: lent while the data are not acknowledged, then used again.

use std::cell::RefCell;
use std::rc::Rc;

/// Length of a buffer: the data of the longest packet.
pub(super) const BUFFER: usize = u16::MAX as usize;

/// Buffers that are kept for the next transfer; more are given back to the allocator.
const KEPT: usize = 64;

/// Reads up to this length are copied into memory of their own: a few bytes that a client is slow to acknowledge are
/// not worth a whole buffer.
const SMALL: usize = 4096;

/// The buffers of one worker.
#[derive(Debug, Default)]
pub(super) struct BufferPool(RefCell<Vec<Box<[u8]>>>);

impl BufferPool {
    /// A buffer, whatever it holds.
    pub(super) fn take(&self) -> Box<[u8]> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
    }

    pub(super) fn give_back(&self, buffer: Box<[u8]>) {
        let mut free = self.0.borrow_mut();
        if free.len() < KEPT {
            free.push(buffer);
        }
    }

    /// The first `len` bytes of a buffer, as data to be sent.
    pub(super) fn chunk(self: &Rc<Self>, buffer: Box<[u8]>, len: usize) -> Chunk {
        if len <= SMALL {
            let copy = buffer.get(..len).unwrap_or_default().into();
            self.give_back(buffer);
            return Chunk::Owned(copy);
        }
        Chunk::Lent(Lent { pool: Rc::clone(self), buffer, len })
    }
}

/// Data to be sent.
#[derive(Debug)]
pub(super) enum Chunk {
    Owned(Box<[u8]>),
    Lent(Lent),
}

/// A buffer that goes back to its pool.
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
