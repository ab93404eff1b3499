//! A SYN that asks for a connection.

use oneway_wire::tcp::Flags;

use super::segment::{Segment, SynOptions};
use super::seq::Seq;

/// A peer's SYN, all that is kept of it while nothing is answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    pub(super) irs: Seq,
    pub(super) window: u16,
    pub(super) options: SynOptions,
    pub(super) timestamp: Option<u32>,
}

impl Syn {
    /// Reads a segment that asks for a new connection (RFC 9293 3.10.7.2). `None` when it is none.
    pub fn from_segment(segment: &Segment<'_>) -> Option<Syn> {
        let asks = segment.flags.contains(Flags::SYN) && !segment.flags.intersects(Flags::ACK | Flags::RST);
        asks.then(|| Syn {
            irs: segment.seq,
            window: segment.window,
            options: segment.syn,
            timestamp: segment.timestamps.map(|timestamps| timestamps.value),
        })
    }

    /// IRS: the peer's initial sequence number.
    pub fn seq(&self) -> Seq {
        self.irs
    }
}
