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
    /// The last sequence number of the connection that this one takes the place of.
    pub(super) after: Option<Seq>,
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
            after: None,
        })
    }

    /// The peer's SYN again, as it is now.
    #[must_use]
    pub fn again(&self, newer: Syn) -> Syn {
        Syn { after: newer.after.or(self.after), ..newer }
    }

    /// What a new connection may begin with: `iss`, or a number beyond all that the last one used, where it takes the
    /// place of one in TIME-WAIT (RFC 9293 3.6.1, MAY-2).
    pub(super) fn iss(&self, iss: Seq) -> Seq {
        // As far as Linux goes, too (`tcp_timewait_state_process`): beyond any window without scale.
        const GAP: u32 = 65_537;
        match self.after {
            Some(last) if iss.le(last) => last + GAP,
            _ => iss,
        }
    }

    /// IRS: the peer's initial sequence number.
    pub fn seq(&self) -> Seq {
        self.irs
    }
}
