//! Bytes that anybody can make again, and a checksum over them.

use std::sync::OnceLock;

/// The pattern repeats after a prime number of bytes, so that a block that was lost or sent twice shows.
pub const PERIOD: usize = 65_521;

fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        // The period is there twice, so that a piece of that length can be taken at any offset.
        let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(PERIOD).collect();
        bytes.extend_from_within(..);
        bytes
    })
}

/// The longest piece, at most [`PERIOD`] bytes, of the pattern from byte `offset` on.
pub fn piece(offset: u64, longest: usize) -> &'static [u8] {
    let start = usize::try_from(offset % PERIOD as u64).unwrap_or(0);
    &block()[start..start + longest.min(PERIOD)]
}

/// The first `length` bytes of the pattern.
pub fn bytes(length: usize) -> Vec<u8> {
    block()[..PERIOD].iter().copied().cycle().take(length).collect()
}

/// Counts bytes and computes their FNV-1a checksum of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// How many bytes.
    pub bytes: u64,
    /// FNV-1a of them.
    pub checksum: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { bytes: 0, checksum: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Sum {
    /// Of these bytes.
    pub fn of(data: &[u8]) -> Self {
        let mut sum = Self::default();
        sum.add(data);
        sum
    }

    /// Of the first `length` bytes of the pattern.
    pub fn of_pattern(length: u64) -> Self {
        let mut sum = Self::default();
        while sum.bytes < length {
            let left = usize::try_from(length - sum.bytes).unwrap_or(usize::MAX);
            sum.add(piece(sum.bytes, left));
        }
        sum
    }

    /// Takes further bytes in.
    pub fn add(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.checksum = data
            .iter()
            .fold(self.checksum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    }

    /// Reads what `Display` wrote: the count in decimal and the checksum in hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let (bytes, checksum) = text.trim().split_once(' ')?;
        Some(Self { bytes: bytes.parse().ok()?, checksum: u64::from_str_radix(checksum, 16).ok()? })
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:016x}", self.bytes, self.checksum)
    }
}
