//! One connection, and a peer that a test plays segment by segment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::super::*;
use super::link::bytes;

/// The peer's initial sequence number: its data go over the wrap.
pub const IRS: Seq = Seq(0xffff_ff00);
/// The connection's.
pub const ISS: Seq = Seq(5000);

pub const MS: fn(u64) -> Duration = Duration::from_millis;

/// A segment of the peer.
#[derive(Clone, Debug)]
pub struct Seg {
    pub seq: Seq,
    pub ack: Seq,
    pub flags: Flags,
    pub window: u16,
    pub data: Vec<u8>,
    pub timestamps: Option<Timestamps>,
    pub sack: Vec<(Seq, Seq)>,
    pub syn: SynOptions,
}

impl Seg {
    pub fn seq(self, seq: Seq) -> Seg {
        Seg { seq, ..self }
    }

    pub fn ack(self, ack: Seq) -> Seg {
        Seg { ack, ..self }
    }

    pub fn flags(self, flags: Flags) -> Seg {
        Seg { flags, ..self }
    }

    pub fn fin(self) -> Seg {
        let flags = self.flags | Flags::FIN;
        Seg { flags, ..self }
    }

    pub fn window(self, window: u16) -> Seg {
        Seg { window, ..self }
    }

    pub fn len(self, len: usize) -> Seg {
        Seg { data: (0..len).map(|n| n as u8).collect(), ..self }
    }

    pub fn sack(self, blocks: &[(Seq, Seq)]) -> Seg {
        Seg { sack: blocks.to_vec(), ..self }
    }

    pub fn value(mut self, value: u32) -> Seg {
        if let Some(timestamps) = &mut self.timestamps {
            timestamps.value = value;
        }
        self
    }

    pub fn segment(&self) -> Segment<'_> {
        let mut sack = Blocks::default();
        for &(left, right) in &self.sack {
            sack.push(left, right);
        }
        Segment {
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            payload: &self.data,
            timestamps: self.timestamps,
            sack,
            syn: self.syn,
        }
    }
}

/// A segment of the connection.
#[derive(Clone, Debug)]
pub struct Out {
    pub seq: Seq,
    pub ack: Seq,
    pub flags: Flags,
    pub window: u16,
    pub timestamps: Option<Timestamps>,
    pub sack: Vec<(Seq, Seq)>,
    pub syn: SynOptions,
    pub data: Vec<u8>,
    /// As it is on the wire.
    pub wire: Vec<u8>,
}

impl Out {
    pub fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// SEG.SEQ + SEG.LEN.
    pub fn end(&self) -> Seq {
        let bits = u32::from(self.has(Flags::SYN)) + u32::from(self.has(Flags::FIN));
        self.seq + self.data.len() as u32 + bits
    }

    /// Only an acknowledgment.
    pub fn is_pure_ack(&self) -> bool {
        self.flags == Flags::ACK && self.data.is_empty()
    }
}

/// What the tests are made with, unless they say otherwise: plain numbers.
pub fn config() -> Config {
    Config { mtu: 1500, superpackets: false, receive_limit: 60_000, ..Config::default() }
}

/// A peer's options: segments of 1000 bytes and nothing else.
pub fn plain() -> SynOptions {
    SynOptions { mss: Some(1000), ..SynOptions::default() }
}

/// The same with SACK.
pub fn with_sack() -> SynOptions {
    SynOptions { sack_permitted: true, ..plain() }
}

pub fn addresses(v6: bool) -> (SocketAddr, SocketAddr) {
    if v6 {
        ("[2001:db8::2]:443".parse().unwrap(), "[2001:db8::1]:50000".parse().unwrap())
    } else {
        ("198.51.100.1:443".parse().unwrap(), "192.0.2.1:50000".parse().unwrap())
    }
}

pub struct Bench {
    pub conn: Connection<Vec<u8>>,
    pub now: Time,
    pub v6: bool,
    /// SND.NXT of the peer.
    pub seq: Seq,
    /// What the peer acknowledges.
    pub ack: Seq,
    /// The peer's window field.
    pub window: u16,
    /// Whether the peer sends timestamps, and what it echoes.
    pub echo: Option<u32>,
    pub got: Vec<u8>,
    /// Bytes that the application still takes as they come.
    pub appetite: usize,
}

impl Bench {
    fn new(conn: Connection<Vec<u8>>, v6: bool, timestamps: bool) -> Bench {
        Bench {
            conn,
            now: start(),
            v6,
            seq: IRS + 1,
            ack: ISS + 1,
            window: 60_000,
            echo: timestamps.then_some(0),
            got: Vec::new(),
            appetite: usize::MAX,
        }
    }

    /// SYN-RECEIVED; nothing was sent.
    pub fn accept(config: Config, syn: SynOptions, timestamps: bool, v6: bool) -> Bench {
        let options = Seg {
            seq: IRS,
            ack: Seq(0),
            flags: Flags::SYN,
            window: 60_000,
            data: Vec::new(),
            timestamps: timestamps.then_some(Timestamps { value: clock(start()), echo: 0 }),
            sack: Vec::new(),
            syn,
        };
        let syn = Syn::from_segment(&options.segment()).unwrap();
        let conn = Connection::accept(&Arc::new(config), &syn, v6, ISS, 77, start());
        Bench::new(conn, v6, timestamps)
    }

    /// ESTABLISHED, over a round trip of 10 ms.
    pub fn open_with(config: Config, syn: SynOptions, timestamps: bool) -> Bench {
        let mut bench = Bench::accept(config, syn, timestamps, false);
        assert!(bench.flush()[0].has(Flags::SYN | Flags::ACK));
        bench.now = bench.now + MS(10);
        assert!(bench.say(bench.seg()).is_empty());
        assert_eq!(bench.conn.state(), State::Established);
        bench
    }

    pub fn open() -> Bench {
        Bench::open_with(config(), plain(), false)
    }

    /// SYN-SENT; the SYN was sent.
    pub fn connect(config: Config) -> Bench {
        let conn = Connection::connect(&Arc::new(config), false, ISS, 77, start());
        let mut bench = Bench::new(conn, false, false);
        let out = bench.flush();
        assert!(out.len() == 1 && out[0].flags == Flags::SYN);
        bench
    }

    /// A segment of the peer: an acknowledgment without data.
    pub fn seg(&self) -> Seg {
        Seg {
            seq: self.seq,
            ack: self.ack,
            flags: Flags::ACK,
            window: self.window,
            data: Vec::new(),
            timestamps: self.echo.map(|echo| Timestamps { value: clock(self.now), echo }),
            sack: Vec::new(),
            syn: SynOptions::default(),
        }
    }

    /// The peer's SYN, with or without an ACK.
    pub fn syn(&self, flags: Flags) -> Seg {
        Seg { syn: plain(), ..self.seg().seq(IRS).flags(flags) }
    }

    /// The segment arrives; nothing is sent yet.
    pub fn give(&mut self, seg: &Seg) -> Arrival {
        let Bench { conn, got, appetite, .. } = self;
        conn.segment_arrives(self.now, &seg.segment(), |bytes| {
            let taken = bytes.len().min(*appetite);
            *appetite -= taken;
            got.extend_from_slice(&bytes[..taken]);
            taken
        })
    }

    /// What the connection has to send.
    pub fn flush(&mut self) -> Vec<Out> {
        let (src, dst) = addresses(self.v6);
        let mut out = Vec::new();
        self.conn.transmit(self.now, |segment| {
            out.push(Out {
                seq: segment.seq,
                ack: segment.ack,
                flags: segment.flags,
                window: segment.window,
                timestamps: segment.timestamps,
                sack: segment.sack.as_slice().to_vec(),
                syn: segment.syn,
                data: segment.payload.parts().concat(),
                wire: bytes(segment, src, dst),
            });
        });
        if let (Some(echo), Some(last)) = (&mut self.echo, out.last()) {
            *echo = last.timestamps.unwrap().value;
        }
        out
    }

    pub fn say(&mut self, seg: Seg) -> Vec<Out> {
        self.give(&seg);
        self.flush()
    }

    /// The peer sends `len` bytes in order.
    pub fn data(&mut self, len: usize) -> Vec<Out> {
        let seg = self.seg().len(len);
        self.seq += len as u32;
        self.say(seg)
    }

    /// The peer closes its half.
    pub fn fin(&mut self) -> Vec<Out> {
        let seg = self.seg().fin();
        self.seq += 1;
        self.say(seg)
    }

    /// The peer acknowledges `len` more.
    pub fn acks(&mut self, len: u32) -> Vec<Out> {
        self.ack += len;
        self.say(self.seg())
    }

    /// The application writes `len` bytes.
    pub fn write(&mut self, len: usize) -> Vec<Out> {
        self.conn.send((0..len).map(|n| n as u8).collect());
        self.flush()
    }

    pub fn close(&mut self) -> Vec<Out> {
        self.conn.close();
        self.flush()
    }

    /// Time goes on until the next timer, which goes off.
    pub fn next_timer(&mut self) -> Vec<Out> {
        self.now = self.now.max(self.conn.next_timeout().expect("a timer"));
        self.conn.timeout(self.now);
        self.flush()
    }

    /// Time goes on, and all timers with it. What was sent, and when.
    pub fn wait(&mut self, time: Duration) -> Vec<(Time, Out)> {
        let until = self.now + time;
        let mut out = Vec::new();
        while let Some(at) = self.conn.next_timeout()
            && at <= until
        {
            self.now = self.now.max(at);
            self.conn.timeout(self.now);
            let sent = self.flush();
            out.extend(sent.into_iter().map(|segment| (at, segment)));
        }
        self.now = until;
        out
    }
}

pub fn start() -> Time {
    Time::from_micros(1_000_000_000)
}

/// The peer's clock of timestamps, which wraps soon.
pub fn clock(now: Time) -> u32 {
    now.as_millis().wrapping_add(u32::MAX - 1_001_000)
}
