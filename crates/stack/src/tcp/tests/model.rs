//! Two connections driven by chance, with everything checked that must hold at any time.
//!
//! What happens: the applications write, read, close and abort; packets are delivered in any order, lost, repeated and
//! forged; timers go off early and late; a SYN comes again. A forged segment carries the bytes that its sender would have
//! sent there, so that what arrives can still be compared.

mod invariants;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneway_wire::emit::tcp_rst_for;
use oneway_wire::ip::IpView;
use oneway_wire::tcp::{Flags, TcpView};

use super::super::*;
use super::link::{Random, bytes, parse, pattern};
use super::seeds;
use invariants::Watched;

/// One end.
struct Side {
    conn: Option<Connection<Vec<u8>>>,
    config: Arc<Config>,
    address: SocketAddr,
    iss: Seq,
    written: u64,
    read: u64,
    closed: bool,
    watched: Watched,
}

struct Model {
    seed: u64,
    now: Time,
    v6: bool,
    sides: [Side; 2],
    /// Packets under way, and to whom.
    wire: Vec<(usize, Vec<u8>)>,
    /// The first SYN, to come again.
    first: Vec<u8>,
    random: Random,
    /// Something happened after which not everything arrives.
    disturbed: bool,
    forged: bool,
    /// A new connection took the place of the old one.
    over: bool,
}

impl Model {
    fn new(seed: u64, forged: bool) -> Model {
        let mut random = Random(seed);
        let v6 = random.percent(50);
        let now = Time::from_micros(1 << 40);
        let addresses: [SocketAddr; 2] = if v6 {
            ["[2001:db8::1]:50000".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap()]
        } else {
            ["192.0.2.1:50000".parse().unwrap(), "198.51.100.1:443".parse().unwrap()]
        };
        let simultaneous = random.percent(20);
        let mut side = |n: usize| {
            let config = Arc::new(Config {
                mtu: [1280, 1500, 9000, u16::MAX][random.below(4) as usize],
                superpackets: random.percent(50),
                receive_limit: 4096 << random.below(5),
                send_limit: 50_000,
                time_wait: Duration::from_secs(600),
                give_up: Duration::from_secs(36_000),
                ..Config::default()
            });
            let iss = Seq(0_u32.wrapping_sub(random.below(20_000) as u32));
            let active = n == 0 || simultaneous;
            let conn = active.then(|| Connection::connect(&config, v6, iss, random.next() as u32, now));
            let address = addresses[n];
            Side {
                conn,
                config,
                address,
                iss,
                written: 0,
                read: 0,
                closed: false,
                watched: Watched::default(),
            }
        };
        let sides = [side(0), side(1)];
        let mut model = Model {
            seed,
            now,
            v6,
            sides,
            wire: Vec::new(),
            first: Vec::new(),
            random,
            disturbed: false,
            forged,
            over: false,
        };
        model.transmit(0);
        model.first = model.wire[0].1.clone();
        model.transmit(1);
        model
    }

    fn transmit(&mut self, n: usize) {
        let (src, dst) = (self.sides[n].address, self.sides[1 - n].address);
        let side = &mut self.sides[n];
        let Some(conn) = &mut side.conn else { return };
        let wire = &mut self.wire;
        let received = conn.receive_next();
        let shift = conn.recv_shift;
        let watched = &mut side.watched;
        conn.transmit(self.now, |out| {
            watched.sends(out, received, shift);
            wire.push((1 - n, bytes(out, src, dst)));
        });
        side.watched.after_transmit(conn);
    }

    /// Brings a packet to an end, and sends what that has to say.
    fn deliver(&mut self, to: usize, packet: &[u8]) {
        let Some(segment) = parse(packet) else { return };
        let peer_iss = self.sides[1 - to].iss;
        let side = &mut self.sides[to];
        let closed = side.conn.as_ref().is_none_or(|conn| conn.state() == State::Closed);
        if closed {
            let Some(syn) = Syn::from_segment(&segment) else {
                let ip = IpView::parse(packet).unwrap();
                let reset = tcp_rst_for(&ip, &TcpView::parse(ip.payload()).unwrap());
                self.wire.extend(reset.map(|reset| (1 - to, reset)));
                return;
            };
            if side.conn.is_some() || syn.seq() != peer_iss {
                // After the end: another connection, which is not of this model.
                return;
            }
            let offset = self.random.next() as u32;
            side.conn = Some(Connection::accept(&side.config, &syn, self.v6, side.iss, offset, self.now));
            return self.transmit(to);
        }
        let mut appetite =
            if self.random.percent(50) { usize::MAX } else { self.random.below(3000) as usize };
        let Some(conn) = &mut side.conn else { return };
        let mut read = side.read;
        side.watched.before(conn);
        let arrival = conn.segment_arrives(self.now, &segment, |bytes| {
            let taken = bytes.len().min(appetite);
            appetite -= taken;
            same(&bytes[..taken], 1 - to, read);
            read += taken as u64;
            taken
        });
        side.read = read;
        side.watched.after_segment(conn);
        if matches!(arrival, Arrival::NewConnection(_)) {
            self.over = true;
            return;
        }
        self.check(to);
        self.transmit(to);
    }

    fn check(&mut self, n: usize) {
        let side = &mut self.sides[n];
        if let Some(conn) = &side.conn {
            side.watched.check(conn, side.read, side.written);
        }
    }

    fn application(&mut self, n: usize) {
        let random = &mut self.random;
        let side = &mut self.sides[n];
        let Some(conn) = &mut side.conn else { return };
        side.watched.before(conn);
        match random.below(20) {
            0 if !self.forged => {
                self.disturbed |= conn.state() == State::SynSent;
                conn.close();
                side.closed = true;
            }
            1 if random.percent(20) => {
                conn.abort();
                self.disturbed = true;
            }
            2 => conn.set_receive_limit(2000 + random.below(30_000) as u32),
            3 => {
                let (una, _) = conn.outstanding();
                conn.path_mtu(random.below(2000) as u16, una + random.below(3000) as u32);
            }
            4..=10 => {
                let mut appetite = random.below(8000) as usize;
                let mut read = side.read;
                conn.receive(|bytes| {
                    let taken = bytes.len().min(appetite);
                    appetite -= taken;
                    same(&bytes[..taken], 1 - n, read);
                    read += taken as u64;
                    taken
                });
                side.read = read;
            }
            _ => {
                // An application that does not ask first, now and then.
                let room = if random.percent(10) { 3000 } else { conn.send_room() as u64 };
                if room > 0 && conn.queued() < 100_000 {
                    let len = 1 + random.below(room);
                    let before = conn.queued();
                    conn.send((side.written..side.written + len).map(|at| pattern(n as u64, at)).collect());
                    side.written += u64::from(conn.queued() - before);
                }
            }
        }
        self.check(n);
        if self.random.percent(90) {
            self.transmit(n);
        }
    }

    fn timer(&mut self, n: usize) {
        let Some(conn) = &mut self.sides[n].conn else { return };
        self.sides[n].watched.before(conn);
        conn.timeout(self.now);
        self.check(n);
        self.transmit(n);
    }

    /// A segment that nobody sent, about where its receiver looks.
    fn forge(&mut self) {
        let to = self.random.below(2) as usize;
        let from = 1 - to;
        let Some(conn) = &self.sides[to].conn else { return };
        let random = &mut self.random;
        let near = |random: &mut Random, seq: Seq| match random.below(6) {
            0 => seq + random.below(70_000) as u32,
            1 => seq - random.below(70_000) as u32,
            2 => Seq(random.next() as u32),
            3 => seq + 1,
            4 => seq - 1,
            _ => seq,
        };
        let seq = near(random, conn.receive_next());
        let (una, nxt) = conn.outstanding();
        let about = if random.percent(50) { una } else { nxt };
        let ack = near(random, about);
        let kinds = [Flags::ACK, Flags::ACK, Flags::ACK, Flags::SYN, Flags::SYN | Flags::ACK, Flags::RST];
        let flags = kinds[random.below(6) as usize];
        if conn.state() == State::SynSent && flags.contains(Flags::SYN) {
            // Nothing tells it from the peer's: whoever forges it is the peer.
            return;
        }
        let len = if random.percent(50) { random.below(3000) } else { 0 };
        // A SYN stands before the data.
        let start = seq + u32::from(flags.contains(Flags::SYN));
        let offset = start - (self.sides[from].iss + 1);
        let data: Vec<u8> =
            (0..len).map(|at| pattern(from as u64, u64::from(offset.wrapping_add(at as u32)))).collect();
        let timestamps = conn
            .timestamps
            .map(|known| Timestamps { value: known.recent.wrapping_add(random.below(3) as u32), echo: 0 });
        let mut payload = Payload::default();
        payload.push(&data);
        let segment = Outgoing {
            seq,
            ack,
            flags,
            window: random.next() as u16,
            timestamps,
            sack: Blocks::default(),
            syn: SynOptions::default(),
            payload,
            segment_size: u16::MAX,
            hop_limit: 64,
            traffic_class: 0,
        };
        let packet = bytes(&segment, self.sides[from].address, self.sides[to].address);
        self.deliver(to, &packet);
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 if !self.wire.is_empty() => {
                // In order, mostly.
                let at = if self.random.percent(80) {
                    0
                } else {
                    self.random.below(self.wire.len() as u64) as usize
                };
                let (to, packet) = self.wire.remove(at);
                if self.random.percent(5) {
                    self.wire.push((to, packet.clone()));
                }
                if !self.random.percent(5) {
                    self.deliver(to, &packet);
                }
            }
            40..70 => {
                let n = self.random.below(2) as usize;
                self.application(n);
            }
            70..72 => {
                let first = self.first.clone();
                self.deliver(1, &first);
            }
            72..80 if self.forged => self.forge(),
            80..90 => {
                self.now = self.now + Duration::from_micros(self.random.below(50_000));
                let n = self.random.below(2) as usize;
                self.timer(n);
            }
            _ => {
                let n = self.random.below(2) as usize;
                if let Some(at) = self.sides[n].conn.as_ref().and_then(Connection::next_timeout)
                    && at < self.now + Duration::from_secs(300)
                {
                    self.now = self.now.max(at);
                    self.timer(n);
                }
            }
        }
    }

    /// Delivers all that is under way, and what that brings about, at one moment: it must come to an end.
    fn settle(&mut self) {
        let mut count = 0;
        while !self.wire.is_empty() && !self.over {
            let (to, packet) = self.wire.remove(0);
            self.deliver(to, &packet);
            count += 1;
            assert!(
                count < 20_000,
                "two ends answer each other for ever: {:?}, {:?}",
                self.wire.iter().map(|(to, packet)| (to, parse(packet))).collect::<Vec<_>>(),
                self.sides.each_ref().map(|side| &side.conn)
            );
        }
    }

    /// Both applications read and write all, and close.
    fn finish(&mut self) {
        let begin = self.now;
        let mut rounds = 0;
        loop {
            for n in 0..2 {
                let side = &mut self.sides[n];
                let Some(conn) = &mut side.conn else { continue };
                side.watched.before(conn);
                let mut read = side.read;
                conn.receive(|bytes| {
                    same(bytes, 1 - n, read);
                    read += bytes.len() as u64;
                    bytes.len()
                });
                side.read = read;
                if !side.closed {
                    self.disturbed |= conn.state() == State::SynSent;
                    conn.close();
                    side.closed = true;
                }
                self.check(n);
                self.transmit(n);
            }
            self.settle();
            let done = |side: &Side| {
                side.conn.as_ref().is_none_or(|conn| {
                    matches!(conn.state(), State::TimeWait | State::Closed) && conn.received() == 0
                })
            };
            if self.over || self.sides.iter().all(done) {
                return;
            }
            let next = self.sides.iter().filter_map(|side| side.conn.as_ref()?.next_timeout()).min();
            let unread = |side: &Side| side.conn.as_ref().is_some_and(|conn| conn.received() > 0);
            if next.is_none() && self.sides.iter().any(unread) {
                continue;
            }
            let Some(next) = next else {
                // The reset of an end that gave up was lost, and the other one waits for nothing but a FIN.
                assert!(self.disturbed, "nothing happens any more: {:?}", states(self));
                return;
            };
            self.now = self.now.max(next);
            self.timer(0);
            self.timer(1);
            rounds += 1;
            assert!(rounds < 5000, "no end: {:?}", states(self));
            assert!(
                self.now.since(begin) < Duration::from_secs(4 * 3600),
                "it takes hours: {:?}",
                self.sides.each_ref().map(|side| &side.conn)
            );
        }
    }
}

fn states(model: &Model) -> Vec<Option<State>> {
    model.sides.iter().map(|side| side.conn.as_ref().map(Connection::state)).collect()
}

fn same(bytes: &[u8], from: usize, at: u64) {
    for (n, &byte) in bytes.iter().enumerate() {
        assert_eq!(byte, pattern(from as u64, at + n as u64), "byte {} is another", at + n as u64);
    }
}

/// Says which seed it was when something panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn everything_holds_and_everything_arrives() {
    for seed in 0..seeds(1500) {
        let _seed = Seed(seed);
        let mut model = Model::new(seed, false);
        for step in 0..400 {
            model.step();
            if step % 97 == 0 {
                model.settle();
            }
        }
        model.finish();
        if model.disturbed || model.over {
            continue;
        }
        for n in 0..2 {
            let (side, peer) = (&model.sides[n], &model.sides[1 - n]);
            let conn = side.conn.as_ref().unwrap();
            assert_eq!(conn.broken(), None, "end {n}");
            assert_eq!(side.read, peer.written, "end {n} got all");
            assert_eq!(conn.held(), 0);
        }
    }
}

#[test]
fn everything_holds_and_ends_among_forged_segments() {
    for seed in 0..seeds(1500) {
        let seed = seed + 1_000_000;
        let _seed = Seed(seed);
        let mut model = Model::new(seed, true);
        for step in 0..400 {
            if model.over {
                break;
            }
            model.step();
            if step % 47 == 0 {
                model.settle();
            }
        }
        model.settle();
        assert_eq!(model.seed, seed);
    }
}
