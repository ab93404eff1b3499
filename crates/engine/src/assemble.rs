//! From the configuration to the parts of the data path.

mod rules;

use std::sync::Arc;

use ipnet::IpNet;
use oneway_outbound::{
    Credentials, Outbound, OutboundConfig, Protocol, ProxyConfig, Resolve, SystemResolver, Timeouts,
};
use oneway_route as route;
use oneway_rule::OutboundId;

use crate::config::{
    Config, ConfigError, ConfigErrors, DnsMode, OutboundSpec, Protect, ProxyProtocol, ProxySpec, ServerHost,
    canonical,
};
use crate::dispatch::{Dispatch, Entry};
use crate::error::EngineError;
use crate::group::Group;

/// Asks the system for the names of proxies: while nothing is captured.
pub(crate) fn system_resolver() -> Arc<dyn Resolve> {
    Arc::new(SystemResolver)
}

/// The outbounds and the rules that choose among them, and what the user should know about the rules.
///
/// `resolver` is asked for the names of proxies.
pub(crate) fn dispatch(
    config: &Config,
    resolver: &Arc<dyn Resolve>,
) -> Result<(Dispatch, Vec<ConfigError>), EngineError> {
    // What was read from a file was checked then, and is right.
    config.check().map_err(EngineError::Config)?;
    let mut errors = Vec::new();
    let mut entries = Vec::new();
    for (name, spec) in &config.outbounds {
        if let OutboundSpec::Group(spec) = spec {
            // All of them are outbounds: that was checked.
            let members: Vec<_> = spec.members.iter().filter_map(|member| number(config, member)).collect();
            let group = Group::new(spec.kind, spec.check.clone(), members.iter().map(|id| id.0).collect());
            entries.push(Entry::group(name, spec.kind.as_str(), group));
            continue;
        }
        match outbound(spec, resolver) {
            Ok(outbound) => entries.push(Entry::new(name, spec.kind(), server(spec), outbound)),
            Err(why) => errors.push(ConfigError::new(None, format!("outbound {name:?}: {why}"))),
        }
    }
    let outbound = |name: &str| number(config, name);
    let last = outbound(&config.rules.final_outbound);
    if last.is_none() {
        let name = &config.rules.final_outbound;
        errors.push(ConfigError::new(None, format!("the final outbound {name:?} is not defined")));
    }
    let rules = rules::compile(
        &config.rules,
        &outbound,
        last.unwrap_or(OutboundId(0)),
        has_names(config),
        true,
        &mut errors,
    );
    match (ConfigErrors::collect(errors), rules) {
        (None, Some((rules, warnings))) => {
            let dispatch = Dispatch::new(rules, "MATCH", entries);
            let dispatch = dispatch.excluding(config.capture.exclude_process.clone());
            let dispatch = dispatch.without_circles(config.without.has(route::Safeguard::Circle));
            Ok((dispatch.sniffing(config.sniff.clone()), warnings))
        }
        (Some(errors), _) => Err(EngineError::Config(errors)),
        (None, None) => Err(EngineError::Unsupported {
            what: "a configuration whose rules cannot be compiled".to_owned(),
            where_: "at all",
            instead: "`oneway check` says why",
        }),
    }
}

/// Finds what is wrong with the rules of a configuration in which something else is wrong: what that is about has something else
/// in its place here. `lacks_database`: what is one of them is a database.
pub(crate) fn check_rules(config: &Config, lacks_database: bool, errors: &mut Vec<ConfigError>) {
    let outbound = |name: &str| number(config, name);
    rules::compile(&config.rules, &outbound, OutboundId(0), has_names(config), !lacks_database, errors);
}

/// Whether anything tells the names of flows.
fn has_names(config: &Config) -> bool {
    config.dns.mode != DnsMode::Off || config.sniff.enable
}

/// The number of an outbound. Clash's own names for the two that always exist are known, too.
fn number(config: &Config, name: &str) -> Option<OutboundId> {
    let find = |name: &str| config.outbounds.keys().position(|found| found == name);
    let at = find(name).or_else(|| find(canonical(name)?))?;
    u32::try_from(at).ok().map(OutboundId)
}

fn outbound(spec: &OutboundSpec, resolver: &Arc<dyn Resolve>) -> Result<Outbound, String> {
    let config = match spec {
        OutboundSpec::Direct => OutboundConfig::Direct,
        // A group makes no connections, its members do.
        OutboundSpec::Block | OutboundSpec::Group(_) => OutboundConfig::Block,
        OutboundSpec::Proxy(proxy) => OutboundConfig::Proxy(proxy_config(proxy)?),
    };
    Ok(Outbound::new(&config, Timeouts::default(), Arc::clone(resolver)))
}

fn proxy_config(proxy: &ProxySpec) -> Result<ProxyConfig, String> {
    let credentials = match &proxy.credentials {
        // A password is what these have alone.
        Some(c) if matches!(proxy.protocol, ProxyProtocol::Trojan | ProxyProtocol::Shadowsocks) => {
            Some(Credentials::new(proxy.protocol.as_str(), c.password.expose()).map_err(|e| e.to_string())?)
        }
        Some(c) => {
            Some(Credentials::new(c.username.clone(), c.password.expose()).map_err(|e| e.to_string())?)
        }
        None => None,
    };
    Ok(ProxyConfig {
        protocol: match proxy.protocol {
            ProxyProtocol::Socks5 => Protocol::Socks5,
            // A name is sent where one is known, an address otherwise: 4a is 4 with that.
            ProxyProtocol::Socks4 => Protocol::Socks4a,
            ProxyProtocol::Http => Protocol::Http,
            ProxyProtocol::Trojan => Protocol::Trojan,
            ProxyProtocol::Shadowsocks => {
                Protocol::Shadowsocks(proxy.method.ok_or("a Shadowsocks server without its method")?)
            }
        },
        host: match &proxy.server.host {
            ServerHost::Ip(ip) => ip.to_string(),
            ServerHost::Name(name) => name.clone(),
        },
        port: proxy.server.port.get(),
        credentials,
        // What saves a round trip of a SOCKS5 handshake may need a connection of its own to be tried.
        pipeline: proxy.pipeline && proxy.tls.is_none(),
        tls: proxy.tls.clone(),
    })
}

fn server(spec: &OutboundSpec) -> Option<String> {
    match spec {
        OutboundSpec::Direct | OutboundSpec::Block | OutboundSpec::Group(_) => None,
        OutboundSpec::Proxy(proxy) => Some(proxy.server.to_string()),
    }
}

/// What the route planner is asked for.
pub(crate) fn request(config: &Config, protect: route::Protect) -> route::Request {
    let defaults = route::Request::default();
    route::Request {
        tun_name: config.tun.name.as_ref().map(|name| name.as_str().to_owned()),
        tun_addresses: config.tun.addresses.iter().map(|address| address.net()).collect(),
        mtu: config.tun.mtu.map_or(defaults.mtu, |mtu| mtu.get().into()),
        include: include(config),
        exclude: config.capture.exclude.iter().map(|prefix| prefix.net()).collect(),
        exclude_uids: config.capture.exclude_uid.iter().map(|uid| uid.get()).collect(),
        // They are looked for on the host.
        exclude_cgroups: Vec::new(),
        forwarded: config.capture.forwarded,
        mark: config.egress.mark.map(|mark| route::Mark(mark.get())),
        // The host's state decides, and the plan of before.
        track: false,
        interface: config.egress.interface.as_ref().map(|name| name.as_str().to_owned()),
        protect,
        root: false,
        user: None,
        ports: None,
        group: None,
        servers: Vec::new(),
        device_is_ours: config.tun.fd.is_none(),
        ipv6: config.capture.ipv6,
        strict: config.capture.strict,
        // Its port is chosen when there are listeners.
        redirect: None,
        tproxy: None,
        // The host's settings are looked at when there is a device.
        resolver: None,
    }
}

/// All that our own sockets ever connect to where every flow goes by a proxy: the proxies, as far as their addresses are
/// known, and the DNS servers.
pub(crate) fn servers(dispatch: &Dispatch, dns: &[std::net::IpAddr]) -> Vec<std::net::IpAddr> {
    let proxies = dispatch.entries().iter().filter_map(|entry| entry.outbound.proxy());
    let addresses = proxies.flat_map(|proxy| proxy.addrs().iter().map(|a| a.ip()).collect::<Vec<_>>());
    let mut servers: Vec<_> = addresses.chain(dns.iter().copied()).map(|ip| ip.to_canonical()).collect();
    servers.sort();
    servers.dedup();
    servers
}

/// What is captured. Fake addresses must be, whatever else is: they mean nothing to anybody else.
fn include(config: &Config) -> Vec<IpNet> {
    let mut include: Vec<_> = config.capture.include.iter().map(|prefix| prefix.net()).collect();
    if !include.is_empty() && config.dns.mode == DnsMode::FakeIp {
        include.extend(config.dns.fake_ip.pools());
    }
    include
}

/// The strategy in the words of the crate that carries it out.
pub(crate) fn protect(config: &Config) -> oneway_egress::Protect {
    match config.egress.protect {
        Protect::Auto => oneway_egress::Protect::Auto,
        Protect::Mark => oneway_egress::Protect::Mark,
        Protect::MarkTerminal => oneway_egress::Protect::MarkTerminal,
        Protect::MarkIfgroup => oneway_egress::Protect::MarkIfgroup,
        Protect::Bind => oneway_egress::Protect::Bind,
        Protect::SourceRule => oneway_egress::Protect::SourceRule,
        Protect::HostRoute => oneway_egress::Protect::HostRoute,
        Protect::HostRouteHalves => oneway_egress::Protect::HostRouteHalves,
        Protect::Netns => oneway_egress::Protect::Netns,
    }
}
