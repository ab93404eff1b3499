//! Acknowledgements of the system stack's connections that stand in the queue before what says the same and more.
//!
//! A client that has been let in acknowledges the handshake and sends its request, one that has its answer acknowledges
//! that and closes: two segments each time, of which the second repeats what the first says (RFC 9293, 3.10.7.4, fifth).
//! Handing a packet to the kernel is what a connection costs most, so the first is kept until the batch has been read.

use std::net::SocketAddr;

use oneway_capture::FRAME_HEADER;
use oneway_wire::tcp::{Flags, HEADER_LEN, TcpView};

/// Those that are kept at a time, at most.
const MOST: usize = 32;

/// The options of a segment that has nothing but a timestamp, as all systems write it (RFC 7323, Appendix A).
const TIMESTAMP: [u8; 4] = [1, 1, 8, 10];
const TIMESTAMP_LEN: usize = 12;

/// Bytes of the longest frame that is kept: IPv6, and a timestamp.
const LONGEST: usize = FRAME_HEADER + 40 + HEADER_LEN + TIMESTAMP_LEN;

/// What a segment says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Says {
    seq: u32,
    ack: u32,
    flags: Flags,
    /// An acknowledgement, and nothing else.
    is_bare: bool,
    /// There is data in it, or the end of it.
    has_more: bool,
}

impl Says {
    pub(super) fn of(tcp: &TcpView<'_>) -> Self {
        let (flags, has_data) = (tcp.flags(), !tcp.payload().is_empty());
        let options = tcp.raw_options();
        // Others may say what no later segment repeats (SACK, RFC 2018).
        let is_plain =
            options.is_empty() || options.len() == TIMESTAMP_LEN && options.starts_with(&TIMESTAMP);
        Self {
            seq: tcp.seq(),
            ack: tcp.ack(),
            flags,
            is_bare: flags == Flags::ACK && !has_data && is_plain,
            has_more: has_data || flags.contains(Flags::FIN),
        }
    }

    /// Whether nobody misses `earlier`, which is bare, once this is there. What repeats an acknowledgement and has nothing
    /// more tells of a loss (RFC 5681, 2), and is counted.
    fn repeats(self, earlier: Self) -> bool {
        let further = self.ack.wrapping_sub(earlier.ack) as i32;
        self.flags.contains(Flags::ACK)
            && !self.flags.intersects(Flags::SYN | Flags::RST)
            && self.seq == earlier.seq
            && (further > 0 || further == 0 && self.has_more)
    }
}

/// Where a segment is from and where to.
type Ends = (SocketAddr, SocketAddr);

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Acks {
    kept: Vec<(Ends, Says, [u8; LONGEST], usize)>,
}

impl Acks {
    /// What is kept of a connection's direction is to be written by `write` before its next segment, unless that repeats
    /// it.
    pub(super) fn before(&mut self, ends: Ends, says: Says, write: impl FnOnce(&[u8])) {
        let Some(at) = self.kept.iter().position(|kept| kept.0 == ends) else { return };
        let (_, earlier, frame, len) = self.kept.swap_remove(at);
        if !says.repeats(earlier) {
            write(frame.get(..len).unwrap_or_default());
        }
    }

    /// Keeps the frame of a segment, if it is one that may be repeated by another.
    pub(super) fn keep(&mut self, ends: Ends, says: Says, frame: &[u8]) -> bool {
        let mut copy = [0; LONGEST];
        let place = copy.get_mut(..frame.len()).filter(|_| says.is_bare && self.kept.len() < MOST);
        let Some(place) = place else { return false };
        place.copy_from_slice(frame);
        self.kept.push((ends, says, copy, frame.len()));
        true
    }

    /// Gives `write` all that is kept.
    pub(super) fn empty(&mut self, mut write: impl FnMut(&[u8])) {
        for (_, _, frame, len) in self.kept.drain(..) {
            write(frame.get(..len).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(flags: Flags, seq: u32, ack: u32, options: &[u8], data: &[u8]) -> Says {
        let mut segment = vec![0; HEADER_LEN];
        segment[4..8].copy_from_slice(&seq.to_be_bytes());
        segment[8..12].copy_from_slice(&ack.to_be_bytes());
        segment[12] = (((HEADER_LEN + options.len()) / 4) << 4) as u8;
        segment[13] = flags.0;
        segment.extend_from_slice(options);
        segment.extend_from_slice(data);
        Says::of(&TcpView::parse(&segment).unwrap())
    }

    fn ack(ack: u32) -> Says {
        says(Flags::ACK, 7, ack, &[], &[])
    }

    fn ends(port: u16) -> Ends {
        (([192, 0, 2, 1], port).into(), ([192, 0, 2, 2], 80).into())
    }

    #[test]
    fn only_what_is_repeated_is_left_out() {
        let data = |flags, seq, ack| says(flags, seq, ack, &[], b"data");
        for (later, is_left_out) in [
            (data(Flags::ACK, 7, 100), true),
            (data(Flags::ACK | Flags::PSH, 7, 101), true),
            (says(Flags::ACK | Flags::FIN, 7, 100, &[], &[]), true),
            (ack(101), true),
            // It is counted.
            (ack(100), false),
            (ack(99), false),
            (data(Flags::ACK, 7, 99), false),
            (data(Flags::ACK, 8, 100), false),
            (data(Flags::PSH, 7, 100), false),
            (says(Flags::ACK | Flags::RST, 7, 100, &[], &[]), false),
            (says(Flags::ACK | Flags::SYN, 7, 101, &[], &[]), false),
        ] {
            let mut acks = Acks::default();
            assert!(acks.keep(ends(1), ack(100), b"held"));
            let mut written = Vec::new();
            acks.before(ends(2), later, |_| panic!("another connection's"));
            acks.before(ends(1), later, |frame| written.extend_from_slice(frame));
            assert_eq!(written.is_empty(), is_left_out, "{later:?}");
            acks.empty(|_| panic!("written twice"));
        }
    }

    #[test]
    fn half_of_the_numbers_are_later() {
        let first = ack(u32::MAX - 3);
        assert!(ack(5).repeats(first) && !first.repeats(ack(5)));
    }

    #[test]
    fn only_bare_acknowledgements_are_kept() {
        let stamp = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let sack = [1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        for (says, is_kept) in [
            (ack(1), true),
            (says(Flags::ACK, 1, 1, &stamp, &[]), true),
            (says(Flags::ACK, 1, 1, &sack, &[]), false),
            (says(Flags::ACK, 1, 1, &[], b"data"), false),
            (says(Flags::ACK | Flags::FIN, 1, 1, &[], &[]), false),
            (says(Flags::ACK | Flags::ECE, 1, 1, &[], &[]), false),
            (says(Flags::ACK | Flags::SYN, 1, 1, &[], &[]), false),
            (says(Flags::RST, 1, 1, &[], &[]), false),
        ] {
            assert_eq!(Acks::default().keep(ends(1), says, b"held"), is_kept, "{says:?}");
        }
        assert!(!Acks::default().keep(ends(1), ack(1), &[0; LONGEST + 1]));
        let mut acks = Acks::default();
        let kept = (0..100).filter(|port| acks.keep(ends(*port), ack(1), b"held")).count();
        let mut written = 0;
        acks.empty(|frame| written += usize::from(frame == b"held"));
        assert_eq!((kept, written), (MOST, MOST));
    }
}
