//! Signals that only Linux has.

use std::ops::RangeInclusive;

use rustix::process::Signal;

/// What asks for the end: the power fails, or LXC stops the container of which this is the first process.
pub(super) const END: &[(Signal, &str)] = &[(Signal::POWER, "SIGPWR")];

/// What means nothing here: the kernel never sends it.
pub(super) const STRAY: &[Signal] = &[Signal::STKFLT];

/// What means nothing here either, and kills as well (signal(7), "Real-time signals").
pub(super) const REAL_TIME: RangeInclusive<i32> = 34..=64;
