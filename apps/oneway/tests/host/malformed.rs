//! Packets that no sane sender makes, put on the TUN device beside a program's good ones: counted, dropped, and
//! nothing else.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use oneway_lab::capture::Recorder;
use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Simple, address};
use oneway_lab::{Injector, Snapshot, Topology};
use oneway_wire::checksum;
use oneway_wire::emit::{IpHeader, TcpHeader, fragments, ip_header, tcp_segment, udp_datagram};
use oneway_wire::ip::{IpView, protocol};
use oneway_wire::tcp::Flags;

use crate::common::{SECOND, TUN, ask, expect_connectivity, number, reaches_origin, run, stop};

/// So many packets at once do not fill the device's queue, which would lose the others.
const BURST: usize = 100;

/// The client and the target that bad packets speak of: nobody of the test's own traffic.
fn ends() -> [(SocketAddr, SocketAddr); 2] {
    [
        (address::HOST_UP1.v4_port(40_000), address::SPARE.v4_port(5_000)),
        (address::HOST_UP1.v6_port(40_000), address::SPARE.v6_port(5_000)),
    ]
}

fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    udp_datagram(&mut packet, src, dst, payload).expect("ends of one family");
    packet
}

fn tcp(src: SocketAddr, dst: SocketAddr, flags: Flags, options: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = TcpHeader { seq: 1, ack: 0, flags, window: 65_535, options };
    tcp_segment(&mut packet, src, dst, &header, b"").expect("ends of one family");
    packet
}

fn icmp(src: SocketAddr, dst: SocketAddr, message: &[u8]) -> Vec<u8> {
    let protocol = if src.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    let mut packet = Vec::new();
    ip_header(&mut packet, &IpHeader::new(src.ip(), dst.ip(), protocol), message.len()).expect("one family");
    packet.extend_from_slice(message);
    packet
}

/// Where the transport header is.
fn transport_at(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { 20 } else { 40 }
}

/// The packet with other bytes at some place, and a header checksum that is right for them.
fn with(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    if packet[0] >> 4 == 4 && at != 10 {
        let len = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..len]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// What is wrong, the packets, and how many of them are to be counted as malformed.
type Case = (String, Vec<Vec<u8>>, usize);

/// Packets of one family whose fault lies behind the IP header, or in both families' headers alike.
fn cases(src: SocketAddr, dst: SocketAddr, id: u8) -> Vec<Case> {
    let datagram = udp(src, dst, b"payload!");
    let syn = tcp(src, dst, Flags::SYN, &[]);
    let at = transport_at(&datagram);
    let family = if src.is_ipv4() { "IPv4" } else { "IPv6" };
    let mut cases = Vec::new();
    let mut one = |what: String, packet: Vec<u8>| cases.push((format!("{family}: {what}"), vec![packet], 1));
    for cut in 1..datagram.len() {
        one(format!("UDP cut to {cut} bytes"), datagram[..cut].to_vec());
    }
    for cut in 1..syn.len() {
        one(format!("TCP cut to {cut} bytes"), syn[..cut].to_vec());
    }
    for version in [0, 1, 2, 3, 5, 7, 8, 15] {
        let mut packet = datagram.clone();
        packet[0] = version << 4 | (packet[0] & 15);
        one(format!("version {version}"), packet);
    }
    for len in [0, 7, 17, 65_535_u16] {
        one(format!("UDP length {len}"), with(datagram.clone(), at + 4, &len.to_be_bytes()));
    }
    one("UDP checksum".to_owned(), with(datagram.clone(), at + 6, &[0x12, 0x34]));
    for words in [0, 1, 4, 6, 15] {
        one(format!("TCP header of {words} words"), with(syn.clone(), at + 12, &[words << 4]));
    }
    for flags in [Flags::SYN, Flags::RST, Flags::FIN | Flags::ACK, Flags::SYN | Flags::FIN] {
        let segment = tcp(src, dst, flags, &[]);
        one(format!("checksum of TCP with {flags:?}"), with(segment, at + 16, &[0x12, 0x34]));
    }
    let echo = if src.is_ipv4() { 8 } else { 128 };
    for len in 0..8 {
        one(format!("ICMP of {len} bytes"), icmp(src, dst, &vec![echo; len]));
    }
    one("ICMP checksum".to_owned(), icmp(src, dst, &[echo, 0, 0x12, 0x34, 0, 1, 0, 1, 7, 7]));

    let whole = udp(src, dst, &[7; 3000]);
    let whole = if src.is_ipv4() { with(whole, 4, &[id, id]) } else { whole };
    let parts = fragments(&whole, 1500, id.into()).expect("a packet that can be cut");
    let (first, second) = (parts[0].clone(), parts[1].clone());
    let mut overlapping = second.clone();
    let offset_at = if src.is_ipv4() { 6 } else { 42 };
    // One unit of eight bytes earlier than where the first one ends.
    overlapping[offset_at + 1] -= if src.is_ipv4() { 1 } else { 8 };
    let overlapping = with(overlapping, offset_at, &[second[offset_at]]);
    // In any order, as two queues may have it: the second one to come is dropped.
    cases.push((format!("{family}: overlapping fragments"), vec![first, overlapping], 1));
    let mut far = second;
    far[offset_at] |= 0x1f;
    far[offset_at + 1] |= 0xf8;
    let far = with(far, 1, &[0]);
    cases.push((format!("{family}: a fragment beyond the longest packet"), vec![far], 1));
    cases
}

/// Headers that only IPv4 has.
fn cases_of_v4(src: SocketAddr, dst: SocketAddr) -> Vec<Case> {
    let datagram = udp(src, dst, b"payload!");
    let mut cases = Vec::new();
    let mut one = |what: &str, packet: Vec<u8>| cases.push((format!("IPv4: {what}"), vec![packet], 1));
    for words in [0, 1, 4, 15] {
        one(&format!("header of {words} words"), with(datagram.clone(), 0, &[0x40 | words]));
    }
    for len in [0, 19, 20, 27, 37, 65_535_u16] {
        one(&format!("total length {len}"), with(datagram.clone(), 2, &len.to_be_bytes()));
    }
    one("header checksum", with(datagram.clone(), 10, &[0x12, 0x34]));
    one("an empty fragment", with(udp(src, dst, b"")[..28].to_vec(), 2, &[0, 20, 0, 9, 0x20, 0]));
    one("a fragment of odd length", with(udp(src, dst, b"odd"), 4, &[0, 8, 0x20, 0]));
    cases
}

/// Headers that only IPv6 has.
fn cases_of_v6(src: SocketAddr, dst: SocketAddr) -> Vec<Case> {
    let datagram = udp(src, dst, &[0; 96]);
    let mut cases = Vec::new();
    let mut one = |what: &str, packet: Vec<u8>| cases.push((format!("IPv6: {what}"), vec![packet], 1));
    for len in [0, 7, 105, 65_535_u16] {
        one(&format!("payload length {len}"), with(datagram.clone(), 4, &len.to_be_bytes()));
    }
    one("UDP without a checksum", with(datagram.clone(), 46, &[0, 0]));
    one(
        "a destination option longer than the packet",
        with(with(datagram.clone(), 6, &[60]), 40, &[17, 255]),
    );
    let mut chain = with(datagram.clone(), 6, &[60]);
    for at in (40..136).step_by(8) {
        chain[at..at + 8].copy_from_slice(&[60, 0, 1, 4, 0, 0, 0, 0]);
    }
    one("a chain of twelve extension headers", chain);
    let mut late = with(datagram.clone(), 6, &[60]);
    late[40..48].copy_from_slice(&[0, 0, 1, 4, 0, 0, 0, 0]);
    late[48..56].copy_from_slice(&[17, 0, 1, 4, 0, 0, 0, 0]);
    one("hop-by-hop options in the middle", late);
    let mut twice = with(datagram, 6, &[44]);
    twice[40..48].copy_from_slice(&[44, 0, 0, 1, 0, 0, 0, 9]);
    twice[48..56].copy_from_slice(&[17, 0, 0, 1, 0, 0, 0, 9]);
    one("a fragment of a fragment", twice);
    cases
}

/// Every case, with fragments of this identification.
fn all_cases(id: u8) -> Vec<Case> {
    let [(src4, dst4), (src6, dst6)] = ends();
    let mut all = cases(src4, dst4, id);
    all.extend(cases(src6, dst6, id));
    all.extend(cases_of_v4(src4, dst4));
    all.extend(cases_of_v6(src6, dst6));
    all
}

pub fn what_is_wrong_is_counted_and_dropped() -> TestResult {
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    expect_connectivity(&lab.host)?;
    let injector = Injector::open(&lab.host, TUN)?;
    let wire = Recorder::start(&lab.host, Some(Simple::UP1))?;
    let all = all_cases(1);
    assert!(all.len() > 250, "{} cases", all.len());
    let malformed = || ask(&lab.host, "status").map(|status| number(&status, "/counters/tun/malformed"));
    let start = malformed()?;
    // Many at once, and one by one only if the sum is wrong: asking takes a process each time.
    let mut wanted = start;
    for some in all.chunks(BURST) {
        for (_, packets, count) in some {
            packets.iter().try_for_each(|packet| injector.send(packet))?;
            wanted += *count as u64;
        }
        if wait_until(5 * SECOND, "they are counted", || malformed().is_ok_and(|now| now == wanted)).is_err()
        {
            return Err(which_is_not_counted(&injector, &all_cases(2), &malformed)?);
        }
    }
    assert_eq!(wire.count(|packet| address::SPARE.both().contains(&packet.dst))?, 0, "some of it left");
    expect_connectivity(&lab.host)?;
    assert_eq!(malformed()?, wanted, "good packets are not malformed");
    stop(&mut oneway, &lab.host, &before)
}

/// More first fragments than may be kept of one source (1 MiB): nothing is wrong with those that are refused.
pub fn fragments_without_room_are_not_malformed() -> TestResult {
    const SENT: u64 = 1000;
    const KEPT_AT_MOST: u64 = (1 << 20) / 1400;
    let lab = Topology::simple()?;
    let _oneway = run(&lab.host, &[])?;
    let injector = Injector::open(&lab.host, TUN)?;
    let count = |what: &str| ask(&lab.host, "status").map(|s| number(&s, &format!("/counters/tun/{what}")));
    let (read, dropped, malformed) = (count("packets_read")?, count("dropped")?, count("malformed")?);
    let [(src, dst), _] = ends();
    let first = fragments(&udp(src, dst, &[7; 3000]), 1500, 1)?.swap_remove(0);
    for id in 1..=SENT as u16 {
        injector.send(&with(first.clone(), 4, &id.to_be_bytes()))?;
        if usize::from(id).is_multiple_of(BURST) {
            let taken = || count("packets_read").is_ok_and(|now| now - read >= u64::from(id));
            wait_until(5 * SECOND, "they are taken", taken)?;
        }
    }
    let counted = || count("dropped").is_ok_and(|now| now - dropped >= SENT - KEPT_AT_MOST);
    wait_until(5 * SECOND, "they are counted", counted)?;
    assert_eq!(count("malformed")?, malformed);
    Ok(())
}

/// The first case that does not count what it should.
fn which_is_not_counted(
    injector: &Injector,
    all: &[Case],
    malformed: &dyn Fn() -> Result<u64, Failed>,
) -> Result<Failed, Failed> {
    for (what, packets, count) in all {
        let start = malformed()?;
        packets.iter().try_for_each(|packet| injector.send(packet))?;
        let counted = || malformed().is_ok_and(|now| now == start + *count as u64);
        if wait_until(SECOND, "it is counted", counted).is_err() {
            let now = malformed()? - start;
            let fronts: Vec<_> = packets.iter().map(|packet| &packet[..packet.len().min(64)]).collect();
            return Ok(format!("{what}: {now} counted in place of {count}: {fronts:02x?}").into());
        }
    }
    Ok("the sum of the malformed packets is wrong, but each alone is counted".into())
}

/// xorshift64* (Vigna): the same packets for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Good packets of every kind, to be spoilt. The addresses of the TUN itself are among their ends.
fn good_packets(own: &[SocketAddr]) -> Vec<Vec<u8>> {
    let mut good = Vec::new();
    for (src, dst) in ends() {
        let own = own.iter().find(|at| at.is_ipv4() == src.is_ipv4()).copied().unwrap_or(dst);
        for (src, dst) in [(src, dst), (src, own), (own, src)] {
            good.push(udp(src, dst, b"datagram"));
            good.push(udp(src, dst, &[1; 1400]));
            for flags in
                [Flags::SYN, Flags::ACK, Flags::RST, Flags::FIN | Flags::ACK, Flags::SYN | Flags::ACK]
            {
                // MSS, SACK permitted, time stamps, no operation, window scale.
                let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
                good.push(tcp(src, dst, flags, &options));
            }
            let echo = if src.is_ipv4() { 8 } else { 128 };
            good.push(icmp(src, dst, &[echo, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4, 5]));
            let quoted = udp(dst, src, b"quoted");
            let unreachable = if src.is_ipv4() { [3, 3] } else { [1, 4] };
            good.push(icmp(src, dst, &[&unreachable[..], &[0; 6], &quoted[..]].concat()));
            good.extend(fragments(&udp(src, dst, &[2; 4000]), 1280, 99).expect("a packet that can be cut"));
        }
    }
    good
}

/// One of the good packets, spoilt somewhere; or mere noise.
fn spoil(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    if random.chance(16) {
        let len = 1 + random.below(200);
        let mut noise = random.bytes(len);
        noise[0] = if random.chance(2) { 0x45 } else { 0x60 };
        return noise;
    }
    let mut packet = good[random.below(good.len())].clone();
    for _ in 0..random.below(4) {
        let at = random.below(packet.len().min(100));
        packet[at] = match random.below(4) {
            0 => 0,
            1 => 255,
            2 => packet[at] ^ (1 << random.below(8)),
            _ => random.next() as u8,
        };
    }
    if random.chance(8) {
        packet.truncate(1 + random.below(packet.len()));
    }
    if random.chance(16) {
        let len = random.below(64);
        packet.extend(random.bytes(len));
    }
    // With checksums that are right, it gets further.
    if random.chance(2) {
        packet = repaired(packet);
    }
    packet
}

/// The packet with the right checksums, as far as it can be understood.
fn repaired(packet: Vec<u8>) -> Vec<u8> {
    let mut packet = if packet.len() >= 20 { with(packet, 0, &[]) } else { packet };
    let Ok(ip) = IpView::parse(&packet) else { return packet };
    let (src, dst, kind, at, end) = (ip.src(), ip.dst(), ip.protocol(), ip.header_len(), ip.total_len());
    let field = match kind {
        protocol::TCP => at + 16,
        protocol::UDP => at + 6,
        protocol::ICMP | protocol::ICMPV6 => at + 2,
        _ => return packet,
    };
    if ip.is_partial() || field + 2 > end {
        return packet;
    }
    packet[field..field + 2].fill(0);
    let sum = match kind {
        protocol::ICMP => !checksum::sum(&packet[at..end]),
        _ => checksum::transport(src, dst, kind, &packet[at..end]),
    };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

pub fn noise_stops_nothing() -> TestResult {
    const PACKETS: usize = 30_000;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 | 1;
    noise(seed, PACKETS).map_err(|error| Failed::from(format!("seed {seed:#x}: {error:?}")))
}

fn noise(seed: u64, packets: usize) -> TestResult {
    let mut random = Random(seed);
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    let own = ["10.88.0.1:40001".parse()?, "[fd88::1]:40001".parse()?];
    let mut oneway = run(&lab.host, &["--tun-address", "10.88.0.1/24", "--tun-address", "fd88::1/64", "-q"])?;
    let injector = Injector::open(&lab.host, TUN)?;
    let read = || ask(&lab.host, "status").map(|status| number(&status, "/counters/tun/packets_read"));
    let good = good_packets(&own);
    let mut sent = 0;
    let start = read()?;
    for round in 0..packets {
        let packet = spoil(&mut random, &good);
        let done = if random.chance(4) {
            let mut header: [u8; 10] = std::array::from_fn(|_| random.next() as u8);
            header[0] &= 3;
            header[1] = [0, 1, 4, 5, header[1]][random.below(5)];
            injector.send_offloaded(&header, &packet)
        } else {
            injector.send(&packet)
        };
        // Headers that the kernel itself does not believe never reach the device.
        sent += u64::from(done.is_ok());
        if round % BURST == 0 {
            wait_until(10 * SECOND, "all were read", || read().is_ok_and(|now| now >= start + sent))?;
        }
        if round % 5_000 == 0 && !reaches_origin(&lab.host, 2 * SECOND) {
            return Err(format!("no traffic after {round} packets: {}", oneway.stderr()).into());
        }
    }
    assert!(sent > packets as u64 / 2, "seed {seed:#x}: the kernel took {sent} packets only");
    wait_until(10 * SECOND, "all were read", || read().is_ok_and(|now| now >= start + sent))?;
    expect_connectivity(&lab.host)?;
    let log = oneway.stderr();
    assert!(!log.contains("panic") && log.len() < 1 << 20, "seed {seed:#x}: {log}");
    stop(&mut oneway, &lab.host, &before)
}

/// A client whose port one of our own sockets has got since, as it may when the client is gone: what is returned to it must
/// not be taken for an answer from the network, which would be returned to it again, for ever.
pub fn an_answer_for_a_port_of_our_own_goes_nowhere() -> TestResult {
    const PORT: u16 = 40_000;
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    expect_connectivity(&lab.host)?;
    let injector = Injector::open(&lab.host, TUN)?;
    let echo = port::ECHO;
    for (client, to) in address::HOST_UP1.ports(PORT).into_iter().zip(address::ORIGIN.ports(echo)) {
        let answered = lab.origin.udp_datagrams();
        // There is one port for the session's socket, and that is its client's.
        lab.host.set_sysctl("ipv4/ip_local_port_range", &format!("{PORT} {PORT}"))?;
        injector.send(&udp(client, to, b"nobody"))?;
        wait_until(5 * SECOND, "it is answered", || lab.origin.udp_datagrams() > answered)?;
        lab.host.set_sysctl("ipv4/ip_local_port_range", "32768 60999")?;
        let written =
            || ask(&lab.host, "status").map(|status| number(&status, "/counters/tun/packets_written"));
        let (mut last, mut same) = (0, 0);
        wait_until(5 * SECOND, "nothing more is written", || {
            let now = written().unwrap_or_default();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            same == 5
        })
        .map_err(|error| format!("{client}: {error}: {last} packets"))?;
    }
    expect_connectivity(&lab.host)?;
    stop(&mut oneway, &lab.host, &before)
}
