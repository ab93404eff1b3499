//! A host with two uplinks, the world behind them, and a capture device.

use std::fs::{self, File, OpenOptions};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oneway_route::{
    Applied, Captured, Journal, Plan, Protect, Request, RouteKind, RouteQuery, Snapshot, apply, no_hook,
    plan, query,
};

use crate::namespace::Namespace;
use crate::wire::Wire;

/// In the world, behind both uplinks.
pub const FAR4: &str = "203.0.113.9";
pub const FAR6: &str = "2001:db8:ffff::9";
pub const HOST4: &str = "192.0.2.2";
pub const HOST6: &str = "2001:db8:a::2";

const MAIN: u32 = 254;
const STATIC: u8 = 4;
/// `RT_SCOPE_LINK`
const LINK: u8 = 253;

/// Two namespaces: the host has `eth0` (metric 100) and `eth1` (metric 200), both lead to the world.
pub struct Net {
    pub host: Namespace,
    pub world: Namespace,
    pub dir: tempfile::TempDir,
}

impl Net {
    pub fn new() -> Self {
        let (host, world) = (Namespace::new(), Namespace::new());
        for namespace in [&host, &world] {
            namespace.run(|| set("net/ipv6/conf/default/accept_dad", "0"));
        }
        host.run(|| {
            let wire = Wire::open();
            for n in 0..2 {
                wire.veth(&format!("eth{n}"), &format!("far{n}"));
                wire.move_to(&format!("far{n}"), world.handle());
            }
        });
        world.run(|| {
            let wire = Wire::open();
            // A router that asks by ARP in the name of an address that is not on-link is refused by a
            // strict rp_filter while its address is captured: no mark can be put on ARP.
            set("net/ipv4/conf/all/arp_announce", "2");
            wire.address("lo", &format!("{FAR4}/32"));
            wire.address("lo", &format!("{FAR6}/128"));
            for (dev, v4, v6) in [
                ("far0", "192.0.2.1/24", "2001:db8:a::1/64"),
                ("far1", "198.51.100.1/24", "2001:db8:b::1/64"),
            ] {
                wire.up(dev);
                wire.address(dev, v4);
                wire.address(dev, v6);
            }
        });
        host.run(|| {
            let wire = Wire::open();
            for (dev, v4, v6, gateway4, gateway6, metric) in [
                ("eth0", "192.0.2.2/24", "2001:db8:a::2/64", "192.0.2.1", "2001:db8:a::1", 100),
                ("eth1", "198.51.100.2/24", "2001:db8:b::2/64", "198.51.100.1", "2001:db8:b::1", 200),
            ] {
                wire.up(dev);
                wire.address(dev, v4);
                wire.address(dev, v6);
                wire.route("0.0.0.0/0", Some(gateway4), dev, metric, MAIN, STATIC);
                wire.route("::/0", Some(gateway6), dev, metric, MAIN, STATIC);
            }
        });
        for namespace in [&host, &world] {
            namespace.run(|| until("IPv6 has settled", settled));
        }
        Self { host, world, dir: tempfile::tempdir().unwrap() }
    }

    pub fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }
}

/// The kernel makes link-local addresses, and every IPv6 address's local route, on its own time: even
/// without duplicate address detection.
fn settled() -> bool {
    let now = Snapshot::take().unwrap();
    let routed = |a: IpAddr| query(&RouteQuery::to(a)).unwrap().kind == RouteKind::Local;
    let v6 = now.addresses.iter().filter(|a| a.net.addr().is_ipv6());
    let link_local = v6.clone().filter(|a| a.scope == LINK).count();
    let local = |a: &oneway_route::Address| {
        let routes = &now.routes;
        a.scope == LINK && routes.iter().any(|r| r.kind == RouteKind::Local && r.dst.addr() == a.net.addr())
            || a.scope != LINK && routed(a.net.addr())
    };
    let tentative = |a: &oneway_route::Address| a.flags & 0x40 != 0;
    link_local == 2 && v6.clone().all(|a| local(a) && !tentative(a))
}

/// Asks until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Those by which sockets remember who began.
pub const SWITCHES: [&str; 3] =
    ["net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"];

/// Sets a switch of the thread's namespace.
pub fn set(path: &str, value: &str) {
    fs::write(format!("/proc/sys/{path}"), value).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// Every protection but the plain ones, for the far hosts.
pub fn protections() -> Vec<Request> {
    let servers: Vec<IpAddr> = [FAR4, FAR6].map(|far| far.parse().unwrap()).into();
    [
        Protect::MarkTerminal,
        Protect::MarkIfgroup,
        Protect::SourceRule,
        Protect::HostRoute,
        Protect::HostRouteHalves,
        Protect::Netns,
    ]
    .map(|protect| Request { protect, root: true, servers: servers.clone(), ..Request::default() })
    .into()
}

/// A plan for the thread's namespace as it is now.
pub fn planned(request: &Request) -> Plan {
    plan(request, &Snapshot::take().unwrap()).unwrap()
}

/// Makes the plan's device and all of the plan.
pub fn capture(plan: &Plan, journal: PathBuf) -> (Tun, Applied<Captured>) {
    let tun = Tun::open(&plan.tun_name);
    let journal = Journal::create(&journal).unwrap();
    let prepared = apply(plan.clone(), journal, &mut no_hook).unwrap();
    let far = [FAR4.parse().unwrap(), FAR6.parse().unwrap()];
    let verified = prepared.verify(&far, &mut no_hook).unwrap();
    (tun, verified.capture(&far, &mut no_hook).unwrap())
}

/// A TUN device that vanishes with this handle.
pub struct Tun {
    file: File,
}

impl Tun {
    #[allow(unsafe_code, reason = "TUNSETIFF")]
    pub fn open(name: &str) -> Self {
        const TUNSETIFF: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
        const IFF_TUN_NO_PI: i16 = 0x1001;
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&IFF_TUN_NO_PI.to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is no longer than these 40 bytes.
        let outcome = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(outcome, 0, "TUNSETIFF {name}: {}", std::io::Error::last_os_error());
        rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK).unwrap();
        Self { file }
    }

    /// The packets that wait in it.
    pub fn packets(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 65536];
        while let Ok(n) = std::io::Read::read(&mut &self.file, &mut buffer) {
            packets.push(buffer[..n].to_vec());
        }
        packets
    }
}
