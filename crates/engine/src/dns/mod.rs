//! Captured DNS, and the names of destinations and proxies.

mod by_name;
mod carried;
mod host;
mod proxies;
mod resolver;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use oneway_dns::{
    AskedBy, Client, ClientConfig, DEFAULT_EXCLUDED, Doubt, FakeIp, FakeIpConfig, Mode, Patterns, Pinned,
    Secure, Server, Upstream, nameservers,
};
use oneway_egress::{Egress, EgressError, Safeguard, Strategy};
use oneway_file::limit;
use oneway_flow::Target;
use oneway_route::{Family, RESOLV_CONF, Snapshot, resolv_conf_before};
use oneway_tls::TlsSettings;
use parking_lot::Mutex;

use crate::config::{
    ConfigError, ConfigErrors, DnsConfig, DnsMode, DnsUpstream, FakeIpConfig as FakeIpSettings,
};
use crate::control::DnsCounters;
use crate::error::EngineError;
pub(crate) use carried::ByRules;
pub(crate) use host::{answers_at, host_resolver};
pub(crate) use proxies::keep as keep_proxies;
pub(crate) use resolver::{ProxyResolver, known};

/// The port that queries go to.
const PORT: u16 = 53;

/// Where `ip netns exec` looks for those of a namespace (ip-netns(8)).
const OF_NAMESPACES: &str = "/etc/netns";
/// The servers behind systemd's stub, which would ask them by way of us (systemd-resolved(8)).
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What the workers need for names.
#[derive(Debug)]
pub(crate) struct Dns {
    mode: DnsMode,
    /// None: captured queries are carried like any other traffic.
    server: Option<Server>,
    fake: Option<Arc<FakeIp>>,
    client: Arc<Client>,
    /// The refusal of fake addresses that stand for nothing is left out on purpose.
    unknown_is_real: bool,
    /// Where this host's programs are told to ask, if they have to be.
    answers: Option<SocketAddr>,
    /// Flows may be those of other hosts.
    forwarded: bool,
    followed: Mutex<Followed>,
}

/// What can be replaced while it runs.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) client: ClientConfig,
    config: DnsConfig,
    exclude: Patterns,
}

/// The system's servers that were seen last, as far as they are asked.
#[derive(Debug)]
struct Followed {
    config: DnsConfig,
    servers: Vec<SocketAddr>,
}

impl Followed {
    fn new(config: &DnsConfig, egress: &Egress, answers: Option<SocketAddr>) -> Self {
        Self { config: config.clone(), servers: asked_of_system(config, egress, answers) }
    }
}

/// The system's servers, if they are asked.
fn asked_of_system(config: &DnsConfig, egress: &Egress, answers: Option<SocketAddr>) -> Vec<SocketAddr> {
    let by_domain = config.domains.iter().map(|(_, list)| list);
    let mut lists = by_domain.chain([&config.upstream]);
    let is_asked = config.upstream.is_empty() || lists.any(|list| list.contains(&DnsUpstream::System));
    if !is_asked {
        return Vec::new();
    }
    let strategy = egress.strategy();
    let mut servers = system_servers(namespace_of(&strategy));
    servers.retain(|server| Some(*server) != answers);
    servers
}

/// Where a captured packet really wants to go.
#[derive(Debug)]
pub(crate) struct Destined {
    /// What outbounds are told. The name is there if the address only stands for it.
    pub(crate) target: Target,
    /// What rules are asked about. It also has the name that a real address was asked for by.
    pub(crate) judged: Target,
    /// Keeps a fake address for as long as it is in use.
    pub(crate) pin: Option<Pinned>,
}

impl Dns {
    /// `families` are captured, with `forwarded` of other hosts as well; `state` is the file that keeps the fake addresses.
    pub(crate) fn new(
        config: &DnsConfig,
        egress: &Arc<Egress>,
        (families, forwarded): (&[Family], bool),
        state: &Path,
        answers: Option<SocketAddr>,
    ) -> Result<Self, EngineError> {
        let client = Arc::new(Client::new(Arc::clone(egress), ready(client_config(config, egress, answers))));
        let fake = match config.mode {
            DnsMode::FakeIp => Some(Arc::new(fake_ip(config, families, state)?)),
            DnsMode::Real | DnsMode::Off => None,
        };
        let mode = match (&fake, config.mode) {
            (_, DnsMode::Off) => None,
            (Some(fake), _) => Some(Mode::FakeIp(Arc::clone(fake))),
            (None, _) => Some(Mode::Real),
        };
        let server = mode.map(|mode| Server::new(mode, Arc::clone(&client)));
        let unknown_is_real = egress.left_out().has(Safeguard::FakeIp);
        let followed = Mutex::new(Followed::new(config, egress, answers));
        Ok(Self { mode: config.mode, server, fake, client, unknown_is_real, answers, forwarded, followed })
    }

    /// What another configuration says that may change while it runs: whom to ask, and which names keep their addresses.
    pub(crate) fn prepare(&self, config: &DnsConfig, egress: &Egress) -> Result<Prepared, EngineError> {
        let client = ready(client_config(config, egress, self.answers));
        Ok(Prepared { client, config: config.clone(), exclude: excluded(&config.fake_ip)? })
    }

    /// Puts it into force. Fake addresses go on to stand for their names.
    pub(crate) fn set(&self, prepared: Prepared, egress: &Egress) {
        let Prepared { client, config, exclude } = prepared;
        *self.followed.lock() = Followed::new(&config, egress, self.answers);
        self.client.set_config(client);
        if let Some(fake) = &self.fake {
            fake.set_excluded(exclude);
        }
    }

    /// Where this host's programs are told to ask, if they have to be.
    pub(crate) fn answers(&self) -> Option<SocketAddr> {
        self.answers
    }

    /// Looks whether the system names other servers than before. They are asked from now on if `may` says so of all the
    /// servers that our own questions may go to then; else it is looked again. True if they are.
    pub(crate) fn follow(&self, egress: &Egress, may: impl FnOnce(Vec<IpAddr>) -> bool) -> bool {
        let mut followed = self.followed.lock();
        let servers = asked_of_system(&followed.config, egress, self.answers);
        // A file without any is just being written, or there is no network to ask in.
        if servers.is_empty() || servers == followed.servers || !may(server_addresses(&followed.config)) {
            return false;
        }
        tracing::info!(?servers, "the system names other DNS servers now");
        self.client.set_config(ready(client_config(&followed.config, egress, self.answers)));
        followed.servers = servers;
        true
    }

    /// Who asks the upstreams.
    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The server that a packet to `dst` is answered by, if it is a query that is answered here.
    pub(crate) fn hijacks(&self, dst: SocketAddr) -> Option<&Server> {
        if dst.port() == PORT { self.server.as_ref() } else { None }
    }

    /// Whether an address only stands for a name.
    pub(crate) fn is_fake(&self, ip: IpAddr) -> bool {
        let stands_for_a_name = |fake: &FakeIp| !self.unknown_is_real || fake.name(ip).is_some();
        self.fake.as_ref().is_some_and(|fake| fake.contains(ip) && stands_for_a_name(fake))
    }

    /// The name that a fake address stands for.
    pub(crate) fn fake_name(&self, ip: IpAddr) -> Option<Arc<str>> {
        self.fake.as_ref()?.name(ip)
    }

    /// Keeps a fake address.
    pub(crate) fn pin(&self, ip: IpAddr) -> Option<Pinned> {
        self.fake.as_ref()?.pin(ip)
    }

    /// What a connection to `dst` is about; none if that is a fake address that stands for nothing (any more), which
    /// must never be dialled. Where its first bytes `tell` the name, one of several that an address was asked for by is none: the
    /// last question may have been another program's.
    pub(crate) fn destined(&self, dst: SocketAddr, tell: bool) -> Option<Destined> {
        if self.is_fake(dst.ip()) {
            let pin = self.pin(dst.ip())?;
            let target = Target { addr: dst, host: Some(Arc::clone(pin.name())) };
            return Some(Destined { judged: target.clone(), target, pin: Some(pin) });
        }
        let target = Target::from_addr(dst);
        let host = self.name_to_judge(dst.ip(), tell);
        Some(Destined { judged: Target { addr: dst, host }, target, pin: None })
    }

    /// What clients have asked for and got this address.
    pub(crate) fn asked_by(&self, ip: IpAddr) -> Option<AskedBy> {
        self.server.as_ref()?.memory().asked_by(ip, Instant::now)
    }

    /// The name that this address was last asked for by, but none of several where a flow's first bytes `tell` it.
    pub(crate) fn name_to_judge(&self, ip: IpAddr, tell: bool) -> Option<Arc<str>> {
        let asked = self.asked_by(ip).filter(|asked| !tell || asked.doubt != Doubt::Now)?;
        Some(asked.name)
    }

    /// What was done, for `status`.
    pub(crate) fn counters(&self) -> DnsCounters {
        let server = self.server.as_ref().map(Server::counters).unwrap_or_default();
        let client = self.client.counters();
        DnsCounters {
            mode: self.mode.as_str().to_owned(),
            queries: server.queries,
            fake: server.fake,
            cached: server.cached,
            forwarded: server.forwarded,
            failed: server.failed,
            malformed: server.malformed + client.malformed,
            spoofed: client.foreign,
            loops: client.loops,
            names: self.fake.as_ref().map_or(0, |fake| fake.len() as u64),
        }
    }
}

/// The ranges that must neither be sent to nor be taken for real.
pub(crate) fn pools(config: &DnsConfig) -> Vec<IpNet> {
    match config.mode {
        DnsMode::FakeIp => config.fake_ip.pools().to_vec(),
        DnsMode::Real | DnsMode::Off => Vec::new(),
    }
}

/// Says which of the host's routes would take fake addresses elsewhere: more specific ones win over the capture.
pub(crate) fn warn_of_routes(pools: &[IpNet], host: &Snapshot) {
    for pool in pools {
        let overlaps = |net: &IpNet| net.contains(&pool.network()) || pool.contains(&net.network());
        for route in host.routes.iter().filter(|route| route.dst.prefix_len() > 0 && overlaps(&route.dst)) {
            tracing::warn!(route = %route.dst, %pool, "a route of this host takes fake addresses; see dns.fake-ip");
        }
    }
}

fn fake_ip(config: &DnsConfig, families: &[Family], state: &Path) -> Result<FakeIp, EngineError> {
    let settings = &config.fake_ip;
    let exclude = excluded(settings)?;
    let has = |family| families.contains(&family);
    FakeIp::new(FakeIpConfig {
        v4: has(Family::V4).then(|| settings.v4.net()),
        v6: has(Family::V6).then(|| settings.v6.net()),
        exclude,
        file: settings.persist.then(|| state.to_owned()),
        place: oneway_route::netns()?.to_string(),
    })
    .map_err(|error| wrong(&error))
}

/// The names that keep their real addresses.
fn excluded(settings: &FakeIpSettings) -> Result<Patterns, EngineError> {
    let patterns = DEFAULT_EXCLUDED.iter().copied().chain(settings.exclude.iter().map(|p| p.as_str()));
    Patterns::new(patterns).map_err(|error| wrong(&error))
}

fn wrong(why: &dyn std::fmt::Display) -> EngineError {
    EngineError::Config(ConfigErrors::from(ConfigError::new(None, format!("dns.fake-ip: {why}"))))
}

/// Where our own questions go: to these servers, and with `true` before that to the one that a client asked.
pub(crate) fn servers(config: &DnsConfig, egress: &Egress) -> (Vec<SocketAddr>, bool) {
    let config_of_client = client_config(config, egress, None);
    let first = config_of_client.original_first && config.mode != DnsMode::Off;
    (config_of_client.all().filter_map(Upstream::addr).collect(), first)
}

/// The servers that our own questions may go to, whether or not they can be asked.
pub(crate) fn server_addresses(config: &DnsConfig) -> Vec<IpAddr> {
    let (upstreams, _) = upstreams(config, None, None);
    let by_domain = config.domains.iter().flat_map(|(_, list)| made(list, config, None, None));
    upstreams.into_iter().chain(by_domain).filter_map(|upstream| Some(upstream.addr()?.ip())).collect()
}

/// Without any upstream in the configuration, the server that a client asks is the one that it trusts; those of the
/// system are for names that nobody asked a server for.
fn upstreams(config: &DnsConfig, netns: Option<&str>, answers: Option<SocketAddr>) -> (Vec<Upstream>, bool) {
    let original_first = config.upstream.is_empty();
    let list = if original_first { &[DnsUpstream::System][..] } else { &config.upstream };
    (made(list, config, netns, answers), original_first)
}

/// The servers of a list.
fn made(
    list: &[DnsUpstream],
    config: &DnsConfig,
    netns: Option<&str>,
    answers: Option<SocketAddr>,
) -> Vec<Upstream> {
    // systemd-resolved names us among the servers that it knows.
    let others = |server: &SocketAddr| Some(*server) != answers;
    let system = || system_servers(netns).into_iter().filter(others).map(Upstream::Udp);
    let mut upstreams: Vec<Upstream> = Vec::new();
    for upstream in list {
        match upstream {
            DnsUpstream::System => upstreams.extend(system()),
            DnsUpstream::Udp(addr) => upstreams.push(Upstream::Udp(*addr)),
            DnsUpstream::Tcp(addr) => upstreams.push(Upstream::Tcp(*addr)),
            DnsUpstream::Secure(secure) => upstreams.push(Upstream::Secure(Arc::new(Secure::new(
                secure.place.clone(),
                secure.kind.clone(),
                TlsSettings {
                    server_name: secure.server_name.clone(),
                    ca: config.ca.clone(),
                    authorities: config.authorities.clone(),
                    skip_verify: config.skip_verify,
                    ..TlsSettings::default()
                },
            )))),
        }
    }
    upstreams
}

/// The same, once it has been looked which of them cannot be asked.
fn ready(config: ClientConfig) -> ClientConfig {
    for upstream in config.all() {
        if let Upstream::Secure(secure) = upstream
            && let Err(error) = secure.prepare()
        {
            tracing::warn!(server = %upstream, %error, "this DNS upstream cannot be asked");
        }
    }
    config
}

fn client_config(config: &DnsConfig, egress: &Egress, answers: Option<SocketAddr>) -> ClientConfig {
    let strategy = egress.strategy();
    let netns = namespace_of(&strategy);
    let (mut upstreams, original_first) = upstreams(config, netns, answers);
    // What leads into the TUN is ourselves.
    let can_be_asked = |upstream: &Upstream| {
        let checked = match upstream.addr().map_or(Ok(()), |addr| egress.check_addr(addr)) {
            // It is to get one, and nothing is sent there before.
            Err(EgressError::NoHostRoute { .. }) => Ok(()),
            checked => checked,
        };
        if let Err(error) = &checked {
            tracing::warn!(server = %upstream, %error, "this DNS upstream cannot be asked");
        }
        // Without the last of the others the server is asked that a client asks. Instead of one that is asked by TLS that
        // would say in the clear what was to be secret: it stays, and every question to it is refused.
        checked.is_ok() || matches!(upstream, Upstream::Secure(_))
    };
    upstreams.retain(can_be_asked);
    let by_domain = config.domains.iter().filter_map(|(pattern, list)| {
        let mut upstreams = made(list, config, netns, answers);
        upstreams.retain(can_be_asked);
        Some((Patterns::new([pattern.as_str()]).ok()?, upstreams))
    });
    ClientConfig { upstreams, original_first, by_domain: by_domain.collect() }
}

/// The namespace that our own sockets are made in, if it is another one.
fn namespace_of(strategy: &Strategy) -> Option<&str> {
    match strategy {
        Strategy::Netns(namespace) => Some(namespace.name()),
        _ => None,
    }
}

/// Those of the system, or of the namespace that our own sockets are made in, if that has a list of its own.
fn system_servers(netns: Option<&str>) -> Vec<SocketAddr> {
    let read = |path: &str| {
        // Where it names us, those of before count.
        let text = oneway_file::read_text(Path::new(path), limit::SYSTEM);
        nameservers(&resolv_conf_before(&text.unwrap_or_default()))
    };
    if let Some(name) = netns.filter(|name| !name.contains('/')) {
        let servers = read(&format!("{OF_NAMESPACES}/{name}/resolv.conf"));
        if !servers.is_empty() {
            return servers;
        }
    }
    let servers = read(RESOLV_CONF);
    if servers.iter().all(|server| server.ip().is_loopback()) {
        let behind = read(BEHIND_RESOLVED);
        if !behind.is_empty() {
            return behind;
        }
    }
    servers
}
