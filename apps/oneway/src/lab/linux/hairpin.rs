//! L12: the program's own listeners, and this host's own addresses.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use oneway::config::Safeguard::{Detector, Egress, Ingress};
use oneway_lab::LabError;
use oneway_lab::topology::{Simple, address};

use super::{Scene, dial, words};

/// The TUN's own, where the system stack listens.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

pub(super) fn scene() -> Scene {
    Scene {
        options: words(&["--stack", "system", "--tun-address", "10.88.0.1/24"]),
        without: vec![Ingress, Egress, Detector],
        ignite: |lab| {
            let ports = listeners(lab)?;
            let own = ports.iter().map(|port| SocketAddr::new(OWN.into(), *port));
            let public = ports.iter().map(|port| address::HOST_UP1.v4_port(*port));
            dial(lab, &own.chain(public).collect::<Vec<_>>())
        },
        harmless: Some(
            "the kernel delivers this host's own addresses before any rule is asked, and the listeners take nothing but \
             what the device has renamed for them",
        ),
        ..Scene::default()
    }
}

/// The ports that are listened on at the TUN's own address, as proc_net_tcp(5) has them.
fn listeners(lab: &Simple) -> Result<Vec<u16>, LabError> {
    let table = lab
        .host
        .run(|| fs::read_to_string("/proc/thread-self/net/tcp"))?
        .map_err(|source| LabError::Client { what: "list the listeners".to_owned(), source })?;
    let port = |line: &str| {
        let at = line.split_whitespace().nth(1)?;
        let (address, port) = at.split_once(':')?;
        let address = IpAddr::V4(u32::from_str_radix(address, 16).ok()?.to_ne_bytes().into());
        (address == IpAddr::V4(OWN)).then(|| u16::from_str_radix(port, 16).ok())?
    };
    Ok(table.lines().filter_map(port).collect())
}
