//! The slow and obvious: packets as fields, written out byte by byte.

use std::net::{IpAddr, SocketAddr};

use oneway_wire::ip::{IpView, protocol};
use oneway_wire::tcp::{Flags, TcpView};
use oneway_wire::udp::UdpView;
use oneway_wire::virtio::{Gso, NEEDS_CSUM, VirtioNetHdr};

/// xorshift64*: the same packets on every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        match self.below(8) {
            0 => vec![0; len],
            1 => vec![0xff; len],
            _ => (0..len).map(|_| self.next() as u8).collect(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) id: u16,
    pub(super) dont_fragment: bool,
    pub(super) ttl: u8,
    pub(super) class: u8,
    /// `None`: a datagram.
    pub(super) tcp: Option<Tcp>,
    pub(super) data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: Flags,
    pub(super) window: u16,
    pub(super) options: Vec<u8>,
}

/// RFC 1071, as it is written there.
fn sum(pieces: &[&[u8]]) -> u16 {
    let mut bytes: Vec<u8> = pieces.concat();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let mut sum = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Packet {
    pub(super) fn random(random: &mut Random, is_tcp: bool, len: usize) -> Packet {
        let v6 = random.percent(50);
        let mut end = || -> SocketAddr {
            let port = 1 + random.below(3) as u16;
            let host = random.below(3) as u8;
            if v6 {
                SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()].into(), port)
            } else {
                SocketAddr::new([192, 0, 2, host].into(), port)
            }
        };
        let (src, dst) = (end(), end());
        Packet {
            src,
            dst,
            id: if v6 { 0 } else { random.next() as u16 },
            dont_fragment: v6 || random.percent(80),
            ttl: 1 + random.below(255) as u8,
            class: random.next() as u8,
            tcp: is_tcp.then(|| Tcp {
                seq: random.next() as u32,
                ack: random.next() as u32,
                flags: Flags::ACK,
                window: random.next() as u16,
                options: match random.below(3) {
                    0 => Vec::new(),
                    1 => [[1, 1, 8, 10].to_vec(), random.bytes(8)].concat(),
                    _ => {
                        let words = 1 + random.below(10);
                        random.bytes(4 * words)
                    }
                },
            }),
            data: random.bytes(len),
        }
    }

    pub(super) fn header_len(&self) -> usize {
        let ip = if self.src.is_ipv4() { 20 } else { 40 };
        ip + self.tcp.as_ref().map_or(8, |tcp| 20 + tcp.options.len())
    }

    fn protocol(&self) -> u8 {
        if self.tcp.is_some() { protocol::TCP } else { protocol::UDP }
    }

    fn transport(&self, checksum: u16) -> Vec<u8> {
        let mut bytes = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        match &self.tcp {
            Some(tcp) => {
                bytes.extend(tcp.seq.to_be_bytes());
                bytes.extend(tcp.ack.to_be_bytes());
                bytes.extend([(5 + tcp.options.len() as u8 / 4) << 4, tcp.flags.0]);
                bytes.extend(tcp.window.to_be_bytes());
                bytes.extend(checksum.to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(&tcp.options);
            }
            None => {
                bytes.extend((8 + self.data.len() as u16).to_be_bytes());
                bytes.extend(checksum.to_be_bytes());
            }
        }
        bytes.extend(&self.data);
        bytes
    }

    fn pseudo(&self, len: usize) -> Vec<u8> {
        let mut bytes = [octets(self.src.ip()), octets(self.dst.ip())].concat();
        bytes.extend((len as u32).to_be_bytes());
        bytes.extend([0, self.protocol()]);
        bytes
    }

    fn with_transport(&self, transport: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.src.is_ipv4() {
            bytes.extend([0x45, self.class]);
            bytes.extend((20 + transport.len() as u16).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, self.protocol(), 0, 0]);
            bytes.extend(octets(self.src.ip()));
            bytes.extend(octets(self.dst.ip()));
            let checksum = !sum(&[&bytes]);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            bytes.extend((6 << 28 | u32::from(self.class) << 20 | 0x54321).to_be_bytes());
            bytes.extend((transport.len() as u16).to_be_bytes());
            bytes.extend([self.protocol(), self.ttl]);
            bytes.extend(octets(self.src.ip()));
            bytes.extend(octets(self.dst.ip()));
        }
        bytes.extend(transport);
        bytes
    }

    /// With a whole checksum.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let transport = self.transport(0);
        let checksum = match !sum(&[&self.pseudo(transport.len()), &transport]) {
            0 if self.tcp.is_none() => 0xffff,
            checksum => checksum,
        };
        self.with_transport(&self.transport(checksum))
    }

    /// A frame of a superpacket, with the partial checksum.
    pub(super) fn superframe(&self, size: u16) -> Vec<u8> {
        let partial = sum(&[&self.pseudo(self.transport(0).len())]);
        let packet = self.with_transport(&self.transport(partial));
        let v4 = self.src.is_ipv4();
        let gso = match (&self.tcp, v4) {
            (None, _) => Gso::UdpL4,
            (Some(_), true) => Gso::TcpV4 { ecn: false },
            (Some(_), false) => Gso::TcpV6 { ecn: false },
        };
        let header = VirtioNetHdr {
            flags: NEEDS_CSUM,
            gso_type: gso.to_raw(),
            hdr_len: self.header_len() as u16,
            gso_size: size,
            csum_start: if v4 { 20 } else { 40 },
            csum_offset: if self.tcp.is_some() { 16 } else { 6 },
        };
        [&header.encode()[..], &packet].concat()
    }

    /// What it is on a wire.
    pub(super) fn cut(&self, size: u16) -> Vec<Packet> {
        let chunks: Vec<&[u8]> = self.data.chunks(size.into()).collect();
        let last = chunks.len() - 1;
        let piece = |(index, chunk): (usize, &&[u8])| {
            let mut piece = Packet { data: chunk.to_vec(), ..self.clone() };
            if self.src.is_ipv4() {
                piece.id = self.id.wrapping_add(index as u16);
            }
            if let Some(tcp) = &mut piece.tcp {
                tcp.seq = tcp.seq.wrapping_add(index as u32 * u32::from(size));
                let without = |flags: Flags, gone: Flags| Flags(flags.0 & !gone.0);
                if index != last {
                    tcp.flags = without(tcp.flags, Flags::PSH | Flags::FIN);
                }
                if index != 0 {
                    tcp.flags = without(tcp.flags, Flags::CWR);
                }
            }
            piece
        };
        chunks.iter().enumerate().map(piece).collect()
    }
}

/// What the slow one sees of a packet; `None` where it cannot tell whose it is.
struct Seen<'a> {
    ip: IpView<'a>,
    ends: (SocketAddr, SocketAddr, u8),
    exact: bool,
}

fn see(packet: &[u8]) -> Option<Seen<'_>> {
    let ip = IpView::parse_quoted(packet).ok()?;
    let plain = ip.header_len() == if ip.src().is_ipv4() { 20 } else { 40 };
    let (src, dst) = ip.ports().filter(|_| plain && !ip.is_partial())?;
    let ends = (SocketAddr::new(ip.src(), src), SocketAddr::new(ip.dst(), dst), ip.protocol());
    Some(Seen { ip, ends, exact: ip.total_len() == packet.len() })
}

/// Acknowledgment, window, urgent pointer and options of TCP.
type Fields<'a> = (u32, u16, u16, &'a [u8]);

/// Data, sequence number and all that must be the same in the next one.
struct Joinable<'a> {
    data: usize,
    seq: Option<u32>,
    push: bool,
    id: u16,
    dont_fragment: bool,
    rest: (&'a [u8], u8, u8, Option<Fields<'a>>),
}

fn joinable<'a>(seen: &Seen<'a>) -> Option<Joinable<'a>> {
    let ip = &seen.ip;
    if !seen.exact || !ip.header_checksum_valid() {
        return None;
    }
    let (src, dst) = (ip.src(), ip.dst());
    let (data, seq, push, tcp) = if seen.ends.2 == protocol::TCP {
        let tcp = TcpView::parse(ip.payload()).ok()?;
        if !tcp.checksum_valid(src, dst) || ![0x10, 0x18].contains(&tcp.flags().0) {
            return None;
        }
        let options = &ip.payload()[20..tcp.header_len()];
        // The low bits of the data offset are reserved, and so no field of the view.
        let urgent = tcp.urgent().wrapping_add(u16::from(ip.payload()[12]) << 8);
        let rest = (tcp.ack(), tcp.window(), urgent, options);
        (tcp.payload(), Some(tcp.seq()), tcp.flags().contains(Flags::PSH), Some(rest))
    } else {
        let udp = UdpView::parse(ip.payload()).ok()?;
        if udp.total_len() != ip.payload().len() || udp.checksum() == 0 || !udp.checksum_valid(src, dst) {
            return None;
        }
        (udp.payload(), None, false, None)
    };
    let label = if src.is_ipv4() { &ip.packet()[..1] } else { &ip.packet()[..4] };
    let v4 = src.is_ipv4();
    (!data.is_empty()).then(|| Joinable {
        data: data.len(),
        seq,
        push,
        id: if v4 { u16::from_be_bytes([ip.packet()[4], ip.packet()[5]]) } else { 0 },
        dont_fragment: ip.dont_fragment(),
        rest: (label, ip.ttl(), ip.traffic_class(), tcp),
    })
}

/// Whether `next` goes behind the packets of `group`.
fn follows(group: &[&[u8]], next: &[u8]) -> bool {
    let all: Option<Vec<_>> = group.iter().chain([&next]).map(|packet| joinable(&see(packet)?)).collect();
    let Some(all) = all else { return false };
    let total = next.len() - all[all.len() - 1].data + all.iter().map(|one| one.data).sum::<usize>();
    let pairs = || all.windows(2).map(|pair| (&pair[0], &pair[1]));
    let v4 = next[0] >> 4 == 4;
    let counted = |step: u16| pairs().all(|(a, b)| b.id == a.id.wrapping_add(step));
    total <= 65_535
        && pairs().all(|(a, b)| {
            b.seq == a.seq.map(|seq| seq.wrapping_add(a.data as u32))
                && (a.rest, a.dont_fragment) == (b.rest, b.dont_fragment)
                && !a.push
                && a.data == all[0].data
                && b.data <= a.data
        })
        && (!v4 || counted(1) || counted(0) && all[0].dont_fragment)
}

/// Which packets of a batch are to become one.
pub(super) fn group<'a>(packets: &[&'a [u8]]) -> Vec<Vec<&'a [u8]>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, packet) in packets.iter().enumerate() {
        let ends = see(packet).map(|seen| seen.ends);
        // The group whose last packet is the last one that could be of the same connection.
        let before = (0..at).rev().find(|&before| {
            let other = see(packets[before]).map(|seen| seen.ends);
            ends.is_none() || other.is_none() || other == ends
        });
        let found = before.and_then(|before| groups.iter_mut().find(|group| group.ends_with(&[before])));
        match found {
            Some(group) if follows(&group.iter().map(|&at| packets[at]).collect::<Vec<_>>(), packet) => {
                group.push(at);
            }
            _ => groups.push(vec![at]),
        }
    }
    groups.into_iter().map(|group| group.into_iter().map(|at| packets[at]).collect()).collect()
}
