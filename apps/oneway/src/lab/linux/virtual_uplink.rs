//! L7: another program's virtual device, with a better metric, is taken for the uplink, and hands everything back to this host.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use oneway::config::Safeguard::{Detector, Drift, Uplink};
use oneway_lab::servers::origin;
use oneway_lab::topology::{Simple, address};
use oneway_lab::{LabError, Route};

use super::{Prop, Props, Scene, dial, flush_nft, send, words};

const DEVICE: &str = "vswitch0";
/// The device by which its program hands everything back.
const PORT: &str = "vport0";

pub(super) fn scene() -> Scene {
    Scene {
        options: words(&["--protect", "bind", "--forwarded"]),
        without: vec![Uplink, Drift, Detector],
        prepare,
        ignite: |lab| {
            flush_nft(lab)?;
            routes().into_iter().try_for_each(|route| lab.host.add_route(&route))?;
            let mut sent = 0;
            // Until the watch has seen it.
            for _ in 0..5 {
                thread::sleep(Duration::from_millis(80));
                sent += send(lab, &address::ORIGIN.ports(origin::port::ECHO))?;
            }
            Ok(sent + dial(lab, &address::ORIGIN.ports(origin::port::HTTP))?)
        },
        tidy: |lab| routes().into_iter().try_for_each(|route| lab.host.delete_route(&route)),
        ..Scene::default()
    }
}

fn routes() -> [Route; 2] {
    let any = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
    any.map(|net| Route::to(net).dev(DEVICE).metric(1))
}

/// The program behind the device. It ends with its namespace.
struct Switch;

impl Prop for Switch {}

fn prepare(lab: &Simple) -> Result<Props, LabError> {
    let mut device = File::from(lab.host.tun(DEVICE, false)?);
    let mut port = File::from(lab.host.tun(PORT, false)?);
    lab.host.set_sysctl("ipv4/ip_forward", "1")?;
    lab.host.set_sysctl("ipv6/conf/all/forwarding", "1")?;
    // Else the kernel drops what has an address of its own as source.
    lab.host.set_sysctl(&format!("ipv4/conf/{PORT}/accept_local"), "1")?;
    lab.host.up(DEVICE)?;
    lab.host.up(PORT)?;
    let own = [
        IpNet::from(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1))),
        IpNet::from(IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1))),
    ];
    own.into_iter().try_for_each(|net| lab.host.add_address(DEVICE, net))?;
    let spawned = thread::Builder::new().name("vswitch".to_owned()).spawn(move || {
        let mut packet = vec![0; 65_536];
        // The device is down, and so unreadable, when its namespace ends.
        while let Ok(length) = device.read(&mut packet) {
            let _ = port.write(packet.get(..length).unwrap_or_default());
        }
    });
    spawned.map_err(|source| LabError::Client { what: "start a thread".to_owned(), source })?;
    Ok(Some(Box::new(Switch)))
}
