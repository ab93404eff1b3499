//! How long a session may be silent.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::limits::Limits;

/// Seconds without a datagram after which a session ends.
///
/// What is asked once is over soon. A client that talks to anybody else by the same socket waits as long for an answer of
/// each (RFC 4787, REQ-5): the exception is for those ports alone.
#[derive(Debug)]
pub(super) struct Idle(AtomicU32);

impl Idle {
    /// Of a session whose first datagram goes to this port.
    pub(super) fn new(port: u16, limits: &Limits) -> Self {
        let limit = if answers_once(port) { limits.udp_idle_short } else { limits.udp_idle };
        Self(AtomicU32::new(limit.as_secs().try_into().unwrap_or(u32::MAX)))
    }

    /// Another datagram goes to this port.
    pub(super) fn also_to(&self, port: u16, limits: &Limits) {
        if answers_once(port) {
            return;
        }
        let full = limits.udp_idle.as_secs().try_into().unwrap_or(u32::MAX);
        if self.0.load(Ordering::Relaxed) < full {
            self.0.store(full, Ordering::Relaxed);
        }
    }

    /// Whether it is over after so many seconds of silence.
    pub(super) fn is_over(&self, silent: u32) -> bool {
        silent > self.0.load(Ordering::Relaxed)
    }
}

/// Ports whose server answers once, and soon.
fn answers_once(port: u16) -> bool {
    matches!(port, 53 | 123)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StackKind;

    #[test]
    fn one_that_talks_to_others_lives_as_long_as_they_need() {
        let limits = Limits::for_descriptors(1024, StackKind::User);
        let idle = Idle::new(123, &limits);
        assert!(!idle.is_over(20) && idle.is_over(21));
        idle.also_to(53, &limits);
        assert!(idle.is_over(21));
        idle.also_to(5000, &limits);
        assert!(!idle.is_over(120) && idle.is_over(121));
        idle.also_to(123, &limits);
        assert!(!idle.is_over(120));
        let idle = Idle::new(5000, &limits);
        assert!(!idle.is_over(120) && idle.is_over(121));
    }
}
