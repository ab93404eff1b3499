//! What only the settings together show; and what a program may have got wrong that has made the [`Config`] itself, so that nobody
//! has looked at its parts.

use oneway_dns::Patterns;

use super::dns::{DnsUpstream, NamePattern, SecureUpstream, cycle, wrong_domain};
use super::error::{ConfigError, Origin};
use super::outbound::{BLOCK, Credentials, DIRECT, OutboundSpec, ProxyProtocol, ProxySpec};
use super::value::{DnsMode, Protect};
use super::{Config, Origins, group};

/// Finds what does not go together. `origins` is where the settings stood.
pub(super) fn check(config: &Config, origins: &Origins, errors: &mut Vec<ConfigError>) {
    let mut wrong = |origin: &Option<Origin>, message: String| {
        errors.push(ConfigError::new(origin.clone(), message));
    };
    group::check(&config.outbounds, &mut |name, why| {
        wrong(&origins.outbounds.get(name).cloned(), format!("outbound.{name}: {why}"));
    });
    tun(config, origins, &mut wrong);
    protection(config, origins, &mut wrong);
    resolvers(config, origins, &mut wrong);
    fake_addresses(config, origins, &mut wrong);
}

/// Finds what is wrong with the parts.
pub(super) fn check_parts(config: &Config, errors: &mut Vec<ConfigError>) {
    let mut wrong = |message: String| errors.push(ConfigError::new(None, message));
    for (name, always) in [(DIRECT, OutboundSpec::Direct), (BLOCK, OutboundSpec::Block)] {
        if config.outbounds.get(name) != Some(&always) {
            wrong(format!("outbound.{name}: this outbound always exists and cannot be redefined"));
        }
    }
    for (name, spec) in &config.outbounds {
        if let OutboundSpec::Proxy(proxy) = spec
            && let Err(why) = speakable(proxy)
        {
            wrong(format!("outbound.{name}: {why}"));
        }
    }
    for (pattern, upstreams) in &config.dns.domains {
        if let Some(why) = wrong_domain(pattern.as_str(), upstreams) {
            wrong(format!("dns.domains: {why}"));
        }
    }
    let of_domains = config.dns.domains.iter().flat_map(|(_, upstreams)| upstreams);
    for upstream in config.dns.upstream.iter().chain(of_domains) {
        if let DnsUpstream::Secure(SecureUpstream { server_name: Some(name), .. }) = upstream
            && let Err(why) = oneway_tls::check_name(name)
        {
            wrong(format!("dns.upstream: {upstream}: {why}"));
        }
    }
}

/// Whether the protocol has room for what it is to carry.
fn speakable(proxy: &ProxySpec) -> Result<(), String> {
    let given = proxy.credentials.as_ref();
    let username = given.map(|known| known.username.clone()).filter(|name| !name.is_empty());
    let password = given.map(|known| known.password.expose());
    // SOCKS4 has none, and HTTP an empty one where none is given.
    let password = password.filter(|word| proxy.protocol != ProxyProtocol::Socks4 || !word.is_empty());
    Credentials::new(proxy.protocol, username, password.map(str::to_owned)).map_err(|why| why.to_string())?;
    if let (Some(method), Some(password)) = (proxy.method, password) {
        method.check(password).map_err(|why| why.to_string())?;
    }
    if proxy.protocol == ProxyProtocol::Shadowsocks && proxy.method.is_none() {
        return Err("a Shadowsocks server has a method".to_owned());
    }
    match (proxy.protocol, &proxy.tls) {
        (ProxyProtocol::Trojan, None) => {
            Err("Trojan is spoken by TLS; say how the server is known".to_owned())
        }
        (ProxyProtocol::Socks4 | ProxyProtocol::Shadowsocks, Some(_)) => {
            Err(format!("{} is not spoken by TLS", proxy.protocol.as_str()))
        }
        (_, Some(tls)) => tls
            .server_name
            .as_deref()
            .map_or(Ok(()), |name| oneway_tls::check_name(name).map_err(|e| e.to_string())),
        (_, None) => Ok(()),
    }
}

fn tun(config: &Config, origins: &Origins, wrong: &mut dyn FnMut(&Option<Origin>, String)) {
    let tun = &config.tun;
    if tun.name.is_some() && tun.fd.is_some() {
        let message =
            "a device that is handed over has a name already; give a name or a descriptor, not both";
        wrong(&origins.tun_name, message.to_owned());
    }
    let v4 = tun.addresses.iter().filter(|address| address.net().addr().is_ipv4()).count();
    if v4 > 1 || tun.addresses.len() - v4 > 1 {
        wrong(&origins.tun_addresses, "a TUN device has at most one address of each family".to_owned());
    }
}

/// What a protection cannot protect, and what says nothing without it.
fn protection(config: &Config, origins: &Origins, wrong: &mut dyn FnMut(&Option<Origin>, String)) {
    let (egress, outbounds) = (&config.egress, &config.outbounds);
    let protect = egress.protect;
    let is_direct =
        |name: &str| name == "DIRECT" || matches!(outbounds.get(name), Some(OutboundSpec::Direct));
    let mut direct = outbounds.keys().map(String::as_str).filter(|name| is_direct(name)).chain(["DIRECT"]);
    let grouped = outbounds.iter().find(|(_, spec)| match spec {
        OutboundSpec::Group(group) => group.members.iter().any(|member| is_direct(member)),
        _ => false,
    });
    let by = if is_direct(&config.rules.final_outbound) {
        Some("the final outbound is direct".to_owned())
    } else if direct.any(|name| config.rules.mention(name)) {
        Some("a rule leads to direct".to_owned())
    } else {
        grouped.map(|(name, _)| format!("the group {name:?} has a direct member"))
    };
    match (protect, by) {
        (Protect::HostRoute | Protect::HostRouteHalves, Some(by)) => wrong(
            &origins.protect,
            format!(
                "{protect} cannot protect direct connections to arbitrary destinations, and {by}; send everything by a \
                 proxy, or use mark"
            ),
        ),
        (Protect::Netns, _) if egress.netns.is_none() => {
            let message = "netns needs a namespace; name one with egress.netns, or use mark";
            wrong(&origins.protect, message.to_owned());
        }
        _ => {}
    }
    // An address leaves by the device that the host's routes have for it, which may be a rule by source.
    let keeps = matches!(protect, Protect::Auto | Protect::Bind | Protect::SourceRule | Protect::Netns);
    if egress.interface.is_some() && !keeps {
        let message = format!(
            "{protect} follows the host's routes and does not keep to an interface; use bind, or leave one of the two out"
        );
        wrong(&origins.interface, message);
    }
    if egress.netns.is_some() {
        if !matches!(protect, Protect::Auto | Protect::Netns) {
            let message =
                format!("a namespace for protection by {protect} has no meaning; use netns, or leave it out");
            wrong(&origins.netns, message);
        }
        if egress.interface.is_some() {
            let message = "an interface cannot be pinned in another namespace; leave one of the two out";
            wrong(&origins.netns, message.to_owned());
        }
    }
}

/// A resolver given by name is found by those that are not, and by marked sockets or such as are bound.
fn resolvers(config: &Config, origins: &Origins, wrong: &mut dyn FnMut(&Option<Origin>, String)) {
    let (dns, protect) = (&config.dns, config.egress.protect);
    let origin = &origins.dns_upstream;
    if let Some(named) = dns.upstream.iter().find(|upstream| upstream.name().is_some()) {
        let is_found = |name: &str| {
            let fits =
                |pattern: &NamePattern| Patterns::new([pattern.as_str()]).is_ok_and(|p| p.matches(name));
            dns.domains.iter().any(|(pattern, _)| fits(pattern))
        };
        let lost = |upstream: &&DnsUpstream| upstream.name().is_none_or(|name| !is_found(name));
        if dns.upstream.iter().all(|upstream| upstream.name().is_some())
            && let Some(lost) = dns.upstream.iter().find(lost)
        {
            let cycle = cycle(&lost.to_string());
            wrong(
                origin,
                format!("dns.upstream: {cycle}, or add a resolver that has one, such as udp://9.9.9.9"),
            );
        }
        if matches!(protect, Protect::HostRoute | Protect::HostRouteHalves) {
            let message = format!(
                "dns.upstream: {named}: {protect} needs the address of each server beforehand; give its address, and its \
                 name behind it as in tls://192.0.2.53#dns.example"
            );
            wrong(origin, message);
        }
    }
}

fn fake_addresses(config: &Config, origins: &Origins, wrong: &mut dyn FnMut(&Option<Origin>, String)) {
    if config.dns.mode != DnsMode::FakeIp {
        return;
    }
    let excluded = config.capture.exclude.iter().map(|net| (&origins.exclude, net.net()));
    let tun = config.tun.addresses.iter().map(|address| (&origins.tun_addresses, address.net()));
    for pool in config.dns.fake_ip.pools() {
        let overlaps = |net: &ipnet::IpNet| net.contains(&pool.network()) || pool.contains(&net.network());
        for (origin, net) in excluded.clone().chain(tun.clone()).filter(|(_, net)| overlaps(net)) {
            wrong(origin, format!("{net} overlaps the fake addresses {pool}; see dns.fake-ip"));
        }
    }
}
