//! A bad link on purpose (`--fault`), and the record of what passed it (`--pcap`).

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern::{self, Sum};
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Topology, address};
use oneway_wire::ip::{IpView, Transport};

use crate::common::{ONEWAY, SECOND, lab};

/// A packet of a packet file: source, destination, and the bytes of its transport's payload.
type Recorded = (SocketAddr, SocketAddr, usize);

/// Reads a packet file: the classic format with nanoseconds, little-endian, of bare IP packets.
fn recorded(file: &[u8]) -> Vec<Recorded> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((word(0), word(4), word(20)), (0xa1b2_3c4d, 0x0004_0002, 101), "the file's header");
    let mut packets = Vec::new();
    let mut at = 24;
    while at < file.len() {
        assert!(word(at + 4) < 1_000_000_000, "the time of the record at {at}");
        let (kept, len) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(kept, len, "the record at {at}");
        let ip = IpView::parse(&file[at + 16..at + 16 + len]).expect("a packet");
        assert!(ip.is_partial() || ip.header_checksum_valid(), "the checksum of the record at {at}");
        let ends = |src: u16, dst: u16| (SocketAddr::new(ip.src(), src), SocketAddr::new(ip.dst(), dst));
        match ip.transport() {
            Ok(Transport::Tcp(tcp)) => {
                assert!(tcp.checksum_valid(ip.src(), ip.dst()), "the checksum of the record at {at}");
                let (src, dst) = ends(tcp.src_port(), tcp.dst_port());
                packets.push((src, dst, tcp.payload().len()));
            }
            Ok(Transport::Udp(udp)) => {
                let (src, dst) = ends(udp.src_port(), udp.dst_port());
                packets.push((src, dst, udp.payload().len()));
            }
            _ => {}
        }
        at += 16 + len;
    }
    packets
}

pub fn every_byte_survives_a_bad_link() -> TestResult {
    const FAULT: &str = "loss=5%,reorder=5%,duplicate=1%,seed=11";
    for scheme in [None, Some("socks5")] {
        let (lab, mut oneway) = lab(scheme, &["--fault", FAULT, "--mtu", "1500"])?;
        for to in address::ORIGIN.ports(port::SUM) {
            let mut stream = lab.host.client().tcp(to, 10 * SECOND)?.connected()?;
            stream.set_read_timeout(Some(60 * SECOND))?;
            let data = pattern::bytes(1_000_003);
            stream.write_all(&data)?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)), "{scheme:?} {to}: {answer:?}");
        }
        for to in address::ORIGIN.ports(port::HTTP) {
            let reply = lab.host.client().http_get(to, "/bytes/1000003", 60 * SECOND)?;
            assert!(reply.body == pattern::bytes(1_000_003), "{scheme:?} {to}");
        }
        let (status, took) = oneway.stop(2 * SECOND)?;
        assert!(status.success() && took < 2 * SECOND, "{status} after {took:?}: {}", oneway.stderr());
    }
    Ok(())
}

pub fn corruption_is_seen_by_the_receiver() -> TestResult {
    // Rare enough that no packet is hit in both directions: two flipped bits can leave the sum as it was.
    let (lab, _oneway) = lab(None, &["--fault", "corrupt=0.5%,seed=3", "--mtu", "1500"])?;
    for to in address::ORIGIN.ports(port::SUM) {
        let mut stream = lab.host.client().tcp(to, 10 * SECOND)?.connected()?;
        stream.set_read_timeout(Some(60 * SECOND))?;
        let data = pattern::bytes(300_007);
        stream.write_all(&data)?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)), "{to}: {answer:?}");
    }
    Ok(())
}

pub fn the_packet_file_has_both_directions() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("packets.pcap");
    let (lab, mut oneway) = lab(None, &["--pcap", path.to_str().expect("a path in UTF-8")])?;
    let data = pattern::bytes(200_000);
    for to in address::ORIGIN.ports(port::ECHO) {
        let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        let client = stream.local_addr()?;
        let mut back = vec![0; data.len()];
        std::thread::scope(|scope| {
            let mut write = stream.try_clone()?;
            let sender = scope.spawn(move || write.write_all(&pattern::bytes(200_000)));
            stream.read_exact(&mut back)?;
            sender.join().map_err(|_| "the sender panicked")??;
            Ok::<_, Failed>(())
        })?;
        assert!(back == data, "{to}");
        // It grows while the program runs.
        let bytes = |from: SocketAddr, to: SocketAddr| -> usize {
            let file = fs::read(&path).unwrap_or_default();
            let whole = recorded(whole_records(&file));
            whole.iter().filter(|(src, dst, _)| (*src, *dst) == (from, to)).map(|(_, _, len)| len).sum()
        };
        wait_until(3 * SECOND, "the file has the bytes of both directions", || {
            bytes(client, to) >= data.len() && bytes(to, client) >= data.len()
        })?;
        lab.host.client().udp(to, b"datagram", 5 * SECOND)?;
    }
    oneway.stop(2 * SECOND)?;
    let packets = recorded(&fs::read(&path)?);
    let families: BTreeSet<bool> =
        packets.iter().filter(|packet| packet.2 == 8).map(|packet| packet.0.is_ipv4()).collect();
    assert_eq!(families.len(), 2, "the datagrams of both families");
    Ok(())
}

/// The file up to the last record that is there as a whole: the rest is still to be written.
fn whole_records(file: &[u8]) -> &[u8] {
    let mut end = 24;
    while let Some(len) = file.get(end + 8..end + 12) {
        let next = end + 16 + u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
        if next > file.len() {
            break;
        }
        end = next;
    }
    file.get(..end).unwrap_or_default()
}

pub fn a_packet_file_that_cannot_be_made_is_said() -> TestResult {
    let lab = Topology::simple()?;
    let words = ["run", "--stack", "system", "--pcap", "/nonexistent/packets.pcap"];
    let mut running = Program::new(&lab.host, ONEWAY, words).start()?;
    assert_eq!(running.wait(10 * SECOND)?.code(), Some(2));
    let stderr = running.stderr();
    assert!(
        stderr.contains("cannot write packets to \"/nonexistent/packets.pcap\": No such file"),
        "{stderr}"
    );
    // What a dead instance left elsewhere may be worth a line of its own.
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");
    // A pipe that nobody reads would hold up all that is carried.
    let folder = tempfile::tempdir()?;
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    let words = ["run", "--pcap", pipe.to_str().ok_or("a path that is no text")?];
    let mut running = Program::new(&lab.host, ONEWAY, words).start()?;
    assert_eq!(running.wait(10 * SECOND)?.code(), Some(2));
    assert!(running.stderr().contains("it is no regular file"), "{}", running.stderr());
    Ok(())
}
