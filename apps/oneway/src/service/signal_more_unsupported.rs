//! Where there are no signals beyond those of POSIX.

use std::ops::Range;

use rustix::process::Signal;

/// None that asks for the end.
pub(super) const END: &[(Signal, &str)] = &[];

/// None that means nothing here.
pub(super) const STRAY: &[Signal] = &[];

/// None that kills.
pub(super) const REAL_TIME: Range<i32> = 0..0;
