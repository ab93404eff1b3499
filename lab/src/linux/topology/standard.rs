//! The two networks.

use std::net::IpAddr;

use super::{
    OWNED, Pair, Servers, address, default_route, forward, join, machine, make_trouble, net4, net6, route,
    router, servers_nets, trouble_nets, unlimited_icmp,
};
use crate::error::LabError;
use crate::nft;
use crate::ns::NetNs;
use crate::route::{Route, Rule};
use crate::servers::{DnsServer, HttpProxy, Origin, SocksServer};
use crate::trouble::Trouble;

/// Device of the first uplink.
const UP1: &str = "up1";
/// Device of the second uplink.
const UP2: &str = "up2";
/// The bridge.
const BRIDGE: &str = "br0";
/// Metrics of the two default routes.
const METRICS: (u32, u32) = (100, 200);
/// Table and priority of the rule that [`Standard::add_source_rules`] makes for the second uplink.
const SOURCE_TABLE: u32 = 202;
const SOURCE_PRIORITY: u32 = 20_000;

/// The captured machine with two uplinks and a container behind a bridge, two routers, and the far side.
#[derive(Debug)]
pub struct Standard {
    /// The servers, before the namespaces: they end first.
    pub origin: Origin,
    /// The DNS server.
    pub dns: DnsServer,
    /// The SOCKS server.
    pub socks: SocksServer,
    /// The HTTP proxy.
    pub http_proxy: HttpProxy,
    /// The captured machine. Devices: `up1`, `up2`, `br0`, and `ct0` in the bridge.
    pub host: NetNs,
    /// The container behind the bridge. Device: `eth0`.
    pub container: NetNs,
    /// The first router. Devices: `lan`, `wan`.
    pub r1: NetNs,
    /// The second router. Devices: `lan`, `wan`.
    pub r2: NetNs,
    /// The far side. Devices: `r1`, `r2`; the servers' addresses are on `lo`.
    pub net: NetNs,
    _trouble: [Trouble; 2],
}

impl Standard {
    /// Device of the first uplink, with metric 100.
    pub const UP1: &str = UP1;
    /// Device of the second uplink, with metric 200.
    pub const UP2: &str = UP2;
    /// The bridge with the container.
    pub const BRIDGE: &str = BRIDGE;

    pub(super) fn new() -> Result<Self, LabError> {
        let (host, container) = (machine("host")?, machine("container")?);
        let (r1, r2, net) = (router("r1")?, router("r2")?, machine("net")?);
        forward(&host)?;
        unlimited_icmp(&net)?;

        join((&host, UP1, address::HOST_UP1), (&r1, "lan", address::R1_LAN), (26, 64))?;
        join((&host, UP2, address::HOST_UP2), (&r2, "lan", address::R2_LAN), (26, 64))?;
        join((&r1, "wan", address::R1_WAN), (&net, "r1", address::NET_R1), (30, 64))?;
        join((&r2, "wan", address::R2_WAN), (&net, "r2", address::NET_R2), (30, 64))?;
        add_container(&host, &container)?;
        own(&net)?;

        default_route(&host, address::R1_LAN, METRICS.0)?;
        default_route(&host, address::R2_LAN, METRICS.1)?;
        let bridge_nets = nets(address::HOST_BRIDGE);
        for (router, wan, host_side) in
            [(&r1, address::NET_R1, address::HOST_UP1), (&r2, address::NET_R2, address::HOST_UP2)]
        {
            route(router, servers_nets(), wan, None)?;
            route(router, bridge_nets, host_side, None)?;
        }
        route(&net, nets(address::HOST_UP1), address::R1_WAN, None)?;
        route(&net, nets(address::HOST_UP2), address::R2_WAN, None)?;
        route(&net, bridge_nets, address::R1_WAN, Some(METRICS.0))?;
        route(&net, bridge_nets, address::R2_WAN, Some(METRICS.1))?;
        route(&net, trouble_nets(), address::R1_WAN, None)?;

        // Towards the addresses that the far side has on the other router's link.
        route(&r1, nets_of(address::R2_WAN, 30), address::NET_R1, None)?;
        route(&r2, nets_of(address::R1_WAN, 30), address::NET_R2, None)?;

        let trouble = [make_trouble(&r1)?, make_trouble(&r2)?];
        let Servers { origin, dns, socks, http_proxy } = Servers::start(&net)?;
        Ok(Self { origin, dns, socks, http_proxy, host, container, r1, r2, net, _trouble: trouble })
    }

    /// Sets the uplink `device` up again after [`NetNs::down`], with its addresses and default routes, as a network
    /// manager would.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn restore_uplink(&self, device: &str) -> Result<(), LabError> {
        let (pair, router, metric) = uplink(device);
        self.host.up(device)?;
        self.host.wait_operational(device)?;
        self.router_of(device).wait_operational("lan")?;
        self.host.add_address(device, net4(pair.v4, 26))?;
        self.host.add_address(device, net6(pair.v6, 64))?;
        default_route(&self.host, router, metric)
    }

    /// Makes the uplink `device` anew after [`NetNs::delete_link`].
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn recreate_uplink(&self, device: &str) -> Result<(), LabError> {
        let (pair, by, metric) = uplink(device);
        let router = self.router_of(device);
        join((&self.host, device, pair), (router, "lan", by), (26, 64))?;
        // The router lost its route to the bridge with the device.
        route(router, nets(address::HOST_BRIDGE), pair, None)?;
        default_route(&self.host, by, metric)
    }

    fn router_of(&self, device: &str) -> &NetNs {
        if device == UP1 { &self.r1 } else { &self.r2 }
    }

    /// Adds what a machine with two uplinks often has: `from` the second uplink's address, look up a table of its
    /// own with a default route by the second router.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn add_source_rules(&self) -> Result<(), LabError> {
        for (source, gateway) in address::HOST_UP2.both().into_iter().zip(address::R2_LAN.both()) {
            self.host.add_route(&Route::default_by(gateway).dev(UP2).table(SOURCE_TABLE))?;
            self.host.add_rule(&Rule {
                ipv6: source.is_ipv6(),
                priority: SOURCE_PRIORITY,
                from: Some(source.into()),
                table: SOURCE_TABLE,
                ..Rule::default()
            })?;
        }
        Ok(())
    }

    /// Hides the container behind the host's addresses on both uplinks, as container engines do.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when the kernel has no NAT.
    pub fn masquerade_container(&self) -> Result<(), LabError> {
        nets(address::HOST_BRIDGE).into_iter().try_for_each(|net| nft::masquerade(&self.host, net))
    }

    /// Forwards `port` (TCP and UDP) of the host's uplink addresses to the same port of the container.
    ///
    /// # Errors
    /// [`LabError::Netlink`] when the kernel has no NAT.
    pub fn publish_container_port(&self, port: u16) -> Result<(), LabError> {
        for to in address::CONTAINER.ports(port) {
            for host in [address::HOST_UP1, address::HOST_UP2] {
                let from: IpAddr = if to.is_ipv4() { host.v4.into() } else { host.v6.into() };
                nft::forward_port(&self.host, from, port, to)?;
            }
        }
        Ok(())
    }

    /// Sets strict reverse path filtering on the captured machine, on all its devices.
    ///
    /// # Errors
    /// [`LabError::Sysctl`].
    pub fn strict_rp_filter(&self) -> Result<(), LabError> {
        strict_rp_filter(&self.host)
    }
}

/// The captured machine joined to the far side by one pair of devices.
#[derive(Debug)]
pub struct Simple {
    /// The servers, before the namespaces: they end first.
    pub origin: Origin,
    /// The DNS server.
    pub dns: DnsServer,
    /// The SOCKS server.
    pub socks: SocksServer,
    /// The HTTP proxy.
    pub http_proxy: HttpProxy,
    /// The captured machine. Device: `up1`.
    pub host: NetNs,
    /// The far side, which is also the router. Device: `host`; the servers' addresses are on `lo`.
    pub net: NetNs,
    _trouble: Trouble,
}

impl Simple {
    /// Device of the uplink.
    pub const UP1: &str = UP1;

    pub(super) fn new() -> Result<Self, LabError> {
        let (host, net) = (machine("host")?, router("net")?);
        join((&host, UP1, address::HOST_UP1), (&net, "host", address::R1_LAN), (26, 64))?;
        own(&net)?;
        default_route(&host, address::R1_LAN, METRICS.0)?;
        let trouble = make_trouble(&net)?;
        let Servers { origin, dns, socks, http_proxy } = Servers::start(&net)?;
        Ok(Self { origin, dns, socks, http_proxy, host, net, _trouble: trouble })
    }

    /// Sets strict reverse path filtering on the captured machine, on all its devices.
    ///
    /// # Errors
    /// [`LabError::Sysctl`].
    pub fn strict_rp_filter(&self) -> Result<(), LabError> {
        strict_rp_filter(&self.host)
    }
}

fn strict_rp_filter(host: &NetNs) -> Result<(), LabError> {
    let mut devices = vec!["all".to_owned(), "default".to_owned()];
    devices.extend(host.links()?.into_iter().map(|link| link.name));
    devices.iter().try_for_each(|device| host.set_sysctl(&format!("ipv4/conf/{device}/rp_filter"), "1"))
}

/// Address, router and metric of an uplink.
fn uplink(device: &str) -> (Pair, Pair, u32) {
    if device == UP1 {
        (address::HOST_UP1, address::R1_LAN, METRICS.0)
    } else {
        (address::HOST_UP2, address::R2_LAN, METRICS.1)
    }
}

/// The networks of an address at the host: /26 and /64.
fn nets(pair: Pair) -> [ipnet::IpNet; 2] {
    nets_of(pair, 26)
}

/// The networks of an address: of this length, and /64.
fn nets_of(pair: Pair, v4: u8) -> [ipnet::IpNet; 2] {
    [net4(pair.v4, v4).trunc(), net6(pair.v6, 64).trunc()]
}

fn own(net: &NetNs) -> Result<(), LabError> {
    for pair in OWNED {
        net.add_address("lo", net4(pair.v4, 32))?;
        net.add_address("lo", net6(pair.v6, 128))?;
    }
    Ok(())
}

fn add_container(host: &NetNs, container: &NetNs) -> Result<(), LabError> {
    host.bridge(BRIDGE)?;
    host.veth("ct0", container, "eth0")?;
    host.attach("ct0", BRIDGE)?;
    host.up("ct0")?;
    host.up(BRIDGE)?;
    host.add_address(BRIDGE, net4(address::HOST_BRIDGE.v4, 26))?;
    host.add_address(BRIDGE, net6(address::HOST_BRIDGE.v6, 64))?;
    container.up("eth0")?;
    for (namespace, device) in [(host, "ct0"), (container, "eth0"), (host, BRIDGE)] {
        namespace.wait_operational(device)?;
    }
    container.add_address("eth0", net4(address::CONTAINER.v4, 26))?;
    container.add_address("eth0", net6(address::CONTAINER.v6, 64))?;
    default_route(container, address::HOST_BRIDGE, 0)
}
