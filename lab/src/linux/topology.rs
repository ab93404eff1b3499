//! Ready-made networks with servers beyond them.
//!
//! ```text
//!                      br0 ┌──────┐ up1 (metric 100)   ┌────┐
//!  container ──eth0────────┤ host ├────────────────────┤ r1 ├────┐ r1
//!                          │      │ up2 (metric 200)   └────┘  ┌─┴───┐
//!                          │      ├────────────────────┌────┐  │ net │ origin, DNS, SOCKS, HTTP proxy on lo
//!                          └──────┘                    │ r2 ├──┴─────┘
//!                                                      └────┘    r2
//! ```

mod standard;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use standard::{Simple, Standard};

use crate::error::LabError;
use crate::ns::NetNs;
use crate::route::Route;
use crate::servers::{DnsServer, HttpProxy, HttpProxyOptions, Origin, SocksOptions, SocksServer, Zone};
use crate::trouble::{self, Fate, Trouble};

/// An IPv4 and an IPv6 address of the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Pair {
    const fn new(v4: [u8; 4], v6: [u16; 8]) -> Self {
        let [a, b, c, d] = v4;
        let [s, t, u, v, w, x, y, z] = v6;
        Self { v4: Ipv4Addr::new(a, b, c, d), v6: Ipv6Addr::new(s, t, u, v, w, x, y, z) }
    }

    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The IPv4 address with a port.
    pub fn v4_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4.into(), port)
    }

    /// The IPv6 address with a port.
    pub fn v6_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6.into(), port)
    }

    /// Both with a port, IPv4 first.
    pub fn ports(self, port: u16) -> [SocketAddr; 2] {
        [self.v4_port(port), self.v6_port(port)]
    }
}

/// Every address of the laboratory: documentation addresses (RFC 5737, RFC 3849) only.
pub mod address {
    use super::Pair;

    const fn pair(v4: [u8; 4], v6: [u16; 4], last: u16) -> Pair {
        let [a, b, c, d] = v6;
        Pair::new(v4, [a, b, c, d, 0, 0, 0, last])
    }

    /// The host on its first uplink, `up1`. The networks are /26 and /64.
    pub const HOST_UP1: Pair = pair([192, 0, 2, 2], [0x2001, 0xdb8, 1, 0], 2);
    /// The first router towards the host.
    pub const R1_LAN: Pair = pair([192, 0, 2, 1], [0x2001, 0xdb8, 1, 0], 1);
    /// The host on its second uplink, `up2`.
    pub const HOST_UP2: Pair = pair([192, 0, 2, 66], [0x2001, 0xdb8, 2, 0], 2);
    /// The second router towards the host.
    pub const R2_LAN: Pair = pair([192, 0, 2, 65], [0x2001, 0xdb8, 2, 0], 1);
    /// The host on its bridge, `br0`.
    pub const HOST_BRIDGE: Pair = pair([192, 0, 2, 129], [0x2001, 0xdb8, 3, 0], 1);
    /// The container behind the bridge.
    pub const CONTAINER: Pair = pair([192, 0, 2, 130], [0x2001, 0xdb8, 3, 0], 2);
    /// The first router towards the far side. The networks are /30 and /64.
    pub const R1_WAN: Pair = pair([198, 51, 100, 1], [0x2001, 0xdb8, 0x11, 0], 1);
    /// The far side towards the first router.
    pub const NET_R1: Pair = pair([198, 51, 100, 2], [0x2001, 0xdb8, 0x11, 0], 2);
    /// The second router towards the far side.
    pub const R2_WAN: Pair = pair([198, 51, 100, 5], [0x2001, 0xdb8, 0x12, 0], 1);
    /// The far side towards the second router.
    pub const NET_R2: Pair = pair([198, 51, 100, 6], [0x2001, 0xdb8, 0x12, 0], 2);

    /// The origin.
    pub const ORIGIN: Pair = pair([203, 0, 113, 1], [0x2001, 0xdb8, 0x100, 0], 1);
    /// The origin's second address, from which it also sends.
    pub const ORIGIN_OTHER: Pair = pair([203, 0, 113, 2], [0x2001, 0xdb8, 0x100, 0], 2);
    /// The DNS server, port 53.
    pub const DNS: Pair = pair([203, 0, 113, 53], [0x2001, 0xdb8, 0x100, 0], 0x53);
    /// The SOCKS server, port 1080.
    pub const SOCKS: Pair = pair([203, 0, 113, 108], [0x2001, 0xdb8, 0x100, 0], 0x1080);
    /// The HTTP proxy, port 8080.
    pub const HTTP_PROXY: Pair = pair([203, 0, 113, 80], [0x2001, 0xdb8, 0x100, 0], 0x8080);
    /// Owned by the far side for tests to start servers on; nothing listens there.
    pub const SPARE: Pair = pair([203, 0, 113, 9], [0x2001, 0xdb8, 0x100, 0], 9);

    /// From here come the errors below.
    pub const TROUBLE_ROUTER: Pair = pair([203, 0, 113, 193], [0x2001, 0xdb8, 0x200, 0], 0xff);
    /// In a network whose packets vanish.
    pub const BLACK_HOLE: Pair = pair([203, 0, 113, 200], [0x2001, 0xdb8, 0x200, 0], 1);
    /// In a network for which the router answers ICMP host unreachable; over IPv6, address unreachable.
    pub const HOST_UNREACHABLE: Pair = pair([203, 0, 113, 209], [0x2001, 0xdb8, 0x201, 0], 1);
    /// In a network for which the router answers administratively prohibited.
    pub const PROHIBITED: Pair = pair([203, 0, 113, 225], [0x2001, 0xdb8, 0x202, 0], 1);
    /// In a network for which the router answers ICMP net unreachable; over IPv6, no route.
    pub const NET_UNREACHABLE: Pair = pair([203, 0, 113, 241], [0x2001, 0xdb8, 0x203, 0], 1);
}

/// The names that the DNS server, and the proxies, know at first.
pub mod name {
    /// [`ORIGIN`](super::address::ORIGIN), A and AAAA.
    pub const ORIGIN: &str = "origin.example";
    /// The origin's IPv4 address only.
    pub const ORIGIN4: &str = "v4.origin.example";
    /// The origin's IPv6 address only.
    pub const ORIGIN6: &str = "v6.origin.example";
    /// A CNAME of [`ORIGIN`].
    pub const ALIAS: &str = "www.origin.example";
    /// [`SOCKS`](super::address::SOCKS).
    pub const SOCKS: &str = "socks.example";
    /// [`HTTP_PROXY`](super::address::HTTP_PROXY).
    pub const HTTP_PROXY: &str = "proxy.example";
    /// [`BLACK_HOLE`](super::address::BLACK_HOLE).
    pub const BLACK_HOLE: &str = "blackhole.example";
    /// A TXT record of 3,000 bytes.
    pub const LARGE: &str = "large.example";
}

/// Ports of the servers that are not the origin's.
pub mod port {
    /// DNS.
    pub const DNS: u16 = 53;
    /// SOCKS.
    pub const SOCKS: u16 = 1080;
    /// HTTP proxy.
    pub const HTTP_PROXY: u16 = 8080;
}

/// Makes the networks.
#[derive(Debug)]
pub enum Topology {}

impl Topology {
    /// The captured machine with two uplinks and a container, two routers, and the far side with all servers.
    ///
    /// # Errors
    /// [`LabError`] of the step that failed.
    pub fn standard() -> Result<Standard, LabError> {
        Standard::new()
    }

    /// The captured machine joined to the far side by one pair of devices; all servers.
    ///
    /// # Errors
    /// [`LabError`] of the step that failed.
    pub fn simple() -> Result<Simple, LabError> {
        Simple::new()
    }
}

/// The zone of the DNS server at first.
pub fn zone() -> Zone {
    Zone::new()
        .a(name::ORIGIN, address::ORIGIN.v4)
        .aaaa(name::ORIGIN, address::ORIGIN.v6)
        .a(name::ORIGIN4, address::ORIGIN.v4)
        .aaaa(name::ORIGIN6, address::ORIGIN.v6)
        .cname(name::ALIAS, name::ORIGIN)
        .a(name::SOCKS, address::SOCKS.v4)
        .aaaa(name::SOCKS, address::SOCKS.v6)
        .a(name::HTTP_PROXY, address::HTTP_PROXY.v4)
        .aaaa(name::HTTP_PROXY, address::HTTP_PROXY.v6)
        .a(name::BLACK_HOLE, address::BLACK_HOLE.v4)
        .aaaa(name::BLACK_HOLE, address::BLACK_HOLE.v6)
        .txt(name::LARGE, 3000)
}

/// The servers of the far side.
struct Servers {
    origin: Origin,
    dns: DnsServer,
    socks: SocksServer,
    http_proxy: HttpProxy,
}

impl Servers {
    fn start(net: &NetNs) -> Result<Self, LabError> {
        let origins: Vec<IpAddr> =
            [address::ORIGIN, address::ORIGIN_OTHER].into_iter().flat_map(Pair::both).collect();
        let socks = SocksOptions { zone: zone(), ..SocksOptions::default() };
        let http = HttpProxyOptions { zone: zone(), ..HttpProxyOptions::default() };
        Ok(Self {
            origin: Origin::start(net, &origins)?,
            dns: DnsServer::start(net, &address::DNS.ports(port::DNS), zone())?,
            socks: SocksServer::start(net, &address::SOCKS.ports(port::SOCKS), socks)?,
            http_proxy: HttpProxy::start(net, &address::HTTP_PROXY.ports(port::HTTP_PROXY), http)?,
        })
    }
}

/// The addresses that the far side owns.
const OWNED: [Pair; 6] = [
    address::ORIGIN,
    address::ORIGIN_OTHER,
    address::DNS,
    address::SOCKS,
    address::HTTP_PROXY,
    address::SPARE,
];

fn net4(address: Ipv4Addr, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, length))
}

fn net6(address: Ipv6Addr, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

/// The networks of the far side's servers: 203.0.113.0/25 and 2001:db8:100::/64.
fn servers_nets() -> [IpNet; 2] {
    [net4(Ipv4Addr::new(203, 0, 113, 0), 25), net6(address::ORIGIN.v6, 64)]
}

/// The networks in which things go wrong: 203.0.113.192/26 and 2001:db8:200::/46.
fn trouble_nets() -> [IpNet; 2] {
    [net4(Ipv4Addr::new(203, 0, 113, 192), 26), net6(address::BLACK_HOLE.v6, 46)]
}

/// Gives a router the networks in which things go wrong.
fn make_trouble(router: &NetNs) -> Result<Trouble, LabError> {
    let source = (address::TROUBLE_ROUTER.v4, address::TROUBLE_ROUTER.v6);
    let trouble = Trouble::start(router, source, fate)?;
    trouble_nets().into_iter().try_for_each(|net| router.add_route(&Route::to(net).dev(trouble::DEVICE)))?;
    Ok(trouble)
}

fn fate(destination: IpAddr) -> Fate {
    let among = |pair: Pair| {
        let [v4, v6] = [net4(pair.v4, 28), net6(pair.v6, 64)];
        v4.contains(&destination) || v6.contains(&destination)
    };
    // RFC 792 and RFC 1812, 5.2.7.1; RFC 4443, 3.1.
    if among(address::HOST_UNREACHABLE) {
        Fate::Unreachable(1, 3)
    } else if among(address::PROHIBITED) {
        Fate::Unreachable(13, 1)
    } else if among(address::NET_UNREACHABLE) {
        Fate::Unreachable(0, 0)
    } else {
        Fate::Vanish
    }
}

/// An empty namespace with `lo` up and everything off that sends packets by itself or differs between machines.
fn machine(name: &str) -> Result<NetNs, LabError> {
    let namespace = NetNs::new(name)?;
    for (key, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/lo/rp_filter", "0"),
        ("ipv4/conf/all/src_valid_mark", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/router_solicitations", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv4/tcp_syncookies", "0"),
    ] {
        namespace.set_sysctl(key, value)?;
    }
    namespace.up("lo")?;
    Ok(namespace)
}

/// Forwards packets, and sends every ICMP error: the kernel's limit of one a second would hide them from tests.
fn router(name: &str) -> Result<NetNs, LabError> {
    let namespace = machine(name)?;
    forward(&namespace)?;
    unlimited_icmp(&namespace)?;
    Ok(namespace)
}

fn forward(namespace: &NetNs) -> Result<(), LabError> {
    namespace.set_sysctl("ipv4/ip_forward", "1")?;
    namespace.set_sysctl("ipv6/conf/all/forwarding", "1")
}

fn unlimited_icmp(namespace: &NetNs) -> Result<(), LabError> {
    namespace.set_sysctl("ipv4/icmp_ratelimit", "0")?;
    namespace.set_sysctl("ipv6/icmp/ratelimit", "0")?;
    // Kernels before 6.11 have one limit for the whole machine, which a namespace cannot change.
    let _ = namespace.set_sysctl("ipv4/icmp_msgs_per_sec", "1000000");
    let _ = namespace.set_sysctl("ipv4/icmp_msgs_burst", "1000000");
    Ok(())
}

/// Joins two namespaces and gives both ends their addresses.
fn join(near: (&NetNs, &str, Pair), far: (&NetNs, &str, Pair), (v4, v6): (u8, u8)) -> Result<(), LabError> {
    near.0.veth(near.1, far.0, far.1)?;
    for (namespace, device, pair) in [near, far] {
        namespace.up(device)?;
        namespace.add_address(device, net4(pair.v4, v4))?;
        namespace.add_address(device, net6(pair.v6, v6))?;
    }
    [near, far].into_iter().try_for_each(|(namespace, device, _)| namespace.wait_operational(device))
}

fn route(namespace: &NetNs, nets: [IpNet; 2], by: Pair, metric: Option<u32>) -> Result<(), LabError> {
    for (net, gateway) in nets.into_iter().zip(by.both()) {
        let route = Route::to(net).by(gateway);
        namespace.add_route(&match metric {
            Some(metric) => route.metric(metric),
            None => route,
        })?;
    }
    Ok(())
}

fn default_route(namespace: &NetNs, by: Pair, metric: u32) -> Result<(), LabError> {
    by.both()
        .into_iter()
        .try_for_each(|gateway| namespace.add_route(&Route::default_by(gateway).metric(metric)))
}
