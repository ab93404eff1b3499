//! Reads binary files of rules. Every length is checked against what is there before anything is allocated.

use crate::error::BinaryError;

/// What is left of a file.
#[derive(Clone, Debug)]
pub(crate) struct Bytes<'a> {
    rest: &'a [u8],
    /// How much there was, for the errors.
    total: usize,
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, total: bytes.len() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes have been read.
    pub(crate) fn position(&self) -> usize {
        self.total - self.rest.len()
    }

    /// An error at this position.
    pub(crate) fn wrong(&self, message: impl std::fmt::Display) -> BinaryError {
        BinaryError::new(format!("{message}, at byte {} of {}", self.position(), self.total))
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], BinaryError> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.wrong(format_args!("{len} more bytes are expected, but the file ends"))),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], BinaryError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, BinaryError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, BinaryError> {
        Ok(self.u8()? != 0)
    }

    pub(crate) fn u64_be(&mut self) -> Result<u64, BinaryError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A number in groups of seven bits, the lowest first (LEB128).
    pub(crate) fn varint(&mut self) -> Result<u64, BinaryError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.wrong("a number has more than 64 bits"))
    }

    /// Checks a count of things that take at least `each` bytes.
    pub(crate) fn count(&self, count: u64, each: usize) -> Result<usize, BinaryError> {
        match usize::try_from(count) {
            Ok(count) if count.checked_mul(each).is_some_and(|bytes| bytes <= self.rest.len()) => Ok(count),
            _ => Err(self.wrong(format_args!("{count} entries are announced, but the file is shorter"))),
        }
    }

    pub(crate) fn varint_count(&mut self, each: usize) -> Result<usize, BinaryError> {
        let count = self.varint()?;
        self.count(count, each)
    }
}
