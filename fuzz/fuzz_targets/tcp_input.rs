//! A TCP connection, in every state that the script takes it to: segments aimed at its sequence numbers, segments as
//! they are, what an application does, and time.
#![no_main]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use oneway_stack::tcp::{
    Arrival, Blocks, Config, Connection, KeepAlive, MAX_HEADERS, Outgoing, Segment, Seq, State, Syn,
    SynOptions, Time, Timestamps,
};
use oneway_wire::tcp::{Flags, TcpView};
use oneway_wire::virtio::HEADER_LEN;

/// Bytes that the script may have queued; a caller heeds `send_room` and has fewer.
const MOST_QUEUED: u32 = 300_000;

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u32 {
        u32::from(self.word()) << 16 | u32::from(self.word())
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// The byte at one sequence number of a stream.
fn pattern(seq: Seq) -> u8 {
    (seq.0 ^ (seq.0 >> 8)).wrapping_mul(0x9d) as u8
}

/// Sequence numbers that segments have carried, as ranges of offsets.
#[derive(Default)]
struct Covered(BTreeMap<u32, u32>);

impl Covered {
    fn add(&mut self, mut from: u32, mut to: u32) {
        let touching: Vec<u32> =
            self.0.range(..=to).rev().take_while(|&(_, &end)| end >= from).map(|(&start, _)| start).collect();
        for start in touching {
            let end = self.0.remove(&start).expect("it was there");
            (from, to) = (from.min(start), to.max(end));
        }
        self.0.insert(from, to);
    }

    fn has(&self, from: u32, to: u32) -> bool {
        from == to || self.0.range(..=from).next_back().is_some_and(|(_, &end)| end >= to)
    }
}

struct Fuzz {
    conn: Connection<Vec<u8>>,
    config: Arc<Config>,
    now: Time,
    v6: bool,
    iss: Seq,
    /// Where the peer's stream begins, once its SYN came.
    first: Option<Seq>,
    covered: Covered,
    taken: u32,
    sent: u32,
    /// Where the application's next byte goes.
    next: Seq,
}

impl Fuzz {
    fn begin(script: &mut Script<'_>) -> Fuzz {
        let kind = script.byte();
        let config = Arc::new(Config {
            mtu: [576, 1280, 1500, u16::MAX][usize::from(kind & 3)],
            superpackets: kind & 4 != 0,
            receive_limit: 4096 << (kind >> 3 & 7),
            send_limit: 200_000,
            keep_alive: (kind & 0x40 != 0).then_some(KeepAlive {
                idle: Duration::from_secs(3),
                interval: Duration::from_secs(1),
                probes: 2,
            }),
            ..Config::default()
        });
        let (now, v6, iss) = (Time::from_micros(1 << 40), kind & 0x80 != 0, Seq(script.long()));
        let conn = Connection::connect(&config, v6, iss, 9, now);
        let mut fuzz = Fuzz {
            conn,
            config,
            now,
            v6,
            iss,
            first: None,
            covered: Covered::default(),
            taken: 0,
            sent: 0,
            next: iss + 1,
        };
        if script.byte() & 1 == 0 {
            let segment = Segment { seq: Seq(script.long()), flags: Flags::SYN, ..fuzz.structured(script) };
            if let Some(syn) = Syn::from_segment(&segment) {
                fuzz.accept(&syn);
            }
        }
        fuzz
    }

    fn accept(&mut self, syn: &Syn) {
        self.conn = Connection::accept(&self.config, syn, self.v6, self.iss, 9, self.now);
        // It may begin later than asked.
        self.iss = self.conn.outstanding().0;
        self.first = Some(syn.seq() + 1);
        (self.covered, self.taken, self.sent) = (Covered::default(), 0, 0);
        self.next = self.iss + 1;
    }

    /// A segment near what the connection expects; its data are not set yet.
    fn structured(&mut self, script: &mut Script<'_>) -> Segment<'static> {
        let (una, nxt) = self.conn.outstanding();
        let receive = self.conn.receive_next();
        let kind = script.byte();
        let near = u32::from(script.byte());
        let delta = if kind & 4 != 0 { script.word().into() } else { near & 7 };
        let seq = match kind & 3 {
            0 | 1 => receive + delta,
            2 => receive - delta,
            _ => Seq(script.long()),
        };
        let ack = match kind >> 3 & 3 {
            0 => nxt,
            1 => una,
            2 => una + near,
            _ => nxt - near + 8,
        };
        let flags = match kind >> 5 {
            0 => Flags(script.byte()),
            1 => Flags::ACK | Flags::FIN,
            2 => Flags::SYN | Flags::ACK,
            _ => Flags::ACK,
        };
        let options = script.byte();
        let timestamps = (options & 1 != 0).then(|| Timestamps {
            value: self.now.as_millis().wrapping_add((options & 2).into()),
            echo: self.now.as_millis(),
        });
        let mut sack = Blocks::default();
        for _ in 0..options >> 2 & 3 {
            let left = una + u32::from(script.word());
            sack.push(left, left + u32::from(script.word()));
        }
        let syn = SynOptions {
            mss: (options & 0x10 != 0).then(|| script.word()),
            window_scale: (options & 0x20 != 0).then(|| script.byte().min(14)),
            sack_permitted: options & 0x40 != 0,
        };
        Segment { seq, ack, flags, window: script.word(), payload: &[], timestamps, sack, syn }
    }

    fn arrives(&mut self, segment: &Segment<'_>, mut appetite: usize) {
        let before = self.conn.receive_next();
        let state = self.conn.state();
        if let Some(first) = self.first.or((state == State::SynSent).then_some(segment.seq + 1)) {
            let start = segment.seq + u32::from(segment.flags.contains(Flags::SYN)) - first;
            let end = start
                .wrapping_add(segment.payload.len() as u32 + u32::from(segment.flags.contains(Flags::FIN)));
            // What lies before the beginning of the stream wraps.
            if start < 1 << 31 && start <= end {
                self.covered.add(start, end);
            } else if end < 1 << 31 {
                self.covered.add(0, end);
            }
        }
        let (first, mut taken) = (self.first, self.taken);
        let arrival = self.conn.segment_arrives(self.now, segment, |bytes| {
            let len = bytes.len().min(appetite);
            appetite -= len;
            check(&bytes[..len], first.expect("data come after the SYN") + taken);
            taken += len as u32;
            len
        });
        self.taken = taken;
        if state == State::SynSent && !matches!(self.conn.state(), State::SynSent | State::Closed) {
            self.first = Some(self.conn.receive_next());
            self.covered = Covered::default();
        } else if let Some(first) = self.first {
            let (from, to) = (before - first, self.conn.receive_next() - first);
            assert!(from <= to, "RCV.NXT moves back");
            assert!(self.covered.has(from, to), "received what no segment carried");
        }
        if let Arrival::NewConnection(syn) = arrival {
            assert_eq!(state, State::TimeWait);
            self.accept(&syn);
        }
    }

    fn transmit(&mut self) {
        let (addresses, iss) = (ends(self.v6), self.iss);
        let received = self.conn.receive_next();
        let (mtu, superpackets) = (usize::from(self.config.mtu), self.config.superpackets);
        let mut count = 0_u32;
        let mut check_one = |out: &Outgoing<'_>| {
            count += 1;
            assert!(count < 20_000, "no end of segments");
            let mut headers = [0; MAX_HEADERS];
            let len = out.write_headers(&mut headers, addresses.0, addresses.1).expect("a packet");
            if !superpackets {
                assert!(len - HEADER_LEN + out.payload.len() <= mtu.max(576), "longer than the link takes");
            }
            if out.flags.contains(Flags::ACK) && !out.flags.contains(Flags::RST) {
                assert!(out.ack == received, "acknowledges what did not come");
            }
            let mut at = out.seq;
            for part in out.payload.parts() {
                for &byte in *part {
                    assert_eq!(byte, pattern(at), "sends what nobody wrote, {} on", at - iss);
                    at += 1;
                }
            }
        };
        self.conn.transmit(self.now, &mut check_one);
        let open = !matches!(self.conn.state(), State::Closed | State::TimeWait);
        let (una, nxt) = self.conn.outstanding();
        if open && (una != nxt || self.conn.queued() > 0) {
            assert!(self.conn.next_timeout().is_some(), "nothing will wake {:?}", self.conn);
        }
    }

    fn timer(&mut self) {
        let mut idle = 0;
        for _ in 0..16 {
            let Some(at) = self.conn.next_timeout() else { return };
            idle = if at > self.now { 0 } else { idle + 1 };
            assert!(idle < 8, "timers go off without end: {:?}", self.conn);
            self.now = self.now.max(at);
            self.conn.timeout(self.now);
            self.transmit();
            if self.conn.next_timeout().is_none_or(|next| next > self.now) {
                return;
            }
        }
    }

    fn check(&self) {
        let (una, nxt) = self.conn.outstanding();
        assert!(una.le(nxt));
        let queued = self.conn.queued() as usize;
        assert!(queued <= self.sent as usize);
        assert!(self.conn.held() - queued <= self.config.receive_limit as usize, "holds more than it may");
        if let Some(first) = self.first {
            let stream = self.conn.receive_next() - first;
            let had = self.taken + self.conn.received() as u32;
            let fin = matches!(
                self.conn.state(),
                State::CloseWait | State::Closing | State::LastAck | State::TimeWait | State::Closed
            );
            assert!(stream == had || (fin && stream == had + 1), "acknowledged and neither taken nor held");
        }
        if self.conn.state() == State::Closed {
            assert!(queued == 0 && self.conn.next_timeout().is_none());
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let kind = script.byte();
        match kind & 15 {
            0..=6 => {
                let segment = self.structured(script);
                let len = match kind >> 4 & 3 {
                    0 => 0,
                    1 => usize::from(script.byte()),
                    _ => usize::from(script.word()),
                };
                let appetite = if kind & 0x40 != 0 { usize::from(script.byte()) } else { usize::MAX };
                let start = segment.seq + u32::from(segment.flags.contains(Flags::SYN));
                let data: Vec<u8> = (0..len as u32).map(|n| pattern(start + n)).collect();
                self.arrives(&Segment { payload: &data, ..segment }, appetite);
            }
            7 => {
                let len = script.byte().into();
                if let Ok(view) = TcpView::parse(script.bytes(len)) {
                    let segment = Segment::from_view(&view);
                    let start = segment.seq + u32::from(segment.flags.contains(Flags::SYN));
                    let data: Vec<u8> =
                        (0..segment.payload.len() as u32).map(|n| pattern(start + n)).collect();
                    self.arrives(&Segment { payload: &data, ..segment }, 100);
                }
            }
            8 | 9 => {
                let len = u32::from(script.word());
                let state = self.conn.state();
                let before = self.conn.queued();
                if before + len <= MOST_QUEUED {
                    self.conn.send((0..len).map(|n| pattern(self.next + n)).collect());
                    let taken = self.conn.queued() - before;
                    assert!(taken == 0 || taken == len, "{state:?}");
                    self.next += taken;
                    self.sent += taken;
                }
            }
            10 => {
                let mut appetite = usize::from(script.word());
                let (first, mut taken) = (self.first, self.taken);
                self.conn.receive(|bytes| {
                    let len = bytes.len().min(appetite);
                    appetite -= len;
                    check(&bytes[..len], first.expect("data come after the SYN") + taken);
                    taken += len as u32;
                    len
                });
                self.taken = taken;
            }
            11 => match script.byte() & 7 {
                0 => self.conn.abort(),
                1 | 2 => self.conn.close(),
                _ => self.timer(),
            },
            12 => {
                self.now = self.now + Duration::from_millis(script.word().into());
                self.conn.timeout(self.now);
            }
            13 => self.timer(),
            14 => self.conn.set_receive_limit(script.word().into()),
            _ => {
                let mtu = script.word();
                let seq = self.conn.outstanding().0 + u32::from(script.byte());
                self.conn.path_mtu(mtu, seq);
            }
        }
        if kind & 0x80 == 0 {
            self.transmit();
        }
        self.check();
    }
}

fn check(bytes: &[u8], mut at: Seq) {
    for &byte in bytes {
        assert_eq!(byte, pattern(at), "a byte is another");
        at += 1;
    }
}

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    if v6 {
        (([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 1).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2], 2).into())
    } else {
        (([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 2).into())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let mut fuzz = Fuzz::begin(&mut script);
    fuzz.transmit();
    for _ in 0..400 {
        if script.0.is_empty() {
            break;
        }
        fuzz.step(&mut script);
    }
});
