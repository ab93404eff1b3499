//! Packets of every size, and links that are narrower than the device.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use oneway_lab::harness::TestResult;
use oneway_lab::pattern::{self, Sum};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{NetNs, Topology};

use crate::common::{SECOND, lab, run};

/// Bytes of a transfer.
const LEN: usize = 2_000_003;

/// Every byte of a download and of an upload.
fn both_ways(client: &NetNs, what: &str) -> TestResult {
    download(client, what)?;
    for to in address::ORIGIN.ports(port::SUM) {
        upload(client, to, LEN, what)?;
    }
    Ok(())
}

fn download(client: &NetNs, what: &str) -> TestResult {
    for to in address::ORIGIN.ports(port::HTTP) {
        let reply = client.client().http_get(to, &format!("/bytes/{LEN}"), 20 * SECOND)?;
        assert!(reply.body == pattern::bytes(LEN), "{what}: download from {to}");
    }
    Ok(())
}

fn upload(client: &NetNs, to: SocketAddr, len: usize, what: &str) -> TestResult {
    let mut stream = client.client().tcp(to, 5 * SECOND)?.connected()?;
    stream.set_read_timeout(Some(20 * SECOND))?;
    let data = pattern::bytes(len);
    stream.write_all(&data)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)), "{what}: upload to {to}");
    Ok(())
}

pub fn every_mtu_of_the_device_carries() -> TestResult {
    for scheme in [None, Some("socks5")] {
        for mtu in ["1280", "1500", "9000", "65535"] {
            let (lab, _oneway) = lab(scheme, &["--mtu", mtu])?;
            both_ways(&lab.host, &format!("{scheme:?}, MTU {mtu}"))?;
        }
    }
    Ok(())
}

/// A router beyond the uplink has a narrower link and says so by ICMP.
pub fn a_narrow_path_beyond_is_heeded() -> TestResult {
    let lab = Topology::standard()?;
    for (router, device) in [(&lab.r1, "wan"), (&lab.net, "r1")] {
        router.set_mtu(device, 1300)?;
    }
    let _oneway = run(&lab.host, None, &[])?;
    both_ways(&lab.host, "a link of 1300 bytes beyond the router")
}

/// The container announces a segment size that the bridge before it does not carry: the host's ICMP errors come to us,
/// who are the server for it.
///
/// Nobody tells the container, whose own packets `ct0` drops if they are longer than its MTU and no superpackets
/// (`is_skb_forwardable`, net/core/dev.c). How many of those it sends depends on how fast the machine is. It can upload because
/// its connections after the first are asked for segments that fit, as the kernel's TCP would ask for them.
pub fn a_narrow_path_to_a_container_is_heeded() -> TestResult {
    let lab = Topology::standard()?;
    lab.host.set_mtu("br0", 1300)?;
    lab.host.set_mtu("ct0", 1300)?;
    let _oneway = run(&lab.host, None, &["--forwarded"])?;
    let what = "a bridge of 1300 bytes before a container of 1500";
    download(&lab.container, what)?;
    for (to, segment) in address::ORIGIN.ports(port::SUM).into_iter().zip([1248, 1228]) {
        let stream = lab.container.client().tcp(to, 5 * SECOND)?.connected()?;
        assert_eq!(socket2::SockRef::from(&stream).tcp_mss()?, segment, "{what}: asked for by {to}");
    }
    both_ways(&lab.container, what)
}

/// The container's own device is narrower than ours.
pub fn a_narrow_container_is_heeded() -> TestResult {
    let lab = Topology::standard()?;
    for (machine, device) in [(&lab.host, "br0"), (&lab.host, "ct0"), (&lab.container, "eth0")] {
        machine.set_mtu(device, 1300)?;
    }
    let _oneway = run(&lab.host, None, &["--forwarded"])?;
    both_ways(&lab.container, "a container of 1300 bytes")
}

/// What a client sends in one packet of its device leaves as one, of whole segments for the link that it takes there: what is
/// beyond them would travel by itself.
pub fn a_packet_leaves_as_whole_segments() -> TestResult {
    let lab = Topology::standard()?;
    let _oneway = run(&lab.host, None, &[])?;
    for (to, segment) in address::ORIGIN.ports(port::ECHO).into_iter().zip([1448, 1428]) {
        let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        // Linux sends no more than half a window at once, which in a SYN-ACK is at most 64 KiB.
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        assert_eq!(socket2::SockRef::from(&stream).tcp_mss()?, 5 * segment, "to {to}");
    }
    Ok(())
}
