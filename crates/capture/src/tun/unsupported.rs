//! Systems whose TUN device is not written yet: nothing can be opened, so no queue ever exists.

use std::convert::Infallible;
use std::io;

use super::{Offload, TunError, TunOptions};

/// A TUN device; there is none on this system.
#[derive(Debug)]
pub struct Tun {
    never: Infallible,
}

/// One queue of a TUN device; there is none on this system.
#[derive(Debug)]
pub struct Queue {
    never: Infallible,
}

impl Tun {
    /// Always [`TunError::Unsupported`].
    pub fn open(_options: &TunOptions) -> Result<Self, TunError> {
        Err(TunError::Unsupported)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        match self.never {}
    }

    /// What the kernel does for us.
    pub fn offload(&self) -> Offload {
        match self.never {}
    }

    /// The queues, to be handed to workers.
    pub fn into_queues(self) -> Vec<Queue> {
        match self.never {}
    }
}

impl Queue {
    /// Reads one frame.
    pub fn read(&self, _frame: &mut [u8]) -> io::Result<usize> {
        match self.never {}
    }

    /// Writes one frame in pieces.
    pub fn write_vectored(&self, _parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        match self.never {}
    }

    /// Writes one frame.
    pub fn write(&self, _frame: &[u8]) -> io::Result<()> {
        match self.never {}
    }
}
