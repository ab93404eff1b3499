//! Reassembly of fragmented IPv4 (RFC 791 3.2, RFC 815) and IPv6 (RFC 8200 4.5) packets.
//!
//! A datagram in which two fragments overlap is dropped whole, with all that still arrives of it (RFC 5722): an
//! overlap is an attack on whoever reassembles differently. Only an exact repetition of a fragment is let pass,
//! as networks do duplicate. The same holds for IPv4, as in Linux (`net/ipv4/ip_fragment.c`).
//!
//! Memory is bounded in all and per source address, bookkeeping included. At the limit the newcomer is refused
//! and what is under way lives on; what does not complete is dropped after its timeout.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use oneway_wire::ip::{IPV6_HEADER_LEN, IpView, Version, protocol};
use oneway_wire::{Malformed, checksum, icmp, tcp, udp};

/// What a datagram under way is charged beside its bytes: its entries in three maps.
const DATAGRAM_COST: usize = 384;
/// What a fragment is charged beside its bytes: its entry in a map, and the allocation.
const FRAGMENT_COST: usize = 64;
/// Longest IPv4 packet, and longest IPv6 payload.
const MAX_LEN: usize = 65535;
/// Length of the IPv6 fragment header.
const FRAGMENT_HEADER_LEN: usize = 8;

/// How much a [`Reassembler`] may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all.
    pub total: usize,
    /// Bytes from one source address.
    pub per_source: usize,
    /// From the first fragment of an IPv4 datagram to arrive until it is given up.
    pub timeout_v4: Duration,
    /// The same for IPv6: 60 s in RFC 8200 4.5.
    pub timeout_v6: Duration,
}

impl Default for Limits {
    /// 4 MiB in all and 30 s, as in Linux (`ipfrag_high_thresh`, `ipfrag_time`); 1 MiB per source.
    fn default() -> Limits {
        Limits {
            total: 4 << 20,
            per_source: 1 << 20,
            timeout_v4: Duration::from_secs(30),
            timeout_v6: Duration::from_secs(60),
        }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole packet: reassembled, or the packet itself if it was none of many fragments.
    Whole(Vec<u8>),
    /// Kept until the others arrive.
    Pending,
    /// Dropped.
    Dropped(Reason),
}

/// Why a fragment was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Not an IP packet.
    Malformed(Malformed),
    /// No data in it, or data in a fragment with more to come that is not a multiple of 8 bytes.
    Length,
    /// The whole would be longer than an IP packet can be.
    TooLong,
    /// The first fragment does not hold the upper-layer header (IPv6, RFC 7112).
    HeaderChain,
    /// An exact repetition of a fragment that is already there.
    Duplicate,
    /// It overlaps another fragment or disagrees about the end; the whole datagram is dropped (RFC 5722).
    Overlap,
    /// It belongs to a datagram that was dropped before, but for want of memory.
    Abandoned,
    /// Some of its fragments met congestion and others cannot have (RFC 3168 5.3); the whole datagram is dropped.
    Ecn,
    /// The reassembler is full. If other fragments were there, they are dropped too, and those that come later.
    Full,
    /// The source has its share of memory. If other fragments were there, they are dropped too, and those that come later.
    SourceFull,
}

impl Reason {
    /// Whether it says nothing against the fragment: there was no room for its datagram.
    pub const fn is_full(self) -> bool {
        matches!(self, Self::Full | Self::SourceFull)
    }
}

/// What the fragments of one datagram have in common (RFC 791 3.2; in RFC 8200 without the protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    protocol: Option<u8>,
}

/// When a datagram is given up; the number tells apart those of the same instant.
type Deadline = (Instant, u64);

#[derive(Debug)]
struct Datagram {
    deadline: Deadline,
    /// Bytes charged to `Reassembler::total` and to the source.
    charged: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Gathering(Pieces),
    /// Dropped, and remembered so that the rest of it is dropped as well, for this reason.
    Abandoned(Reason),
}

#[derive(Debug, Default)]
struct Pieces {
    /// Payload by offset; never overlapping, never empty.
    data: BTreeMap<u16, Vec<u8>>,
    /// Sum of the lengths in `data`.
    received: usize,
    /// Length of the whole payload, once the last fragment is there.
    end: Option<usize>,
    /// The header of the whole, from the first fragment.
    header: Option<Vec<u8>>,
    /// A bit for each ECN codepoint seen.
    ecn: u8,
}

/// One fragment, checked.
struct Piece<'a> {
    version: Version,
    offset: u16,
    more: bool,
    data: &'a [u8],
    ecn: u8,
    header: Header<'a>,
}

/// The part of a fragment that goes before the reassembled payload.
struct Header<'a> {
    bytes: &'a [u8],
    /// IPv6: where the fragment header was announced, and what followed it.
    announced: Option<(usize, u8)>,
}

/// Puts packets together again. See the module's text.
#[derive(Debug)]
pub struct Reassembler {
    limits: Limits,
    datagrams: HashMap<Key, Datagram>,
    deadlines: BTreeMap<Deadline, Key>,
    sources: HashMap<IpAddr, usize>,
    total: usize,
    counter: u64,
}

impl Default for Reassembler {
    fn default() -> Reassembler {
        Reassembler::new(Limits::default())
    }
}

impl Reassembler {
    /// An empty one.
    pub fn new(limits: Limits) -> Reassembler {
        Reassembler {
            limits,
            datagrams: HashMap::new(),
            deadlines: BTreeMap::new(),
            sources: HashMap::new(),
            total: 0,
            counter: 0,
        }
    }

    /// Takes a packet, which need not be a fragment.
    ///
    /// A reassembled IPv4 packet has no fragmentation flags and a right header checksum; an IPv6 one has no
    /// fragment header. Transport checksums are as the sender made them. `now` must not go backwards.
    pub fn push(&mut self, now: Instant, packet: &[u8]) -> Outcome {
        self.expire(now);
        let ip = match IpView::parse(packet) {
            Ok(ip) => ip,
            Err(malformed) => return Outcome::Dropped(Reason::Malformed(malformed)),
        };
        let Some(fragment) = ip.fragment() else { return Outcome::Whole(ip.packet().to_vec()) };
        let piece = match Piece::new(&ip) {
            Ok(piece) => piece,
            Err(reason) => return Outcome::Dropped(reason),
        };
        if fragment.is_atomic() {
            // RFC 6946: by itself, whatever else has the same identification.
            return match piece.header.for_payload(piece.version, piece.data, piece.ecn) {
                Some(whole) => Outcome::Whole(whole),
                None => Outcome::Dropped(Reason::TooLong),
            };
        }
        let protocol = (ip.version() == Version::V4).then_some(ip.protocol());
        self.push_piece(now, Key { src: ip.src(), dst: ip.dst(), id: fragment.id, protocol }, &piece)
    }

    /// Drops what has not completed in time and returns how many datagrams that were. [`Reassembler::push`] does
    /// it too; this is for when nothing arrives.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some((&(deadline, _), &key)) = self.deadlines.first_key_value() {
            if deadline > now {
                break;
            }
            self.remove(&key);
            count += 1;
        }
        count
    }

    /// When [`Reassembler::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|(&(deadline, _), _)| deadline)
    }

    /// Bytes held, bookkeeping included; never above [`Limits::total`].
    pub const fn memory(&self) -> usize {
        self.total
    }

    /// Datagrams under way, those dropped but not yet forgotten included.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    fn push_piece(&mut self, now: Instant, key: Key, piece: &Piece<'_>) -> Outcome {
        if let Some(datagram) = self.datagrams.get(&key) {
            let pieces = match &datagram.state {
                State::Gathering(pieces) => pieces,
                State::Abandoned(reason) => return Outcome::Dropped(*reason),
            };
            match pieces.place(piece) {
                Ok(()) => {}
                Err(Reason::Duplicate) => return Outcome::Dropped(Reason::Duplicate),
                Err(reason) => return self.abandon(&key, reason),
            }
            if let Err(reason) = self.charge(&key, piece.cost()) {
                return self.abandon(&key, reason);
            }
        } else {
            if let Err(reason) = self.charge(&key, DATAGRAM_COST + piece.cost()) {
                return Outcome::Dropped(reason);
            }
            let timeout = match piece.version {
                Version::V4 => self.limits.timeout_v4,
                Version::V6 => self.limits.timeout_v6,
            };
            let deadline = (now + timeout, self.counter);
            self.counter += 1;
            self.deadlines.insert(deadline, key);
            let state = State::Gathering(Pieces::default());
            self.datagrams.insert(key, Datagram { deadline, charged: DATAGRAM_COST, state });
        }
        let Some(datagram) = self.datagrams.get_mut(&key) else { return Outcome::Pending };
        let State::Gathering(pieces) = &mut datagram.state else { return Outcome::Pending };
        datagram.charged += piece.cost();
        pieces.add(piece);
        if !pieces.is_complete() {
            return Outcome::Pending;
        }
        match pieces.assemble(piece.version) {
            Ok(whole) => {
                self.remove(&key);
                Outcome::Whole(whole)
            }
            Err(reason) => self.abandon(&key, reason),
        }
    }

    /// Charges `cost` to the source and to all, or nothing if it does not fit.
    fn charge(&mut self, key: &Key, cost: usize) -> Result<(), Reason> {
        if self.total + cost > self.limits.total {
            return Err(Reason::Full);
        }
        let source = self.sources.get(&key.src).copied().unwrap_or(0);
        if source + cost > self.limits.per_source {
            return Err(Reason::SourceFull);
        }
        self.sources.insert(key.src, source + cost);
        self.total += cost;
        Ok(())
    }

    fn refund(&mut self, src: IpAddr, cost: usize) {
        self.total -= cost;
        if let Some(source) = self.sources.get_mut(&src) {
            *source -= cost;
            if *source == 0 {
                self.sources.remove(&src);
            }
        }
    }

    /// Frees what a datagram holds and remembers until its deadline that nothing more of it is wanted.
    fn abandon(&mut self, key: &Key, reason: Reason) -> Outcome {
        if let Some(datagram) = self.datagrams.get_mut(key) {
            let rest = if reason.is_full() { reason } else { Reason::Abandoned };
            datagram.state = State::Abandoned(rest);
            let cost = datagram.charged - DATAGRAM_COST;
            datagram.charged = DATAGRAM_COST;
            self.refund(key.src, cost);
        }
        Outcome::Dropped(reason)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(datagram) = self.datagrams.remove(key) {
            self.deadlines.remove(&datagram.deadline);
            self.refund(key.src, datagram.charged);
        }
    }
}

impl<'a> Piece<'a> {
    fn new(ip: &IpView<'a>) -> Result<Piece<'a>, Reason> {
        let Some(fragment) = ip.fragment() else { return Err(Reason::Length) };
        let packet = ip.packet();
        let (header, data) = match ip.fragment_header() {
            None => (Header { bytes: &packet[..ip.header_len()], announced: None }, ip.payload()),
            Some(at) => (
                Header { bytes: &packet[..at.at], announced: Some((at.announced_at, at.next)) },
                &packet[at.at + FRAGMENT_HEADER_LEN..],
            ),
        };
        let first_v6 = ip.version() == Version::V6 && fragment.offset == 0;
        if first_v6 && ip.payload().len() < upper_header_len(ip.protocol()) {
            return Err(Reason::HeaderChain);
        }
        // An atomic fragment without data is as good as a packet without.
        if !fragment.is_atomic() && (data.is_empty() || fragment.more && !data.len().is_multiple_of(8)) {
            return Err(Reason::Length);
        }
        if header.counted_len() + usize::from(fragment.offset) + data.len() > MAX_LEN {
            return Err(Reason::TooLong);
        }
        Ok(Piece {
            version: ip.version(),
            offset: fragment.offset,
            more: fragment.more,
            data,
            ecn: ip.traffic_class() & ECN_MASK,
            header,
        })
    }

    fn end(&self) -> usize {
        usize::from(self.offset) + self.data.len()
    }

    fn cost(&self) -> usize {
        FRAGMENT_COST + self.data.len() + if self.offset == 0 { self.header.bytes.len() } else { 0 }
    }
}

/// What of the upper-layer header the first fragment of an IPv6 packet must hold (RFC 7112).
const fn upper_header_len(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => tcp::HEADER_LEN,
        protocol::UDP => udp::HEADER_LEN,
        protocol::ICMPV6 => icmp::HEADER_LEN,
        _ => 0,
    }
}

impl Header<'_> {
    /// The bytes of the header that count into the length field.
    fn counted_len(&self) -> usize {
        match self.announced {
            None => self.bytes.len(),
            Some(_) => self.bytes.len() - IPV6_HEADER_LEN,
        }
    }

    /// The packet with this header and the payload of an atomic fragment.
    fn for_payload(&self, version: Version, data: &[u8], ecn: u8) -> Option<Vec<u8>> {
        let mut whole = self.unfragmented();
        whole.reserve_exact(data.len());
        whole.extend_from_slice(data);
        finish(&mut whole, version, self.bytes.len(), ecn).then_some(whole)
    }

    /// The header with what it says about fragments taken out; lengths are left to [`finish`].
    fn unfragmented(&self) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        match self.announced {
            None => bytes[6..8].copy_from_slice(&[0, 0]),
            Some((at, next)) => bytes[at] = next,
        }
        bytes
    }
}

impl Pieces {
    /// Whether `piece` can be added.
    fn place(&self, piece: &Piece<'_>) -> Result<(), Reason> {
        let (start, end) = (usize::from(piece.offset), piece.end());
        if let Some(there) = self.data.get(&piece.offset)
            && there == piece.data
            && piece.more == (self.end != Some(end))
        {
            return Err(Reason::Duplicate);
        }
        let before = self.data.range(..=piece.offset).next_back();
        let after = self.data.range(piece.offset..).next();
        let overlaps = before.is_some_and(|(&at, data)| usize::from(at) + data.len() > start)
            || after.is_some_and(|(&at, _)| usize::from(at) < end);
        // All that is there ends where the last piece does.
        let there = self.data.last_key_value().map_or(0, |(&at, data)| usize::from(at) + data.len());
        let beyond = match self.end {
            Some(known) => !piece.more || end > known,
            None => !piece.more && there > end,
        };
        if overlaps || beyond { Err(Reason::Overlap) } else { Ok(()) }
    }

    fn add(&mut self, piece: &Piece<'_>) {
        if !piece.more {
            self.end = Some(piece.end());
        }
        if piece.offset == 0 {
            self.header = Some(piece.header.unfragmented());
        }
        self.ecn |= 1 << piece.ecn;
        self.received += piece.data.len();
        self.data.insert(piece.offset, piece.data.to_vec());
    }

    /// Nothing overlaps and nothing lies beyond the end, so the count of bytes tells.
    fn is_complete(&self) -> bool {
        self.end == Some(self.received)
    }

    fn assemble(&self, version: Version) -> Result<Vec<u8>, Reason> {
        let ecn = combined_ecn(self.ecn).ok_or(Reason::Ecn)?;
        let header = self.header.as_deref().unwrap_or_default();
        let mut whole = Vec::with_capacity(header.len() + self.received);
        whole.extend_from_slice(header);
        for data in self.data.values() {
            whole.extend_from_slice(data);
        }
        if finish(&mut whole, version, header.len(), ecn) { Ok(whole) } else { Err(Reason::TooLong) }
    }
}

const ECN_MASK: u8 = 0b11;
const ECN_NOT_ECT: u8 = 0b00;
const ECN_CE: u8 = 0b11;

/// The bits to set in the header of the whole, from a set of the codepoints seen; `None` when there was
/// congestion but not every fragment could say so (RFC 3168 5.3, Linux `ip_frag_ecn_table`).
const fn combined_ecn(seen: u8) -> Option<u8> {
    match (seen & 1 << ECN_CE != 0, seen & 1 << ECN_NOT_ECT != 0) {
        (true, true) => None,
        (true, false) => Some(ECN_CE),
        (false, _) => Some(0),
    }
}

/// Sets length, ECN and header checksum. False if the packet is too long.
fn finish(whole: &mut [u8], version: Version, header_len: usize, ecn: u8) -> bool {
    let counted = if version == Version::V4 { whole.len() } else { whole.len() - IPV6_HEADER_LEN };
    let Ok(len) = u16::try_from(counted) else { return false };
    match version {
        Version::V4 => {
            whole[1] |= ecn;
            whole[2..4].copy_from_slice(&len.to_be_bytes());
            whole[10..12].copy_from_slice(&[0, 0]);
            let ck = !checksum::sum(&whole[..header_len]);
            whole[10..12].copy_from_slice(&ck.to_be_bytes());
        }
        Version::V6 => {
            whole[1] |= ecn << 4;
            whole[4..6].copy_from_slice(&len.to_be_bytes());
        }
    }
    true
}

#[cfg(test)]
mod tests;
