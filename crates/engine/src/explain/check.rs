//! `check`: the loops that a configuration would make, before anything is touched.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use oneway_capture::tun::TunError;
use oneway_egress::{Egress, EgressError, Strategy, Uplink};
use oneway_route::{Family, Packet, Plan, PlanError, RouteError, RouteKind, RouteQuery, Snapshot, decide};

use super::circles::by_local_proxy;
use super::scene::{Scene, without_ours};
use crate::assemble::{self, system_resolver};
use crate::config::{
    Config, ConfigError, ConfigErrors, Loaded, Origin, Origins, OutboundSpec, Protect, ProxySpec, ServerHost,
};
use crate::control::{ControlError, LoopFree};
use crate::dns;
use crate::error::EngineError;
use crate::exclude::{self, Exclusions};
use crate::lifecycle::{self, Planned};

/// Everything that is wrong; then what the user should know about the rules.
pub(super) fn check(loaded: &Loaded) -> (Vec<ConfigError>, Vec<ConfigError>) {
    let Loaded { config, origins, .. } = loaded;
    match assemble::dispatch(config, &system_resolver()) {
        Ok((_, warnings)) => (loops(config, origins), warnings),
        Err(EngineError::Config(errors)) => {
            let all = errors.as_slice().iter().cloned().chain(loops(config, origins)).collect();
            (ConfigErrors::collect(all).map_or_else(Vec::new, |all| all.as_slice().to_vec()), Vec::new())
        }
        Err(error) => (vec![ConfigError::new(None, error.to_string())], Vec::new()),
    }
}

/// The loops, and whatever else this host has against it.
fn loops(config: &Config, origins: &Origins) -> Vec<ConfigError> {
    let mut errors = files(config, origins);
    // A host that cannot be looked at is no fault of the configuration.
    let Ok(host) = Snapshot::take() else { return errors };
    let host = without_ours(&host);
    errors.extend(local_proxies(config, origins, &host));
    let servers = given(config, origins).map(|(_, server, _)| server.ip());
    let servers: Vec<IpAddr> = match config.egress.protect {
        Protect::HostRoute | Protect::HostRouteHalves => {
            servers.chain(dns::server_addresses(&config.dns)).collect()
        }
        _ => Vec::new(),
    };
    match lifecycle::planned(config, &host, &servers) {
        Ok(planned) => errors.extend(proxies(config, origins, &host, &planned)),
        Err(EngineError::Plan(error)) => errors.extend(unplannable(&error, origins)),
        Err(EngineError::Route(error @ RouteError::Cgroup(_))) => {
            errors.push(ConfigError::new(origins.exclude_cgroup.clone(), error.to_string()));
        }
        Err(EngineError::Egress(error)) if error.is_wrong_request() => {
            errors.push(ConfigError::new(origins.netns.clone(), error.to_string()));
        }
        Err(EngineError::Tun(error @ TunError::NotTun { .. })) => {
            errors.push(ConfigError::new(origins.tun_fd.clone(), error.to_string()));
        }
        // What only this host stands in the way of is no fault of the configuration either.
        Err(_) => {}
    }
    errors
}

/// The files that are to be made, and cannot be where they are to be. None is made here.
fn files(config: &Config, origins: &Origins) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    if let Some(path) = &config.tun.pcap
        && let Some(source) = not_to_be_made(path, fs::FileType::is_file)
    {
        let error = TunError::Pcap { path: path.clone(), source };
        errors.push(ConfigError::new(origins.pcap.clone(), error.to_string()));
    }
    if let Some(path) = &config.control
        && let Some(source) = not_to_be_made(path, FileTypeExt::is_socket)
    {
        let error = ControlError::Bind { path: path.clone(), source };
        errors.push(ConfigError::new(origins.control.clone(), error.to_string()));
    }
    errors
}

/// Why there can be no file of this name, as far as names tell: what is there already is of the wrong kind, or there is no
/// folder for it. Whether this user may write there is another matter.
fn not_to_be_made(path: &Path, is_right: impl Fn(&fs::FileType) -> bool) -> Option<io::Error> {
    match fs::metadata(path) {
        Ok(there) if is_right(&there.file_type()) => return None,
        Ok(_) => return Some(io::Error::other("something else has this name")),
        Err(_) => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::metadata(folder) {
        Ok(there) if there.is_dir() => None,
        Ok(_) => Some(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => Some(error),
    }
}

/// What the host contradicts, at the place where it was said.
fn unplannable(error: &PlanError, origins: &Origins) -> Option<ConfigError> {
    let at = |origin: &Option<Origin>| Some(ConfigError::new(origin.clone(), error.to_string()));
    match error {
        PlanError::Overlap { .. } | PlanError::BadTunAddress(_) => at(&origins.tun_addresses),
        PlanError::BadTunName(_) | PlanError::TunNameTaken(_) => at(&origins.tun_name),
        PlanError::NoSuchTun(_) | PlanError::TunDown(_) => at(&origins.tun_fd),
        PlanError::BadMtu { .. } => at(&origins.mtu),
        PlanError::NoInterface(_) => at(&origins.interface),
        PlanError::NotOneBit(_) | PlanError::MarkInUse { .. } => at(&origins.mark),
        PlanError::Nothing => at(&origins.exclude),
        PlanError::Protect { .. } | PlanError::Strict { .. } => at(&origins.protect),
        _ => None,
    }
}

/// The proxies that are given by address, with the place where they were given.
fn given<'a>(
    config: &'a Config,
    origins: &'a Origins,
) -> impl Iterator<Item = (&'a str, SocketAddr, Option<Origin>)> {
    config.outbounds.iter().filter_map(move |(name, spec)| {
        let OutboundSpec::Proxy(proxy) = spec else { return None };
        Some((name.as_str(), literal(proxy)?, origins.outbounds.get(name).cloned()))
    })
}

/// The address of a server; `localhost` is one (RFC 6761, section 6.3). Other names are not looked up here.
fn literal(proxy: &ProxySpec) -> Option<SocketAddr> {
    let ip = match &proxy.server.host {
        ServerHost::Ip(ip) => ip.to_canonical(),
        ServerHost::Name(name) if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") => {
            IpAddr::from([127, 0, 0, 1])
        }
        ServerHost::Name(_) => return None,
    };
    Some(SocketAddr::new(ip, proxy.server.port.get()))
}

/// A proxy that is a program of this host: what it sends is captured, and comes to it again. Where nobody listens, or the
/// kernel does not tell who does, an exclusion is taken to be meant for it.
fn local_proxies(config: &Config, origins: &Origins, host: &Snapshot) -> Vec<ConfigError> {
    let groups = exclude::groups(&config.capture.exclude_cgroup, host.nft).unwrap_or_default();
    let exclusions = Exclusions::new(&config.capture, groups);
    let mut errors = Vec::new();
    for (name, server, origin) in given(config, origins) {
        let here = server.ip().is_loopback() || host.addresses.iter().any(|a| a.net.addr() == server.ip());
        if !here {
            continue;
        }
        match by_local_proxy(server, &exclusions) {
            None => {}
            Some((LoopFree::NotProven, _)) if exclusions.any() => {}
            Some((_, why)) => errors.push(ConfigError::new(origin, format!("outbound {name:?}: {why}"))),
        }
    }
    errors
}

/// Proxies that cannot be reached past the capture.
fn proxies(config: &Config, origins: &Origins, host: &Snapshot, planned: &Planned) -> Vec<ConfigError> {
    let Planned { plan, strategy, .. } = planned;
    let after = oneway_route::planned(host, plan);
    let own = plan.tun_addresses.iter().map(ipnet::IpNet::trunc).collect();
    let Ok(egress) = Egress::new(strategy.clone(), own) else { return Vec::new() };
    let mut errors = Vec::new();
    for (name, server, origin) in given(config, origins) {
        let why = match egress.check(server.ip()) {
            Err(EgressError::Forbidden { reason, .. }) => Some(format!("nothing is sent to it: {reason}")),
            Err(error) => Some(error.to_string()),
            Ok(()) => unreachable_by(&after, plan, strategy, server.ip()),
        };
        if let Some(why) = why {
            let message = format!("outbound {name:?}: the proxy {server} cannot be reached: {why}");
            errors.push(ConfigError::new(origin, message));
        }
    }
    errors
}

/// Why a protected socket does not get to an address, if the protection is the reason.
fn unreachable_by(host: &Snapshot, plan: &Plan, strategy: &Strategy, dst: IpAddr) -> Option<String> {
    let query = RouteQuery::to(dst);
    let decided = |query: &RouteQuery| decide(host, &Packet::of_socket(query, Scene::uid()));
    match strategy {
        // Asked there, where this host's routes say nothing.
        Strategy::Netns(_) => None,
        strategy if !matches!(strategy, Strategy::Bind(_)) => {
            let tun = host.link(&plan.tun_name).map(|l| l.index);
            let back = decided(&strategy.question(dst)).iter().any(|o| o.answer.oif == tun);
            back.then(|| format!("a route of the host leads it into {}", plan.tun_name))
        }
        Strategy::Bind(uplinks) => {
            let Uplink { index, name } = uplinks.get(Family::of(dst));
            let local = decided(&query).iter().any(|o| o.answer.kind == RouteKind::Local);
            let by = |o: &oneway_route::Outcome| o.answer.oif == Some(*index) && o.answer.table.is_some();
            let reached = dst.is_loopback() || local || decided(&query.bound(*index)).iter().any(by);
            let advice = "name the device that leads to it with --interface, or use --protect mark";
            (!reached).then(|| format!("our sockets are bound to {name}, which has no route to it; {advice}"))
        }
        _ => None,
    }
}
