//! L3: an address of the TUN's own network, sent on, comes straight back: main's connected route leads there whatever mark a
//! packet has.

use std::net::{IpAddr, SocketAddr};

use oneway::config::Safeguard::{Detector, Egress, Ingress};

use super::{Scene, dial, send, words};

/// Nobody has it; the TUN is their neighbour.
const BESIDE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 88, 0, 77)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 0x77)),
];

pub(super) fn scene() -> Scene {
    Scene {
        options: words(&["--tun-address", "10.88.0.1/24", "--tun-address", "fd88::1/64"]),
        without: vec![Ingress, Egress, Detector],
        ignite: |lab| {
            let sent = send(lab, &BESIDE.map(|ip| SocketAddr::new(ip, 7)))?;
            Ok(sent + dial(lab, &BESIDE.map(|ip| SocketAddr::new(ip, 80)))?)
        },
        ..Scene::default()
    }
}
