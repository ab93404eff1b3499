//! One connection and a peer that takes everything, for benchmarks: no device and no kernel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneway_stack::tcp::{
    Config, Connection, MAX_HEADERS, Outgoing, Segment, Seq, Syn, SynOptions, Time, Timestamps,
};
use oneway_wire::checksum::Checksum;
use oneway_wire::ip::{IpView, protocol};
use oneway_wire::tcp::{Flags, TcpView};

/// Data of a superpacket.
pub const LEN: usize = 65_483;

static BYTES: [u8; LEN] = [0x5a; LEN];

/// An established connection, and what its peer sends next.
#[derive(Debug)]
pub struct Peer {
    conn: Connection<&'static [u8]>,
    now: Time,
    client: SocketAddr,
    server: SocketAddr,
    /// SND.NXT and RCV.NXT of the peer.
    next: Seq,
    expected: Seq,
    frame: Vec<u8>,
    headers: [u8; MAX_HEADERS],
}

impl Default for Peer {
    fn default() -> Self {
        Self::new()
    }
}

impl Peer {
    /// Does the handshake.
    pub fn new() -> Self {
        let client = "192.0.2.1:50000".parse().expect("an address");
        let server = "198.51.100.1:443".parse().expect("an address");
        let now = Time::from_micros(1_000_000);
        let bare = |seq: Seq, ack: Seq, flags: Flags| Segment {
            seq,
            ack,
            flags,
            window: u16::MAX,
            payload: &[],
            timestamps: Some(Timestamps { value: 1, echo: 0 }),
            sack: Default::default(),
            syn: SynOptions { mss: Some(65_495), window_scale: Some(7), sack_permitted: true },
        };
        let (irs, iss) = (Seq(1_000), Seq(5_000));
        let syn = Syn::from_segment(&bare(irs, Seq(0), Flags::SYN)).expect("a SYN");
        let mut conn = Connection::accept(&Arc::new(Config::default()), &syn, false, iss, 0, now);
        conn.transmit(now, |_| {});
        conn.segment_arrives(now, &bare(irs + 1, iss + 1, Flags::ACK), |_| 0);
        let mut peer = Self {
            conn,
            now,
            client,
            server,
            next: irs + 1,
            expected: iss + 1,
            frame: Vec::new(),
            headers: [0; MAX_HEADERS],
        };
        peer.frame = peer.data_packet();
        // Out of slow start.
        for _ in 0..64 {
            peer.download();
        }
        peer
    }

    fn tick(&mut self) {
        self.now = self.now + Duration::from_micros(20);
    }

    /// A superpacket of the client's, with all its headers and options; its sequence number is set for each use.
    fn data_packet(&self) -> Vec<u8> {
        let mut packet = vec![0; 20 + 32];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((52 + LEN) as u16).to_be_bytes());
        packet[8] = 64;
        packet[9] = protocol::TCP;
        packet[12..16].copy_from_slice(&[192, 0, 2, 1]);
        packet[16..20].copy_from_slice(&[198, 51, 100, 1]);
        packet[20..22].copy_from_slice(&50_000_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&443_u16.to_be_bytes());
        packet[32] = 8 << 4;
        packet[33] = (Flags::ACK | Flags::PSH).0;
        packet[34..36].copy_from_slice(&8192_u16.to_be_bytes());
        packet[40..44].copy_from_slice(&[1, 1, 8, 10]);
        packet.extend_from_slice(&BYTES);
        let sum = Checksum::new().bytes(&packet[..20]).finish();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// One superpacket from the client to the outbound, and its acknowledgment: from the packet's bytes to the headers of
    /// the answer. Returns the bytes that were taken.
    pub fn upload(&mut self) -> usize {
        self.tick();
        let mut frame = std::mem::take(&mut self.frame);
        frame[24..28].copy_from_slice(&self.next.0.to_be_bytes());
        frame[28..32].copy_from_slice(&self.expected.0.to_be_bytes());
        frame[44..48].copy_from_slice(&self.now.as_millis().to_be_bytes());
        let ip = IpView::parse(&frame).expect("IP");
        assert!(ip.header_checksum_valid());
        let tcp = TcpView::parse(ip.payload()).expect("TCP");
        let mut taken = 0;
        self.conn.segment_arrives(self.now, &Segment::from_view(&tcp), |bytes| {
            taken += bytes.len();
            bytes.len()
        });
        self.next += LEN as u32;
        self.emit_all();
        self.frame = frame;
        taken
    }

    /// One superpacket from the outbound to the client, and the client's acknowledgment. Returns the bytes that were sent.
    pub fn download(&mut self) -> usize {
        self.tick();
        self.conn.send(&BYTES[..self.conn.send_room().min(LEN)]);
        let sent = self.emit_all();
        self.expected += sent as u32;
        self.tick();
        let ack = Segment {
            seq: self.next,
            ack: self.expected,
            flags: Flags::ACK,
            window: 8192,
            payload: &[],
            timestamps: Some(Timestamps { value: self.now.as_millis(), echo: 0 }),
            sack: Default::default(),
            syn: SynOptions::default(),
        };
        self.conn.segment_arrives(self.now, &ack, |_| 0);
        sent
    }

    /// Writes the headers of what is to be sent, as the device's driver does, and returns the length of the data.
    fn emit_all(&mut self) -> usize {
        let (server, client, headers) = (self.server, self.client, &mut self.headers);
        let mut sent = 0;
        self.conn.transmit(self.now, |out: &Outgoing<'_>| {
            out.write_headers(headers, server, client).expect("headers");
            sent += out.payload.len();
        });
        sent
    }
}
