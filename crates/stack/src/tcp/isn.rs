//! Initial sequence numbers that nobody can guess (RFC 6528).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;

use super::seq::Seq;
use super::time::Time;

/// Makes initial sequence numbers: ISN = M + F(addresses and ports, secret), where M counts every 4 microseconds.
///
/// F is SipHash with a key that the operating system drew at random.
#[derive(Clone, Debug, Default)]
pub struct IsnGenerator {
    isn: RandomState,
    timestamp: RandomState,
}

impl IsnGenerator {
    /// A generator with a secret of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// The initial sequence number of a connection between these two ends.
    pub fn isn(&self, now: Time, local: SocketAddr, remote: SocketAddr) -> Seq {
        Seq(self.isn.hash_one((local, remote)) as u32) + (now.as_micros() / 4) as u32
    }

    /// What its timestamps are to be shifted by (RFC 7323 5.4): the same for the same two ends, so that the clock of a
    /// connection goes on in the next.
    pub fn timestamp_offset(&self, local: SocketAddr, remote: SocketAddr) -> u32 {
        self.timestamp.hash_one((local, remote)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_clock_for_one_pair_and_differs_between_pairs_and_generators() {
        let (a, b): (SocketAddr, SocketAddr) =
            ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        let (one, other) = (IsnGenerator::new(), IsnGenerator::new());
        let at = Time::from_micros;
        assert_eq!(one.isn(at(4_000_000), a, b) - one.isn(at(0), a, b), 1_000_000);
        assert_ne!(one.isn(at(0), a, b), one.isn(at(0), b, a));
        assert_ne!(one.isn(at(0), a, b), other.isn(at(0), a, b));
        assert_eq!(one.timestamp_offset(a, b), one.timestamp_offset(a, b));
    }
}
