//! What the tests of several modules share.

use std::net::{IpAddr, SocketAddr};

/// xorshift64*: random input that is the same on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Random bytes, at times nothing but zeros or ones, where ones' complement arithmetic has its corners.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        match self.below(8) {
            0 => vec![0; len],
            1 => vec![0xff; len],
            _ => (0..len).map(|_| self.next() as u8).collect(),
        }
    }

    pub(crate) fn word(&mut self) -> u16 {
        match self.below(8) {
            0 => 0,
            1 => 0xffff,
            _ => self.next() as u16,
        }
    }

    pub(crate) fn ip(&mut self, v6: bool) -> IpAddr {
        let bytes = self.bytes(16);
        if v6 {
            IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap())
        } else {
            IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).unwrap())
        }
    }

    pub(crate) fn endpoint(&mut self, v6: bool) -> SocketAddr {
        SocketAddr::new(self.ip(v6), self.word())
    }
}

/// Bytes from hexadecimal digits; white space does not count.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
