//! Bytes of which the end may not be here yet.

/// What a field of a message is read from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// Whether more may follow: otherwise what is missing is an error.
    grows: bool,
}

/// Why a field cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It has not come yet.
    More,
    /// It is not what it should be.
    Wrong,
}

impl<'a> Reader<'a> {
    /// The beginning of something.
    pub(crate) fn growing(bytes: &'a [u8]) -> Self {
        Self { bytes, grows: true }
    }

    /// All of something.
    pub(crate) fn whole(bytes: &'a [u8]) -> Self {
        Self { bytes, grows: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    fn missing(&self) -> Stop {
        if self.grows { Stop::More } else { Stop::Wrong }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(self.missing())?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A number of so many bytes, at most 8.
    pub(crate) fn number(&mut self, bytes: usize) -> Result<usize, Stop> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector whose length stands before it, in so many bytes (RFC 8446, 3.4). Its end may still be missing.
    pub(crate) fn vector(&mut self, bytes: usize) -> Result<Self, Stop> {
        let len = self.number(bytes)?;
        Ok(match self.bytes.split_at_checked(len) {
            Some((inner, rest)) => {
                self.bytes = rest;
                Self { bytes: inner, grows: false }
            }
            None if self.grows => Self { bytes: std::mem::take(&mut self.bytes), grows: true },
            None => return Err(Stop::Wrong),
        })
    }

    /// A variable-length integer (RFC 9000, 16).
    pub(crate) fn varint(&mut self) -> Result<u64, Stop> {
        let first = *self.bytes.first().ok_or(self.missing())?;
        let len = 1 << (first >> 6);
        let taken = self.take(len)?;
        let value = taken.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        // The two highest bits are the length.
        Ok(value & (u64::MAX >> (64 - 8 * len + 2)))
    }
}
