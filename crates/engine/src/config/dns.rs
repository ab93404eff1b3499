//! What the configuration says about DNS.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oneway_dns::{Patterns, Place, SecureKind};
use oneway_tls::Authorities;

use super::value::{DnsMode, HostResolver, InvalidValue};

/// How captured DNS is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// What queries are answered with.
    pub mode: DnsMode,
    /// The resolvers to ask, in order; empty: the server that a client asked, and those of the system.
    pub upstream: Vec<DnsUpstream>,
    /// The resolvers to ask for some names instead, those with the most labels first.
    pub domains: Vec<(NamePattern, Vec<DnsUpstream>)>,
    /// A PEM file with the only authorities that resolvers asked by TLS are known by; without it those of the system.
    pub ca: Option<PathBuf>,
    /// What was in that file.
    pub authorities: Option<Authorities>,
    /// Whether resolvers asked by TLS are trusted whoever they are.
    pub skip_verify: bool,
    /// Whether this host's programs are told to ask here.
    pub resolver: HostResolver,
    /// Settings of the mode `fake-ip`.
    pub fake_ip: FakeIpConfig,
}

/// Settings of the mode `fake-ip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeIpConfig {
    /// The range that fake IPv4 addresses are taken from.
    pub v4: FakePoolV4,
    /// The range that fake IPv6 addresses are taken from.
    pub v6: FakePoolV6,
    /// Whether the addresses given out are remembered across restarts.
    pub persist: bool,
    /// Patterns of names that get their real addresses, besides those of
    /// [`DEFAULT_EXCLUDED`](oneway_dns::DEFAULT_EXCLUDED).
    pub exclude: Vec<NamePattern>,
}

impl Default for FakeIpConfig {
    fn default() -> Self {
        Self { v4: FakePoolV4::default(), v6: FakePoolV6::default(), persist: true, exclude: Vec::new() }
    }
}

impl FakeIpConfig {
    /// Both ranges.
    pub fn pools(&self) -> [IpNet; 2] {
        [IpNet::V4(self.v4.net()), IpNet::V6(self.v6.net())]
    }
}

/// What the file says, before the defaults are filled in.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeIpSettings {
    pub(super) v4: Option<FakePoolV4>,
    pub(super) v6: Option<FakePoolV6>,
    pub(super) persist: Option<bool>,
    pub(super) exclude: Vec<NamePattern>,
}

impl From<FakeIpSettings> for FakeIpConfig {
    fn from(settings: FakeIpSettings) -> Self {
        let defaults = Self::default();
        Self {
            v4: settings.v4.unwrap_or(defaults.v4),
            v6: settings.v6.unwrap_or(defaults.v6),
            persist: settings.persist.unwrap_or(defaults.persist),
            exclude: settings.exclude,
        }
    }
}

/// A range of IPv4 addresses with room for some names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakePoolV4(Ipv4Net);

/// A range of IPv6 addresses with room for some names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakePoolV6(Ipv6Net);

impl FakePoolV4 {
    /// The longest prefix: 14 names.
    const LONGEST: u8 = 28;

    /// The range; its host bits are zero.
    pub const fn net(self) -> Ipv4Net {
        self.0
    }
}

impl FakePoolV6 {
    const LONGEST: u8 = 124;

    /// The range; its host bits are zero.
    pub const fn net(self) -> Ipv6Net {
        self.0
    }
}

impl Default for FakePoolV4 {
    /// 198.18.0.0/15, which is for measurements (RFC 2544) and so used by nobody.
    fn default() -> Self {
        Self(Ipv4Net::new_assert([198, 18, 0, 0].into(), 15))
    }
}

impl Default for FakePoolV6 {
    /// fc00:18::/64, in the half of the unique local addresses that nobody may choose (RFC 4193, 3.2).
    fn default() -> Self {
        Self(Ipv6Net::new_assert([0xfc00, 0x18, 0, 0, 0, 0, 0, 0].into(), 64))
    }
}

impl FromStr for FakePoolV4 {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse::<Ipv4Net>() {
            Ok(net) if leads_nowhere(net.into()) => Err(is_never_captured(text, "198.18.0.0/15")),
            Ok(net) if net.prefix_len() <= Self::LONGEST && net.trunc() == net => Ok(Self(net)),
            _ => Err(InvalidValue(format!(
                "{text:?} is no range of IPv4 addresses for names; use one of at least 16, such as 198.18.0.0/15"
            ))),
        }
    }
}

impl FromStr for FakePoolV6 {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse::<Ipv6Net>() {
            Ok(net) if leads_nowhere(net.into()) => Err(is_never_captured(text, "fc00:18::/64")),
            Ok(net) if net.prefix_len() <= Self::LONGEST && net.trunc() == net => Ok(Self(net)),
            _ => Err(InvalidValue(format!(
                "{text:?} is no range of IPv6 addresses for names; use one of at least 16, such as fc00:18::/64"
            ))),
        }
    }
}

/// Whether a range has addresses that are never captured, or are martians.
fn leads_nowhere(range: IpNet) -> bool {
    let martians = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8));
    let mut never = oneway_route::never_captured().into_iter().chain([martians]);
    never.any(|never| never.contains(&range) || range.contains(&never))
}

/// Names with such addresses would lead nowhere.
fn is_never_captured(text: &str, instead: &str) -> InvalidValue {
    InvalidValue(format!(
        "{text:?} has addresses that are never captured (loopback, link-local, multicast); use a range such as {instead}"
    ))
}

/// A pattern of names in the notation of Clash: `example.com`, `*.example.com`, `.example.com`, `+.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NamePattern {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match Patterns::new([text]) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(why) => Err(InvalidValue(why.to_string())),
        }
    }
}

/// A resolver: `system`, or a URL with the scheme `udp`, `tcp`, `tls`, `https` or `quic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsUpstream {
    /// What the operating system is set to use.
    System,
    /// Over UDP, and over TCP what does not fit.
    Udp(SocketAddr),
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over TLS (RFC 7858), HTTPS (RFC 8484) or QUIC (RFC 9250).
    Secure(SecureUpstream),
}

/// A resolver that is asked by TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureUpstream {
    /// Where it is.
    pub place: Place,
    /// What is spoken on TLS, or by it.
    pub kind: SecureKind,
    /// The name that its certificate is for, where that is not its address or name: the fragment of the URL.
    pub server_name: Option<String>,
}

impl DnsUpstream {
    /// The name that has to be resolved before it can be asked.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Secure(SecureUpstream { place: Place::Name(name, _), .. }) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for DnsUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secure = match self {
            Self::System => return f.write_str("system"),
            Self::Udp(addr) => return write!(f, "udp://{addr}"),
            Self::Tcp(addr) => return write!(f, "tcp://{addr}"),
            Self::Secure(secure) => secure,
        };
        let (scheme, path) = match &secure.kind {
            SecureKind::Tls => ("tls", ""),
            SecureKind::Https { path } => ("https", path.as_str()),
            SecureKind::Quic => ("quic", ""),
        };
        match &secure.place {
            Place::Addr(addr) => write!(f, "{scheme}://{addr}{path}")?,
            Place::Name(name, port) => write!(f, "{scheme}://{name}:{port}{path}")?,
        }
        secure.server_name.as_ref().map_or(Ok(()), |name| write!(f, "#{name}"))
    }
}

/// The path that resolvers are asked by if the URL has none; most use it.
const DNS_QUERY: &str = "/dns-query";

impl FromStr for DnsUpstream {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text == "system" {
            return Ok(Self::System);
        }
        let wrong = || {
            InvalidValue(format!(
                "{text:?} is no DNS upstream; use system, or udp://, tcp://, tls://, https:// or quic:// and an address, such \
                 as udp://9.9.9.9 or https://9.9.9.9/dns-query"
            ))
        };
        let url = url::Url::parse(text).map_err(|_| wrong())?;
        let default_port = match url.scheme() {
            "udp" | "tcp" => 53,
            "tls" | "quic" => 853,
            "https" => 443,
            _ => return Err(wrong()),
        };
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return Err(wrong()) };
        let (is_https, is_clear) = (url.scheme() == "https", matches!(url.scheme(), "udp" | "tcp"));
        let bare = matches!(url.path(), "" | "/");
        let beside = !url.username().is_empty() || url.password().is_some() || url.query().is_some();
        if beside || (!is_https && !bare) || (url.fragment().is_some() && is_clear) {
            return Err(wrong());
        }
        let port = url.port().unwrap_or(default_port);
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        if port == 0 || ip.is_some_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
            return Err(wrong());
        }
        // What is there is DNS in the clear (RFC 9250, 4.1.1).
        if url.scheme() == "quic" && port == 53 {
            return Err(InvalidValue(format!("{text:?}: port 53 is not for QUIC; the usual one is 853")));
        }
        let place = match ip {
            Some(ip) => Place::Addr(SocketAddr::new(ip.to_canonical(), port)),
            None => Place::Name(Arc::from(host.to_ascii_lowercase()), port),
        };
        let kind = match (url.scheme(), &place) {
            ("tls", _) => SecureKind::Tls,
            ("quic", _) => SecureKind::Quic,
            ("https", _) => {
                SecureKind::Https { path: if bare { DNS_QUERY.to_owned() } else { url.path().to_owned() } }
            }
            ("tcp", Place::Addr(addr)) => return Ok(Self::Tcp(*addr)),
            (_, Place::Addr(addr)) => return Ok(Self::Udp(*addr)),
            (_, Place::Name(..)) => return Err(cycle(text)),
        };
        let server_name = url.fragment().filter(|name| !name.is_empty()).map(str::to_owned);
        if let Some(name) = &server_name {
            oneway_tls::check_name(name).map_err(|error| InvalidValue(format!("{text:?}: {error}")))?;
        }
        Ok(Self::Secure(SecureUpstream { place, kind, server_name }))
    }
}

/// What is wrong with the resolvers of some names.
pub(super) fn wrong_domain(pattern: &str, upstreams: &[DnsUpstream]) -> Option<String> {
    match upstreams.iter().find(|upstream| upstream.name().is_some()) {
        _ if upstreams.is_empty() => Some(format!("{pattern:?} has no resolver; list at least one")),
        Some(named) => Some(format!(
            "{named} is given by name; give its address, and its name behind it as in tls://192.0.2.53#dns.example"
        )),
        None => None,
    }
}

/// A resolver that only another one could find.
pub(super) fn cycle(text: &str) -> InvalidValue {
    InvalidValue(format!(
        "{text:?} is a cycle: to ask this resolver its own name would have to be resolved first, and DNS is captured; \
         give its address"
    ))
}
