//! Sequence numbers: arithmetic modulo 2**32 (RFC 9293 3.4).

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// A sequence number.
///
/// Comparisons are methods and not `Ord`: the order is one of a circle, and holds between numbers that are less than
/// 2**31 apart.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// `self < other`.
    pub const fn lt(self, other: Seq) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// `self <= other`.
    pub const fn le(self, other: Seq) -> bool {
        !other.lt(self)
    }

    /// `self > other`.
    pub const fn gt(self, other: Seq) -> bool {
        other.lt(self)
    }

    /// `self >= other`.
    pub const fn ge(self, other: Seq) -> bool {
        !self.lt(other)
    }

    /// The later of the two.
    #[must_use]
    pub const fn max(self, other: Seq) -> Seq {
        if self.lt(other) { other } else { self }
    }

    /// The earlier of the two.
    #[must_use]
    pub const fn min(self, other: Seq) -> Seq {
        if other.lt(self) { other } else { self }
    }

    /// How far `self` is behind `earlier`; 0 when it is not.
    pub const fn since(self, earlier: Seq) -> u32 {
        if self.lt(earlier) { 0 } else { self.0.wrapping_sub(earlier.0) }
    }
}

impl Add<u32> for Seq {
    type Output = Seq;

    fn add(self, by: u32) -> Seq {
        Seq(self.0.wrapping_add(by))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, by: u32) {
        *self = *self + by;
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;

    fn sub(self, by: u32) -> Seq {
        Seq(self.0.wrapping_sub(by))
    }
}

/// The distance from `earlier`, modulo 2**32.
impl Sub<Seq> for Seq {
    type Output = u32;

    fn sub(self, earlier: Seq) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_goes_over_the_wrap() {
        let (before, after) = (Seq(u32::MAX - 1), Seq(3));
        assert!(before.lt(after) && before.le(after) && after.gt(before) && after.ge(before));
        assert_eq!(after - before, 5);
        assert_eq!(before + 5, after);
        assert_eq!(after - 5, before);
        assert_eq!((before.max(after), before.min(after)), (after, before));
        assert_eq!((after.since(before), before.since(after)), (5, 0));
    }
}
