//! Devices that cut and join nothing, and superpackets of datagrams on those that do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use oneway_lab::capture::{Direction, Packet, Recorder, protocol};
use oneway_lab::client::send_in_segments;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern::{self, Sum};
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Simple, Topology, address};
use oneway_lab::{NetNs, Oneway, kernel};
use rustix::process::Signal;

use crate::common::{ONEWAY, SECOND, TUN, ask, lab, run_words};

const HANDED: &str = "handed0";
/// The first kernel whose TUN device has superpackets of datagrams (USO); for an older one the kernel cuts them.
const USO: (u32, u32) = (6, 2);

/// Runs the program on a device that was opened without `IFF_VNET_HDR`, and so has no offload at all.
fn without_offload(host: &NetNs, mtu: u32) -> Result<(Oneway, OwnedFd), Failed> {
    let tun = host.tun(HANDED, false)?;
    host.set_mtu(HANDED, mtu)?;
    host.up(HANDED)?;
    for address in ["10.88.0.1/24", "fd88::1/64"] {
        host.add_address(HANDED, address.parse()?)?;
    }
    let oneway = Program::new(host, ONEWAY, run_words(&["--tun-fd", "9", "--mtu", &mtu.to_string()]))
        .ready("ready:", 10 * SECOND)
        .descriptor(tun.try_clone()?, 9)
        .start()?;
    Ok((oneway, tun))
}

/// Packets that the program has read and written.
fn packets(host: &NetNs) -> Result<[u64; 2], Failed> {
    let status = ask(host, "status")?;
    let number = |name: &str| status["counters"]["tun"][name].as_u64().ok_or("no such counter");
    Ok([number("packets_read")?, number("packets_written")?])
}

pub fn a_device_without_any_carries_every_byte() -> TestResult {
    const BYTES: usize = 5_000_011;
    for mtu in [1500, 65_535] {
        let lab = Topology::simple()?;
        let (_oneway, _tun) = without_offload(&lab.host, mtu)?;
        let client = lab.host.client();
        let wire = Recorder::start(&lab.host, Some(HANDED))?;
        let seen = |direction: Direction| {
            wire.matching(|p| p.protocol == protocol::TCP && p.payload_length > 0 && p.direction == direction)
        };
        for to in address::ORIGIN.ports(port::SUM) {
            let mut stream = client.tcp(to, 5 * SECOND)?.connected()?;
            let data = pattern::bytes(BYTES);
            stream.write_all(&data)?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)), "MTU {mtu}, {to}: {answer:?}");
        }
        // What left the client went through the device in pieces no longer than it takes, and the stack of our own saw
        // fewer and longer ones.
        let [read, written] = packets(&lab.host)?;
        let sent = seen(Direction::Out)?;
        assert!(sent.iter().all(|packet| packet.length <= mtu as usize), "MTU {mtu}");
        if mtu == 1500 && crate::common::stack() == "user" {
            assert!(read < sent.len() as u64 / 2, "{} packets were read as {read}", sent.len());
        }
        wire.forget()?;
        for to in address::ORIGIN.ports(port::HTTP) {
            let reply = client.http_get(to, &format!("/bytes/{BYTES}"), 10 * SECOND)?;
            assert!(reply.body == pattern::bytes(BYTES), "MTU {mtu}, {to}");
        }
        let received = seen(Direction::In)?;
        let written = packets(&lab.host)?[1] - written;
        assert!(received.iter().all(|packet| packet.length <= mtu as usize), "MTU {mtu}");
        if mtu == 1500 && crate::common::stack() == "user" {
            assert!(written < received.len() as u64 / 2, "{written} packets gave {}", received.len());
        }
        for to in address::ORIGIN.ports(port::ECHO) {
            for size in [0, 1, 1_400, 1_473, 3_000, 9_000] {
                let data = pattern::bytes(size);
                let exchange = client.udp(to, &data, 5 * SECOND)?;
                assert!(exchange.data == data, "MTU {mtu}, {to}, {size} bytes: {:?}", exchange.outcome);
            }
            // The kernel cuts these for the device; so do they arrive. Before Linux 6.11 it takes none for a device
            // without checksum offload (EIO).
            if kernel() >= (6, 11) {
                let socket = segments(&lab.host, to, 1200)?;
                echoes(&socket, to, 1200)?;
            }
        }
    }
    Ok(())
}

/// A client's socket that sends in segments.
fn segments(host: &NetNs, to: SocketAddr, size: u16) -> Result<UdpSocket, Failed> {
    let socket = host.client().udp_socket(to.is_ipv6())?;
    socket.set_read_timeout(Some(5 * SECOND))?;
    send_in_segments(&socket, size)?;
    Ok(socket)
}

/// How much is sent as one: some datagrams of `size` bytes and a shorter one.
fn superpacket(size: usize) -> Vec<u8> {
    pattern::bytes(6 * size + size / 4)
}

/// Sends a superpacket to an echo service, and receives its datagrams.
fn echoes(socket: &UdpSocket, to: SocketAddr, size: usize) -> TestResult {
    let data = superpacket(size);
    assert_eq!(socket.send_to(&data, to)?, data.len());
    receive(socket, to, &data, size)
}

fn receive(socket: &UdpSocket, from: SocketAddr, data: &[u8], size: usize) -> TestResult {
    let mut buffer = vec![0; 65_536];
    for (n, wanted) in data.chunks(size).enumerate() {
        let (len, source) =
            socket.recv_from(&mut buffer).map_err(|error| format!("datagram {n}: {error}"))?;
        assert_eq!((source.ip(), source.port()), (from.ip(), from.port()));
        assert!(&buffer[..len] == wanted, "datagram {n} from {from}: {len} bytes");
    }
    Ok(())
}

fn is_whole(packet: &Packet, direction: Direction, len: usize) -> bool {
    packet.is_udp() && packet.direction == direction && packet.payload_length == len
}

/// What a SOCKS5 relay's header adds to a datagram to this address.
fn relay_header(proxy: Option<&str>, to: SocketAddr) -> usize {
    match proxy {
        None => 0,
        Some(_) if to.is_ipv4() => 10,
        Some(_) => 22,
    }
}

pub fn a_clients_superpacket_arrives_as_its_datagrams() -> TestResult {
    const SIZE: u16 = 1200;
    let len = superpacket(SIZE.into()).len();
    let datagrams = len.div_ceil(SIZE.into());
    for proxy in [None, Some("socks5")] {
        let (lab, _oneway) = lab(proxy, &[])?;
        for to in address::ORIGIN.ports(port::ECHO) {
            let tun = Recorder::start(&lab.host, Some(TUN))?;
            let uplink = Recorder::start(&lab.host, Some(Simple::UP1))?;
            let socket = segments(&lab.host, to, SIZE)?;
            // The first waits until the outbound is ready, one by one; the next goes out as it came.
            for _ in 0..2 {
                echoes(&socket, to, SIZE.into())?;
            }
            let whole = tun.count(|p| is_whole(p, Direction::Out, len))?;
            if kernel() < USO {
                assert_eq!(whole, 0, "{to}: whole on the device");
                let single = tun.count(|p| is_whole(p, Direction::Out, SIZE.into()))?;
                assert_eq!(single, 2 * (datagrams - 1), "{to}: cut for the device");
                continue;
            }
            assert_eq!(whole, 2, "{to}: whole on the device");
            let sent = len + datagrams * relay_header(proxy, to);
            assert_eq!(
                uplink.count(|p| is_whole(p, Direction::Out, sent))?,
                1,
                "{proxy:?} {to}: whole on the uplink"
            );
        }
    }
    Ok(())
}

pub fn datagrams_that_wait_together_leave_together() -> TestResult {
    for proxy in [None, Some("socks5")] {
        let (lab, oneway) = lab(proxy, &[])?;
        for to in address::ORIGIN.ports(port::ECHO) {
            leave_together(&lab, &oneway, proxy, to)?;
        }
    }
    Ok(())
}

fn leave_together(lab: &Simple, oneway: &Oneway, proxy: Option<&str>, to: SocketAddr) -> TestResult {
    const SIZE: usize = 300;
    let socket = lab.host.client().udp_socket(to.is_ipv6())?;
    socket.set_read_timeout(Some(5 * SECOND))?;
    socket.send_to(b"first", to)?;
    receive(&socket, to, b"first", SIZE)?;
    let uplink = Recorder::start(&lab.host, Some(Simple::UP1))?;
    // Some of one length, a shorter and a longer one, and others again: no byte moves to another datagram.
    let data = pattern::bytes(50 * SIZE);
    let datagrams: Vec<&[u8]> =
        data.chunks(SIZE).chain([&data[..7], &data[..900], &[]]).chain(data.chunks(SIZE)).collect();
    oneway.signal(Signal::STOP.as_raw())?;
    for datagram in &datagrams {
        socket.send_to(datagram, to)?;
    }
    oneway.signal(Signal::CONT.as_raw())?;
    let mut buffer = [0; 2048];
    for (n, wanted) in datagrams.iter().enumerate() {
        let (len, _) = socket.recv_from(&mut buffer).map_err(|error| format!("datagram {n}: {error}"))?;
        assert!(&buffer[..len] == *wanted, "datagram {n} of {} bytes has {len}", wanted.len());
    }
    let sent = uplink.matching(|p| p.is_udp() && p.direction == Direction::Out)?;
    let bytes: usize = sent.iter().map(|packet| packet.payload_length).sum();
    let wanted: usize = datagrams.iter().map(|datagram| datagram.len() + relay_header(proxy, to)).sum();
    assert_eq!(bytes, wanted, "{proxy:?} {to}");
    assert!(sent.len() <= 24, "{proxy:?} {to}: {} datagrams left in {} packets", datagrams.len(), sent.len());
    Ok(())
}

pub fn datagrams_too_long_for_the_uplink_arrive_one_by_one() -> TestResult {
    const SIZE: u16 = 5000;
    for (proxy, mtu) in [(None, "65535"), (None, "9000"), (Some("socks5"), "65535")] {
        let (lab, _oneway) = lab(proxy, &["--mtu", mtu])?;
        for to in address::ORIGIN.ports(port::ECHO) {
            let socket = segments(&lab.host, to, SIZE)?;
            for _ in 0..2 {
                echoes(&socket, to, SIZE.into())?;
            }
        }
    }
    Ok(())
}

pub fn answers_that_came_together_are_single_datagrams_again() -> TestResult {
    const SIZE: u16 = 1200;
    const PORT: u16 = 7007;
    for offload in [true, false] {
        let lab = Topology::simple()?;
        let (_oneway, _tun);
        let device = if offload {
            _oneway = crate::common::run(&lab.host, None, &[])?;
            TUN
        } else {
            (_oneway, _tun) = without_offload(&lab.host, 1500)?;
            HANDED
        };
        let data = superpacket(SIZE.into());
        for to in address::SPARE.ports(PORT) {
            let server = lab.net.client().source_port(to).udp_socket(to.is_ipv6())?;
            let client = lab.host.client().udp_socket(to.is_ipv6())?;
            client.set_read_timeout(Some(5 * SECOND))?;
            client.send_to(b"more", to)?;
            let (_, from) = server.recv_from(&mut [0; 16])?;
            send_in_segments(&server, SIZE)?;
            let wire = Recorder::start(&lab.host, Some(device))?;
            server.send_to(&data, from)?;
            receive(&client, to, &data, SIZE.into())?;
            let joined = offload && kernel() >= USO;
            let whole = wire.count(|p| is_whole(p, Direction::In, data.len()))?;
            assert_eq!(whole, usize::from(joined), "{to}: whole on the device");
            let single = wire.count(|p| is_whole(p, Direction::In, SIZE.into()))?;
            assert_eq!(single, if joined { 0 } else { data.len() / usize::from(SIZE) }, "{to}");
        }
    }
    Ok(())
}
