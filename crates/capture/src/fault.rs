//! Losing, delaying, reordering, duplicating and corrupting packets on purpose.
//!
//! Made for tests and for users who want to see what their programs do on a bad link; the kernel's `netem` is not on
//! every machine. Time and packets are arguments, and the random numbers come from a seed: the same input gives the
//! same faults.

#[cfg(debug_assertions)]
mod bug;
#[cfg(not(debug_assertions))]
#[path = "fault/no_bug.rs"]
mod bug;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use oneway_wire::virtio::{Gso, VirtioNetHdr, complete_checksum};

pub use bug::Bug;

use crate::FRAME_HEADER;

/// Which faults, and how often. Chances are between 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultSpec {
    /// Chance that a packet vanishes.
    pub loss: f64,
    /// Chance that a packet comes twice.
    pub duplicate: f64,
    /// Chance that a packet is held back for [`FaultSpec::REORDER_HOLD`] and so overtaken.
    pub reorder: f64,
    /// Chance that one bit of a packet is flipped.
    pub corrupt: f64,
    /// Time that each packet is held back.
    pub delay: Duration,
    /// Start of the random sequence.
    pub seed: u64,
    /// A panic, in builds for tests.
    pub bug: Bug,
}

impl Default for FaultSpec {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            corrupt: 0.0,
            delay: Duration::ZERO,
            seed: 1,
            bug: Bug::default(),
        }
    }
}

impl FaultSpec {
    /// How long a reordered packet is held back beyond `delay`.
    pub const REORDER_HOLD: Duration = Duration::from_millis(3);

    /// Whether packets must carry whole checksums, so that their receiver can see that they were corrupted: what the
    /// kernel left to be computed later would be computed over the corrupted bytes.
    pub fn needs_checksums(&self) -> bool {
        self.corrupt > 0.0
    }
}

// No chance is NaN: parsing refuses it, and it is none.
impl Eq for FaultSpec {}

/// A fault specification that cannot be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "cannot read the fault {0:?}; write for example loss=1%,delay=20ms,reorder=2%,duplicate=1%,corrupt=0.1%,seed=7"
)]
pub struct BadFaultSpec(String);

impl FromStr for FaultSpec {
    type Err = BadFaultSpec;

    fn from_str(text: &str) -> Result<Self, BadFaultSpec> {
        let mut spec = Self::default();
        for item in text.split(',') {
            let bad = || BadFaultSpec(item.to_owned());
            let (key, value) = item.split_once('=').ok_or_else(bad)?;
            match key.trim() {
                "loss" => spec.loss = chance(value).ok_or_else(bad)?,
                "duplicate" => spec.duplicate = chance(value).ok_or_else(bad)?,
                "reorder" => spec.reorder = chance(value).ok_or_else(bad)?,
                "corrupt" => spec.corrupt = chance(value).ok_or_else(bad)?,
                "delay" => {
                    let millis = value.trim().strip_suffix("ms").and_then(|ms| ms.parse().ok());
                    spec.delay =
                        Duration::from_millis(millis.filter(|&ms: &u64| ms <= 60_000).ok_or_else(bad)?);
                }
                "seed" => spec.seed = value.trim().parse().map_err(|_| bad())?,
                key => spec.bug.read(key, value.trim()).ok_or_else(bad)?,
            }
        }
        Ok(spec)
    }
}

fn chance(text: &str) -> Option<f64> {
    let text = text.trim();
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    (0.0..=1.0).contains(&value).then_some(value)
}

/// One direction of a disturbed link.
#[derive(Debug)]
pub struct Fault {
    spec: FaultSpec,
    random: u64,
    sequence: u64,
    held: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
}

impl Fault {
    /// At most so many frames are held back; further ones are lost, as on a full queue.
    pub const MAX_HELD: usize = 4096;

    /// A link with these faults.
    pub fn new(spec: FaultSpec) -> Self {
        let random = spec.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { spec, random, sequence: 0, held: BinaryHeap::new() }
    }

    /// Takes one frame at `now`; what is to come out of the link, and when, is told by [`Fault::pop_due`].
    pub fn push(&mut self, now: Instant, frame: &[u8]) {
        self.spec.bug.strike();
        if self.hit(self.spec.loss) {
            return;
        }
        let mut due = now + self.spec.delay;
        if self.hit(self.spec.reorder) {
            due += FaultSpec::REORDER_HOLD;
        }
        let mut frame = frame.to_vec();
        if self.hit(self.spec.corrupt) && frame.len() > FRAME_HEADER {
            complete(&mut frame);
            let bit = self.next() as usize % ((frame.len() - FRAME_HEADER) * 8);
            if let Some(byte) = frame.get_mut(FRAME_HEADER + bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
        if self.hit(self.spec.duplicate) {
            self.hold(due, frame.clone());
        }
        self.hold(due, frame);
    }

    /// The next frame that is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<Vec<u8>> {
        match self.held.peek() {
            Some(Reverse((due, _, _))) if *due <= now => self.held.pop().map(|Reverse((_, _, frame))| frame),
            _ => None,
        }
    }

    fn hold(&mut self, due: Instant, frame: Vec<u8>) {
        if self.held.len() < Self::MAX_HELD {
            self.sequence += 1;
            self.held.push(Reverse((due, self.sequence, frame)));
        }
    }

    fn hit(&mut self, chance: f64) -> bool {
        chance > 0.0 && (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < chance
    }

    /// xorshift64* (Marsaglia; Vigna): enough for faults, and the same everywhere.
    fn next(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Gives a packet the checksum that was left to be computed later, and nobody's word that it is right: whoever
/// receives it corrupted is to see that. A superpacket has no checksum of its own and stays as it is.
fn complete(frame: &mut [u8]) {
    let Some((header, packet)) = frame.split_first_chunk_mut::<FRAME_HEADER>() else { return };
    let offload = VirtioNetHdr::decode(header);
    if offload.gso() == Ok(Gso::None) && complete_checksum(&offload, packet).is_ok() {
        *header = VirtioNetHdr::default().encode();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use oneway_wire::checksum::Checksum;
    use oneway_wire::emit::udp_datagram;
    use oneway_wire::ip::{IpView, protocol};
    use oneway_wire::udp::UdpView;
    use oneway_wire::virtio::partial_checksum;

    use super::*;

    fn frame(n: u16) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEADER + 40];
        frame[FRAME_HEADER..FRAME_HEADER + 2].copy_from_slice(&n.to_be_bytes());
        frame
    }

    fn number(frame: &[u8]) -> u16 {
        u16::from_be_bytes([frame[FRAME_HEADER], frame[FRAME_HEADER + 1]])
    }

    #[test]
    fn without_faults_all_frames_come_out_in_order() {
        let mut link = Fault::new(FaultSpec::default());
        let now = Instant::now();
        for n in 0..100 {
            link.push(now, &frame(n));
        }
        for n in 0..100 {
            assert_eq!(link.pop_due(now).map(|f| number(&f)), Some(n));
        }
        assert_eq!(link.pop_due(now), None);
    }

    #[test]
    fn loss_and_duplication_come_as_often_as_asked() {
        let spec: FaultSpec = "loss=25%,duplicate=0.1,seed=3".parse().unwrap();
        let mut link = Fault::new(spec);
        let now = Instant::now();
        let mut out = 0;
        for n in 0..10_000 {
            link.push(now, &frame(n));
            while link.pop_due(now).is_some() {
                out += 1;
            }
        }
        assert!((8_000..8_500).contains(&out), "{out} of 10000 with 25 % loss and 10 % duplicates");
    }

    #[test]
    fn delay_and_reorder_hold_back_until_due() {
        let mut link = Fault::new("delay=10ms,reorder=50%,seed=5".parse().unwrap());
        let now = Instant::now();
        for n in 0..50 {
            link.push(now, &frame(n));
        }
        assert_eq!(link.pop_due(now + Duration::from_millis(9)), None);
        let mut early = 0;
        while link.pop_due(now + Duration::from_millis(10)).is_some() {
            early += 1;
        }
        assert!((10..40).contains(&early), "{early}");
        let mut late = 0;
        while link.pop_due(now + Duration::from_millis(13)).is_some() {
            late += 1;
        }
        assert_eq!(early + late, 50);
    }

    #[test]
    fn corruption_flips_one_bit_behind_the_header() {
        let mut link = Fault::new("corrupt=100%".parse().unwrap());
        let now = Instant::now();
        link.push(now, &frame(0));
        let out = link.pop_due(now).unwrap();
        let flipped: u32 = out.iter().map(|b| b.count_ones()).sum();
        assert_eq!(flipped, 1);
        assert!(out[..FRAME_HEADER].iter().all(|&b| b == 0));
    }

    #[test]
    fn corruption_spoils_the_checksum() {
        let mut link = Fault::new("corrupt=100%".parse().unwrap());
        let mut packet = Vec::new();
        let (src, dst): (SocketAddr, SocketAddr) =
            ("192.0.2.1:7".parse().unwrap(), "198.51.100.1:9".parse().unwrap());
        udp_datagram(&mut packet, src, dst, b"payload").unwrap();
        for (offload, full) in [(partial_checksum(20, true), false), (VirtioNetHdr::default(), true)] {
            let mut frame = offload.encode().to_vec();
            frame.extend_from_slice(&packet);
            if !full {
                let pseudo = !Checksum::new().pseudo(src.ip(), dst.ip(), protocol::UDP, 15).finish();
                frame[FRAME_HEADER + 26..FRAME_HEADER + 28].copy_from_slice(&pseudo.to_be_bytes());
            }
            for _ in 0..100 {
                link.push(Instant::now(), &frame);
                let out = link.pop_due(Instant::now()).unwrap();
                assert_eq!(out[..FRAME_HEADER], [0; FRAME_HEADER]);
                let sound = IpView::parse(&out[FRAME_HEADER..]).is_ok_and(|ip| {
                    let udp = UdpView::parse(ip.payload());
                    ip.header_checksum_valid() && udp.is_ok_and(|udp| udp.checksum_valid(ip.src(), ip.dst()))
                });
                assert!(!sound, "{out:x?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for bad in ["loss", "loss=2", "delay=5s", "colour=1%", "seed=x", ""] {
            assert!(bad.parse::<FaultSpec>().is_err(), "{bad}");
        }
    }
}
