//! Two ends, and the link between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneway_wire::ip::IpView;
use oneway_wire::tcp::TcpView;
use oneway_wire::virtio::{HEADER_LEN, VirtioNetHdr};

use super::super::*;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// True so many times of a hundred.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }
}

/// What a link does to packets, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lose: u32,
    pub repeat: u32,
    pub delay: u32,
    pub corrupt: u32,
    /// Microseconds one way.
    pub latency: u64,
}

/// The byte at one place of what an end sends.
pub fn pattern(seed: u64, at: u64) -> u8 {
    let mut z = (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
    z ^= z >> 29;
    z = z.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z >> (8 * (at % 8))) as u8
}

/// One end and its application.
pub struct End {
    pub conn: Connection<Vec<u8>>,
    pub address: SocketAddr,
    pub to_send: u64,
    pub sent: u64,
    pub got: u64,
    pub seed: u64,
    pub peer_seed: u64,
    /// Bytes that the application takes at once.
    pub appetite: u64,
    pub segments: u64,
}

impl End {
    /// The application's turn: it reads, writes, and closes when all is written.
    pub fn work(&mut self, random: &mut Random) {
        let (mut at, seed) = (self.got, self.peer_seed);
        let mut appetite = random.below(self.appetite * 2);
        self.conn.receive(|bytes| {
            let taken = (bytes.len() as u64).min(appetite);
            check(&bytes[..taken as usize], seed, at);
            at += taken;
            appetite -= taken;
            taken as usize
        });
        self.got = at;
        loop {
            let room = (self.conn.send_room() as u64).min(self.to_send - self.sent);
            if room == 0 {
                break;
            }
            let len = 1 + random.below(room);
            self.conn.send((self.sent..self.sent + len).map(|at| pattern(self.seed, at)).collect());
            self.sent += len;
        }
        if self.sent == self.to_send {
            self.conn.close();
        }
    }

    pub fn arrives(&mut self, now: Time, segment: &Segment<'_>, random: &mut Random) {
        let (mut at, seed) = (self.got, self.peer_seed);
        let mut appetite = random.below(self.appetite * 2);
        self.conn.segment_arrives(now, segment, |bytes| {
            let taken = (bytes.len() as u64).min(appetite);
            check(&bytes[..taken as usize], seed, at);
            at += taken;
            appetite -= taken;
            taken as usize
        });
        self.got = at;
    }

    pub fn is_done(&self) -> bool {
        matches!(self.conn.state(), State::Closed | State::TimeWait)
    }
}

fn check(bytes: &[u8], seed: u64, at: u64) {
    for (n, &byte) in bytes.iter().enumerate() {
        assert_eq!(byte, pattern(seed, at + n as u64), "byte {} is another", at + n as u64);
    }
}

/// Two ends of one connection.
pub struct World {
    pub now: Time,
    pub ends: [End; 2],
    pub faults: Faults,
    pub random: Random,
    /// Packets under way, by arrival and number.
    under_way: BTreeMap<(Time, u64), (usize, Vec<u8>)>,
    number: u64,
    /// Cut superpackets, as a device does.
    pub cut: bool,
}

impl World {
    /// End 0 opens the connection, or both do.
    pub fn new(seed: u64, v6: bool, configs: [Config; 2], faults: Faults, to_send: [u64; 2]) -> World {
        let mut random = Random(seed);
        let now = Time::from_micros(1_000_000);
        let addresses: [SocketAddr; 2] = if v6 {
            ["[2001:db8::1]:50000".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap()]
        } else {
            ["192.0.2.1:50000".parse().unwrap(), "198.51.100.1:443".parse().unwrap()]
        };
        let [a, b] = configs.map(Arc::new);
        // Sequence numbers that wrap in the middle of the transfer.
        let isn = |random: &mut Random| Seq(0_u32.wrapping_sub(random.below(200_000) as u32));
        let mut opener: Connection<Vec<u8>> =
            Connection::connect(&a, v6, isn(&mut random), random.next() as u32, now);
        let mut syn = None;
        opener.transmit(now, |segment| syn = Some(bytes(segment, addresses[0], addresses[1])));
        let syn = syn.expect("a SYN");
        let ip = IpView::parse(&syn).unwrap();
        let segment = Segment::from_view(&TcpView::parse(ip.payload()).unwrap());
        let syn = Syn::from_segment(&segment).unwrap();
        let answerer = Connection::accept(&b, &syn, v6, isn(&mut random), random.next() as u32, now);
        let end = |conn, n: usize, appetite| End {
            conn,
            address: addresses[n],
            to_send: to_send[n],
            sent: 0,
            got: 0,
            seed: n as u64,
            peer_seed: 1 - n as u64,
            appetite,
            segments: 0,
        };
        let appetites = [1 + random.below(100_000), 1 + random.below(100_000)];
        World {
            now,
            ends: [end(opener, 0, appetites[0]), end(answerer, 1, appetites[1])],
            faults,
            under_way: BTreeMap::new(),
            number: 0,
            cut: random.percent(50),
            random,
        }
    }

    /// Lets the application of one end work, and sends what its connection then has to say.
    pub fn drive(&mut self, n: usize) {
        let now = self.now;
        let end = &mut self.ends[n];
        end.work(&mut self.random);
        let (src, dst) = (end.address, self.ends[1 - n].address);
        let end = &mut self.ends[n];
        let mut packets = Vec::new();
        let cut = self.cut;
        end.conn.transmit(now, |segment| {
            if cut {
                packets.extend(pieces(segment, src, dst));
            } else {
                packets.push(bytes(segment, src, dst));
            }
        });
        end.segments += packets.len() as u64;
        let (una, nxt) = end.conn.outstanding();
        if !matches!(end.conn.state(), State::Closed | State::TimeWait) {
            end.conn.board.check(una, nxt);
        }
        for packet in packets {
            self.put(1 - n, packet);
        }
    }

    fn put(&mut self, to: usize, packet: Vec<u8>) {
        let Faults { lose, repeat, delay, corrupt, latency } = self.faults;
        if self.random.percent(lose) {
            return;
        }
        let copies = if self.random.percent(repeat) { 2 } else { 1 };
        for _ in 0..copies {
            let mut packet = packet.clone();
            if self.random.percent(corrupt) {
                let at = self.random.below(packet.len() as u64) as usize;
                packet[at] ^= 1 << self.random.below(8);
            }
            let mut late = latency;
            if self.random.percent(delay) {
                late += self.random.below(latency * 4 + 1000);
            }
            self.number += 1;
            self.under_way.insert((self.now + Duration::from_micros(late), self.number), (to, packet));
        }
    }

    /// The next thing that happens; false when nothing will.
    pub fn step(&mut self) -> bool {
        let packet = self.under_way.first_key_value().map(|(&(at, _), _)| at);
        let timers = [self.ends[0].conn.next_timeout(), self.ends[1].conn.next_timeout()];
        let Some(next) = [packet, timers[0], timers[1]].into_iter().flatten().min() else { return false };
        // An application that has something to read does not wait for packets.
        if next > self.now + Duration::from_secs(1)
            && let Some(n) = (0..2).find(|&n| self.ends[n].conn.received() > 0)
        {
            self.now = self.now + Duration::from_millis(10);
            self.drive(n);
            return true;
        }
        self.now = self.now.max(next);
        let now = self.now;
        if packet == Some(next) {
            let Some((_, (to, packet))) = self.under_way.pop_first() else { return false };
            if let Some(segment) = parse(&packet) {
                self.ends[to].arrives(now, &segment, &mut self.random);
            }
            self.drive(to);
        } else {
            let n = usize::from(timers[0] != Some(next));
            let conn = &mut self.ends[n].conn;
            conn.timeout(now);
            // Who has nothing to say may be left alone now, and is not with what it waits for.
            let waits = conn.is_quiet() && !conn.board.is_empty();
            assert!(!waits || conn.timer.is_some(), "nothing will be sent again: {conn:?}");
            self.drive(n);
        }
        true
    }
}

pub fn parse(packet: &[u8]) -> Option<Segment<'_>> {
    let ip = IpView::parse(packet).ok()?;
    let tcp = TcpView::parse(ip.payload()).ok()?;
    tcp.checksum_valid(ip.src(), ip.dst()).then(|| Segment::from_view(&tcp))
}

/// A packet on the wire, with its checksum.
pub fn bytes(segment: &Outgoing<'_>, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let mut headers = [0; MAX_HEADERS];
    let len = segment.write_headers(&mut headers, src, dst).unwrap();
    let mut packet = headers[HEADER_LEN..len].to_vec();
    for part in segment.payload.parts() {
        packet.extend_from_slice(part);
    }
    let header = VirtioNetHdr::decode(headers.first_chunk().unwrap());
    header.check(packet.len()).unwrap();
    // Whatever its kind: as one packet.
    let header = VirtioNetHdr { gso_type: 0, gso_size: 0, ..header };
    oneway_wire::virtio::complete_checksum(&header, &mut packet).unwrap();
    packet
}

/// The packets that a device makes of a superpacket.
fn pieces(segment: &Outgoing<'_>, src: SocketAddr, dst: SocketAddr) -> Vec<Vec<u8>> {
    use oneway_wire::tcp::Flags;
    let data = segment.payload.parts().concat();
    if data.len() <= usize::from(segment.segment_size) {
        return vec![bytes(segment, src, dst)];
    }
    let mut packets = Vec::new();
    let mut at = 0;
    for piece in data.chunks(segment.segment_size.into()) {
        let last = at + piece.len() == data.len();
        let mut payload = Payload::default();
        payload.push(piece);
        let flags =
            if last { segment.flags } else { Flags(segment.flags.0 & !(Flags::FIN.0 | Flags::PSH.0)) };
        let piece_segment = Outgoing { seq: segment.seq + at as u32, flags, payload, ..*segment };
        packets.push(bytes(&piece_segment, src, dst));
        at += piece.len();
    }
    packets
}
