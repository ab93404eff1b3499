//! L6: the system forwards, and leads what a correctly bound socket has sent into the TUN. Windows does so by itself when IPv4
//! forwarding is on; here the router hands the packets back by a second link, and this host forwards them for whoever they
//! seem to be from.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oneway::config::Safeguard::{Detector, Drift};
use oneway_lab::servers::origin;
use oneway_lab::topology::{Simple, address};
use oneway_lab::{LabError, Route};

use super::{Props, Scene, dial, flush_nft, send, words};

/// The second link to the router.
const SECOND: &str = "lan0";

pub(super) fn scene() -> Scene {
    Scene {
        options: words(&["--protect", "bind", "--forwarded"]),
        without: vec![Drift, Detector],
        prepare,
        ignite: |lab| {
            flush_nft(lab)?;
            let sent = send(lab, &address::ORIGIN.ports(origin::port::ECHO))?;
            Ok(sent + dial(lab, &address::ORIGIN.ports(origin::port::HTTP))?)
        },
        ..Scene::default()
    }
}

fn prepare(lab: &Simple) -> Result<Props, LabError> {
    lab.host.set_sysctl("ipv4/ip_forward", "1")?;
    lab.host.set_sysctl("ipv6/conf/all/forwarding", "1")?;
    lab.host.veth(SECOND, &lab.net, "lan")?;
    for (namespace, device, own) in
        [(&lab.host, SECOND, address::HOST_BRIDGE), (&lab.net, "lan", address::CONTAINER)]
    {
        namespace.up(device)?;
        namespace.add_address(device, IpNet::V4(Ipv4Net::new_assert(own.v4, 26)))?;
        namespace.add_address(device, IpNet::V6(Ipv6Net::new_assert(own.v6, 64)))?;
    }
    lab.host.wait_operational(SECOND)?;
    lab.net.wait_operational("lan")?;
    // Else the kernel drops what has an address of its own as source.
    lab.host.set_sysctl(&format!("ipv4/conf/{SECOND}/accept_local"), "1")?;
    for (ip, back) in address::ORIGIN.both().into_iter().zip(address::HOST_BRIDGE.both()) {
        lab.net.delete_address("lo", IpNet::from(ip))?;
        lab.net.add_route(&Route::to(IpNet::from(ip)).by(back))?;
    }
    Ok(None)
}
