//! What the configuration says about DNS.

use std::fmt;
use std::str::FromStr;

use super::value::{DnsMode, InvalidValue, Prefix};

/// How captured DNS is answered. Carried into the configuration as it was written; this version carries DNS like
/// any other traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// The mode that was asked for; `None` when nothing was said.
    pub mode: Option<DnsMode>,
    /// The resolvers to ask, in order.
    pub upstream: Vec<DnsUpstream>,
    /// Settings of the mode `fake-ip`.
    pub fake_ip: FakeIpConfig,
}

/// Settings of the mode `fake-ip`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeIpConfig {
    /// The range that fake IPv4 addresses are taken from.
    pub v4: Option<Prefix>,
    /// The range that fake IPv6 addresses are taken from.
    pub v6: Option<Prefix>,
    /// Whether the addresses given out are remembered across restarts.
    pub persist: Option<bool>,
    /// Patterns of names that get their real addresses.
    pub exclude: Vec<String>,
}

/// A resolver: `system`, or a URL with the scheme `udp`, `tcp`, `tls` or `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsUpstream {
    /// What the operating system is set to use.
    System,
    /// A resolver with an address of its own.
    Url(url::Url),
}

impl fmt::Display for DnsUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl FromStr for DnsUpstream {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text == "system" {
            return Ok(Self::System);
        }
        match url::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "udp" | "tcp" | "tls" | "https") && url.has_host() => {
                Ok(Self::Url(url))
            }
            _ => Err(InvalidValue(format!(
                "{text:?} is no DNS upstream; use system, udp://, tcp://, tls:// or https:// and a host"
            ))),
        }
    }
}
