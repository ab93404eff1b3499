//! The TUN device, made or taken over, and how our own sockets are kept out of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;

use ipnet::IpNet;
use oneway_capture::shortcut::Shortcuts;
use oneway_capture::tun::{Tun, TunError, TunOptions};
use oneway_egress::{Means, Namespace, Strategy};
use oneway_flow::SocketTable;
use oneway_route::{
    Family, Journal, JournalState, Mark, NftSupport, Plan, Prepared, Protect, Request, RouteError, Snapshot,
    Uplinks, apply, no_hook,
};

use super::handed::{self, Sockets};
use super::host::{Host, Pending};
use super::{protection, workers};
use crate::apart::ApartTun;
use crate::assemble;
use crate::config::{CaptureMode, Config, FaultSpec, StackKind};
use crate::control::StatePaths;
use crate::dns;
use crate::error::EngineError;
use crate::exclude;

/// A device that is ready to capture, and what goes with it.
pub(super) struct Device {
    pub(super) tun: Tun,
    pub(super) host: Pending<Prepared>,
    /// Its own addresses with their networks, at most one of each family.
    pub(super) addresses: Vec<IpNet>,
    pub(super) strategy: Strategy,
    pub(super) strategy_why: String,
    pub(super) families: Vec<Family>,
    pub(super) uplinks: Uplinks,
    /// What the plan was made from, to make it again when the host has changed.
    pub(super) request: Request,
    /// What nftables can do here.
    pub(super) nft: NftSupport,
    /// Where our own sockets are made, if not here.
    pub(super) namespace: Option<Arc<Namespace>>,
    pub(super) place: Place,
    /// Where the packet filter hands this host's own traffic to, if it does.
    pub(super) handed: Sockets,
}

/// Where a device is.
pub(super) enum Place {
    /// In the network namespace of our sockets.
    Here,
    /// In another one.
    Apart {
        /// The number of that.
        netns: u64,
        mtu: u16,
        /// The listeners there.
        listeners: Vec<TcpListener>,
        /// Who tells whose the flows of there are.
        table: Option<SocketTable>,
    },
}

/// A plan, and the protection that it counts on.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) request: Request,
    pub(crate) strategy: Strategy,
    pub(crate) why: String,
    namespace: Option<Arc<Namespace>>,
}

/// Makes the device and every preparation, or takes over a device that is ready.
/// `servers` are all that our own sockets connect to, where every flow goes by a proxy.
pub(super) fn open(config: &Config, paths: &StatePaths, servers: &[IpAddr]) -> Result<Device, EngineError> {
    let fault = config.tun.fault.clone();
    if fault.is_some() {
        tracing::warn!("packets are lost, held back or changed on purpose, as --fault asks for");
    }
    let mut options = TunOptions {
        queues: workers(),
        no_offload: fault.as_ref().is_some_and(FaultSpec::needs_checksums),
        pcap: config.tun.pcap.clone(),
        fault,
        ..TunOptions::default()
    };
    let given = match config.tun.fd {
        Some(fd) => Some(Tun::from_raw_fd(fd.get(), &options)?),
        None => None,
    };
    if !may_change_routing()
        && let Some(tun) = given
    {
        return take_over(config, tun);
    }
    let found = oneway_route::recover(&paths.journal)?;
    if found.undone + found.by_tag > 0 {
        tracing::warn!(changes = found.undone + found.by_tag, "undid what a killed instance left behind");
    }
    if let Some(lost) = super::lost_switches(&found.switches) {
        tracing::warn!("{lost}");
    }
    if found.journal == JournalState::Elsewhere {
        // The file bears this namespace's number, so the namespace that it was written in is gone, and its changes with
        // it: the kernel gives numbers again (`get_next_ino`, fs/inode.c), but no two namespaces have the same one.
        tracing::info!(journal = %paths.journal.display(), "forgetting the journal of a namespace that is gone");
        std::fs::remove_file(&paths.journal).map_err(|source| RouteError::Journal {
            what: "remove",
            path: paths.journal.clone(),
            source,
        })?;
    }
    let name = given.as_ref().map(|tun| tun.name().to_owned());
    let handed = handed::open(config, workers())?;
    let snapshot = Snapshot::take()?;
    let Planned { plan, request, strategy, why, namespace } =
        plan(config, name, &snapshot, servers, handed.port)?;
    let tun = match given {
        Some(tun) => tun,
        None => {
            options.name = Some(plan.tun_name.clone());
            Tun::open(&options)?
        }
    };
    for note in &plan.notes {
        tracing::info!("{note}");
    }
    let addresses = plan.tun_addresses.clone();
    let families = plan.families.clone();
    let uplinks = plan.uplinks.clone();
    let applied = apply(plan, Journal::create(&paths.journal)?, &mut no_hook)?;
    Ok(Device {
        tun,
        host: Host::Ours(applied).into(),
        addresses,
        strategy,
        strategy_why: why,
        families,
        uplinks,
        request,
        nft: snapshot.nft,
        namespace,
        place: Place::Here,
        handed,
    })
}

/// Where the kernel renames packets of the system stack by itself. It is a matter of speed alone: without the rights or
/// the kernel for it, all packets come to this program.
pub(super) fn shortcuts(config: &Config, tun: &Tun, connections: usize) -> Option<Shortcuts> {
    /// Beyond that, further connections are carried without.
    const MOST: usize = 1 << 17;
    let wanted = config.capture.stack == StackKind::System
        && tun.offload().tcp_segmentation
        // What is recorded or disturbed has to come by here.
        && config.tun.pcap.is_none()
        && config.tun.fault.is_none();
    if !wanted {
        return None;
    }
    // Each has one entry for either direction.
    match Shortcuts::attach(tun.name(), connections.saturating_mul(2).min(MOST)) {
        Ok(shortcuts) => Some(shortcuts),
        Err(error) => {
            tracing::debug!(%error, "the kernel renames no packets by itself");
            None
        }
    }
}

/// Plans the capture with the protection that works on this host. `given` names a device that was handed over, `port` is
/// that of the sockets that the packet filter hands traffic to.
pub(super) fn plan(
    config: &Config,
    given: Option<String>,
    snapshot: &Snapshot,
    servers: &[IpAddr],
    port: Option<u16>,
) -> Result<Planned, EngineError> {
    let asked = assemble::protect(config);
    let namespace = protection::namespace(config)?;
    let mut request = assemble::request(config, protection::planned_for(asked, namespace.is_some()));
    match config.capture.mode {
        CaptureMode::Tun => {}
        CaptureMode::Redirect => request.redirect = port,
        CaptureMode::Tproxy => request.tproxy = port,
    }
    let user = rustix::process::geteuid();
    request.root = user.is_root();
    request.user = Some(user.as_raw());
    if request.protect.is_host_route() {
        request.servers = servers.to_vec();
    }
    request.exclude_cgroups = exclude::groups(&config.capture.exclude_cgroup, snapshot.nft)?;
    if let Some(name) = given {
        refuse_packet_info(config, &name, snapshot)?;
        request.tun_name = Some(name);
    }
    request.resolver = dns::host_resolver(&config.dns)?;
    let plan = oneway_route::plan(&request, snapshot)?;
    // Only a plan that marks has a mark; any does for asking whether marks can be set.
    let mark = plan.mark.unwrap_or(Mark(1 << 28));
    let uplink = protection::uplinks(&plan.uplinks);
    let means = Means {
        pinned: config.egress.interface.is_some(),
        source: protection::source_rule(&plan),
        servers: protection::host_route(&plan),
        namespace: namespace.as_ref(),
        ..Means::new(mark, uplink.as_ref())
    };
    let choice = oneway_egress::choose(asked, &means)?;
    let plan = match choice.strategy {
        Strategy::Bind(_) if request.protect != Protect::Bind => {
            request.protect = Protect::Bind;
            oneway_route::plan(&request, snapshot)?
        }
        _ => plan,
    };
    let plan = Plan { notes: plan.notes.into_iter().chain(by_name(config)).collect(), ..plan };
    Ok(Planned { plan, request, strategy: choice.strategy, why: choice.why, namespace })
}

/// Refuses a device that puts four bytes before each packet: none would be understood, in either direction.
fn refuse_packet_info(config: &Config, name: &str, snapshot: &Snapshot) -> Result<(), EngineError> {
    match (&config.tun.fd, snapshot.link(name)) {
        (Some(fd), Some(link)) if link.packet_info => {
            Err(TunError::NotTun { fd: fd.get(), source: io::ErrorKind::InvalidInput.into() }.into())
        }
        _ => Ok(()),
    }
}

/// How programs are excluded that are excluded by name: no rule of the kernel's knows them.
fn by_name(config: &Config) -> impl Iterator<Item = String> {
    config.capture.exclude_process.iter().map(|program| {
        format!(
            "what {program} sends is captured and, when it is here and known to be its own, sent on directly, past rules and \
             proxies; exclude its user or control group to leave it out of the capture"
        )
    })
}

/// Uses a device that was handed over with its addresses and routes. There is no right to change the host, so that our
/// own sockets are bound to the uplink, which needs none.
fn take_over(config: &Config, tun: Tun) -> Result<Device, EngineError> {
    if !config.capture.exclude_cgroup.is_empty() {
        return Err(EngineError::Unsupported {
            what: "--exclude-cgroup with a device that was handed over".to_owned(),
            where_: "without the right to change the packet filter",
            instead: "grant CAP_NET_ADMIN, or have whoever made the device exclude the group",
        });
    }
    if config.capture.mode != CaptureMode::Tun {
        return Err(EngineError::Unsupported {
            what: "another --capture than tun with a device that was handed over".to_owned(),
            where_: "without the right to change the packet filter",
            instead: "grant CAP_NET_ADMIN, or use --capture tun",
        });
    }
    if config.capture.strict {
        return Err(EngineError::Unsupported {
            what: "--strict with a device that was handed over".to_owned(),
            where_: "without the right to change routes and the packet filter",
            instead: "grant CAP_NET_ADMIN, or have whoever made the device refuse the rest",
        });
    }
    let snapshot = Snapshot::take()?;
    refuse_packet_info(config, tun.name(), &snapshot)?;
    let Some(link) = snapshot.link(tun.name()) else {
        return Err(EngineError::NoAddress { name: tun.name().to_owned() });
    };
    let mut addresses = Vec::new();
    for family in Family::ALL {
        let own = snapshot.addresses.iter().find(|address| {
            address.index == link.index
                && Family::of_net(address.net) == family
                && !is_link_local(address.net.addr())
        });
        addresses.extend(own.map(|address| address.net));
    }
    if addresses.is_empty() {
        return Err(EngineError::NoAddress { name: tun.name().to_owned() });
    }
    let mut request = assemble::request(config, Protect::Bind);
    request.tun_name = Some(tun.name().to_owned());
    let uplinks = oneway_route::plan(&request, &snapshot)?.uplinks;
    let uplink = protection::uplinks(&uplinks);
    let namespace = protection::namespace(config)?;
    let protect = protection::without_rights(assemble::protect(config), namespace.is_some())?;
    let means = Means {
        pinned: config.egress.interface.is_some(),
        namespace: namespace.as_ref(),
        ..Means::new(Mark(1 << 28), uplink.as_ref())
    };
    let choice = oneway_egress::choose(protect, &means)?;
    let families = addresses.iter().map(|net| Family::of_net(*net)).collect();
    Ok(Device {
        tun,
        host: Host::Theirs.into(),
        addresses,
        strategy: choice.strategy,
        strategy_why: choice.why,
        families,
        uplinks,
        request,
        nft: snapshot.nft,
        namespace,
        place: Place::Here,
        handed: Sockets::default(),
    })
}

/// Takes over a device that is in another network namespace, and is ready there.
pub(super) fn apart(config: &Config, given: ApartTun) -> Result<Device, EngineError> {
    let ApartTun { queues, listeners, table, addresses, mtu, netns } = given;
    let options = TunOptions {
        pcap: config.tun.pcap.clone(),
        fault: config.tun.fault.clone(),
        ..TunOptions::default()
    };
    let tun = Tun::from_fds(queues, &options)?;
    let snapshot = Snapshot::take()?;
    let request = assemble::request(config, Protect::Mark);
    Ok(Device {
        uplinks: oneway_route::find_uplinks(&snapshot, "", None),
        tun,
        host: Host::Theirs.into(),
        families: addresses.iter().map(|net| Family::of_net(*net)).collect(),
        addresses,
        // Nothing asks for it: see `Egress::apart_from`.
        strategy: Strategy::Mark(Mark(0)),
        strategy_why: "our sockets are in another network namespace than the capture".to_owned(),
        request,
        nft: snapshot.nft,
        namespace: None,
        place: Place::Apart { netns, mtu, listeners, table },
        handed: Sockets::default(),
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Whether this process may change routes and rules: `CAP_NET_ADMIN`, in effect.
fn may_change_routing() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// The addresses of the TUN's networks that stand in for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peers {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
    /// How many there are of each family.
    pub(super) count: u32,
}

impl Peers {
    /// More are not needed: each has 64,000 names for each listener.
    const MOST: u128 = 250;

    /// Those behind the TUN's own address, or in front of it where it is the last of its network.
    pub(super) fn of(addresses: &[IpNet]) -> Self {
        let mut peers = Self { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED, count: u32::MAX };
        for net in addresses {
            let count = match net {
                IpNet::V4(net) => {
                    let (network, last) =
                        (net.network().to_bits(), net.broadcast().to_bits().wrapping_sub(1));
                    let (first, count) = beside(network.into(), net.addr().to_bits().into(), last.into());
                    peers.v4 = Ipv4Addr::from_bits(u32::try_from(first).unwrap_or(0));
                    count
                }
                IpNet::V6(net) => {
                    let (network, last) = (net.network().to_bits(), net.broadcast().to_bits());
                    let (first, count) = beside(network, net.addr().to_bits(), last);
                    peers.v6 = Ipv6Addr::from_bits(first);
                    count
                }
            };
            peers.count = peers.count.min(u32::try_from(count.min(Self::MOST)).unwrap_or(1));
        }
        if peers.count == u32::MAX {
            peers.count = 1;
        }
        peers
    }
}

/// The longer of the two runs of addresses beside `own`: its first address and its length.
fn beside(network: u128, own: u128, last: u128) -> (u128, u128) {
    let behind = last.saturating_sub(own);
    let before = own.saturating_sub(network + 1);
    if behind >= before { (own + 1, behind) } else { (network + 1, before) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_all_that_the_network_has_beside_the_device() {
        let peers = |v4: &str| Peers::of(&[v4.parse().unwrap()]);
        assert_eq!(
            peers("192.0.2.1/24"),
            Peers { v4: [192, 0, 2, 2].into(), v6: Ipv6Addr::UNSPECIFIED, count: 250 }
        );
        assert_eq!(peers("192.0.2.1/30").count, 1);
        assert_eq!(peers("192.0.2.2/30").v4, Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(
            peers("192.0.2.14/28"),
            Peers { v4: [192, 0, 2, 1].into(), v6: Ipv6Addr::UNSPECIFIED, count: 13 }
        );
        let both = Peers::of(&["192.0.2.1/29".parse().unwrap(), "2001:db8::1/64".parse().unwrap()]);
        assert_eq!((both.v6, both.count), ("2001:db8::2".parse().unwrap(), 5));
    }
}
