//! Outbounds as plain data, and the proxy URLs that describe them.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use oneway_outbound::Method;
use oneway_tls::TlsSettings;

use super::group::{GroupSpec, GroupWord};
use super::value::{InvalidValue, either};

/// The name of the outbound that connects without a proxy; always defined.
pub const DIRECT: &str = "direct";
/// The name of the outbound that refuses; always defined.
pub const BLOCK: &str = "block";
/// The name of the outbound that `--proxy` defines.
pub const PROXY: &str = "proxy";

/// How flows leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundSpec {
    /// To the target itself.
    Direct,
    /// Not at all: answered with RST or ICMP.
    Block,
    /// Through a proxy server.
    Proxy(ProxySpec),
    /// By one of several others.
    Group(GroupSpec),
}

impl OutboundSpec {
    /// The word for the kind of outbound, as in `type = "socks5"`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Direct => DIRECT,
            Self::Block => BLOCK,
            Self::Proxy(proxy) => proxy.protocol.as_str(),
            Self::Group(group) => group.kind.as_str(),
        }
    }
}

/// A proxy server and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySpec {
    /// The protocol spoken to the server.
    pub protocol: ProxyProtocol,
    /// The server.
    pub server: Server,
    /// User name and password, if the server wants them. They fit the protocol.
    pub credentials: Option<Credentials>,
    /// Whether a SOCKS5 server that has been seen to take the request together with the greeting is sent both at
    /// once, which saves a round trip.
    pub pipeline: bool,
    /// How the server is known, where it is spoken to by TLS. Trojan always is.
    pub tls: Option<TlsSettings>,
    /// The cipher of a Shadowsocks server; of no other.
    pub method: Option<Method>,
}

/// A protocol for asking a proxy server to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// SOCKS version 5 (RFC 1928, RFC 1929).
    Socks5,
    /// SOCKS version 4, with the 4A extension for names.
    Socks4,
    /// HTTP CONNECT (RFC 9110, 9.3.6).
    Http,
    /// Trojan, which is TLS with a password.
    Trojan,
    /// Shadowsocks.
    Shadowsocks,
}

impl ProxyProtocol {
    /// The word for the protocol, which is also the scheme of its URLs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5",
            Self::Socks4 => "socks4",
            Self::Http => "http",
            Self::Trojan => "trojan",
            Self::Shadowsocks => "shadowsocks",
        }
    }

    /// Names go to the server whenever they are known, so `socks5h` and `socks4a` are the same as without the
    /// letter.
    fn from_word(word: &str) -> Option<Self> {
        match word {
            "socks5" | "socks5h" => Some(Self::Socks5),
            "socks4" | "socks4a" => Some(Self::Socks4),
            "http" => Some(Self::Http),
            "trojan" => Some(Self::Trojan),
            "shadowsocks" => Some(Self::Shadowsocks),
            _ => None,
        }
    }
}

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// The host.
    pub host: ServerHost,
    /// The port, not 0.
    pub port: NonZeroU16,
}

/// The host part of a server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerHost {
    /// An address.
    Ip(IpAddr),
    /// A name in ASCII form, in lower case (RFC 5890), at most 253 bytes.
    Name(String),
}

impl fmt::Display for ServerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Server {
    fn new(host: &str, port: &str) -> Result<Self, InvalidValue> {
        let host = match url::Host::parse(host) {
            Ok(url::Host::Ipv4(ip)) => ServerHost::Ip(ip.into()),
            Ok(url::Host::Ipv6(ip)) => ServerHost::Ip(ip.into()),
            Ok(url::Host::Domain(name)) if name.len() <= 253 => ServerHost::Name(name),
            _ => return Err(InvalidValue(format!("{host:?} is neither a host name nor an address"))),
        };
        let port = port.parse().map_err(|_| InvalidValue(format!("{port:?} is no port; use 1 to 65535")))?;
        Ok(Self { host, port })
    }
}

impl FromStr for Server {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.rsplit_once(':') {
            // An IPv6 address without brackets would lose its last group to the port.
            Some((host, port)) if !host.is_empty() && (!host.contains(':') || host.starts_with('[')) => {
                Self::new(host, port)
            }
            _ => Err(InvalidValue(format!(
                "{text:?} is no server; use HOST:PORT such as proxy.example:1080 or [2001:db8::1]:1080"
            ))),
        }
    }
}

/// What a proxy server asks of its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name; empty for Trojan and Shadowsocks, which have none.
    pub username: String,
    /// The password; empty for SOCKS4, which has none.
    pub password: Secret,
}

/// A text that is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"…\"")
    }
}

impl Credentials {
    /// Checks user name and password against what the protocol can carry. `Ok(None)` if both are missing.
    pub(super) fn new(
        protocol: ProxyProtocol,
        username: Option<String>,
        password: Option<String>,
    ) -> Result<Option<Self>, InvalidValue> {
        let alone = match protocol {
            ProxyProtocol::Trojan => Some("Trojan"),
            ProxyProtocol::Shadowsocks => Some("Shadowsocks"),
            _ => None,
        };
        if let Some(who) = alone {
            return match (username, password) {
                (Some(_), _) => Err(InvalidValue(format!("{who} has no user name, only a password"))),
                (None, Some(password)) if (1..=255).contains(&password.len()) => {
                    Ok(Some(Self { username: String::new(), password: Secret(password) }))
                }
                (None, _) => Err(InvalidValue(format!("{who} needs a `password` of 1 to 255 bytes"))),
            };
        }
        let Some(username) = username else {
            return match password {
                Some(_) => Err(InvalidValue("a password needs a user name".to_owned())),
                None => Ok(None),
            };
        };
        let wrong = match protocol {
            ProxyProtocol::Socks4 if password.is_some() => Some("SOCKS4 has no password, only a user name"),
            ProxyProtocol::Socks4 if username.contains('\0') => Some("a SOCKS4 user name ends at a NUL byte"),
            ProxyProtocol::Socks5 if !(1..=255).contains(&username.len()) => {
                Some("a SOCKS5 user name has 1 to 255 bytes (RFC 1929)")
            }
            ProxyProtocol::Socks5 if !password.as_ref().is_some_and(|p| (1..=255).contains(&p.len())) => {
                Some("a SOCKS5 password has 1 to 255 bytes (RFC 1929)")
            }
            ProxyProtocol::Http if username.contains(':') => {
                Some("an HTTP user name has no colon (RFC 7617)")
            }
            _ => None,
        };
        match wrong {
            Some(why) => Err(InvalidValue(why.to_owned())),
            None => Ok(Some(Self { username, password: Secret(password.unwrap_or_default()) })),
        }
    }
}

const URL_HINT: &str = "use one such as socks5://user:password@proxy.example:1080";

impl FromStr for ProxySpec {
    type Err = InvalidValue;

    /// Parses `socks5://[user:pass@]host:port`, `socks5h`, `socks4`, `socks4a`, `http`, `https` and
    /// `trojan://password@host:port`. The port is required:
    /// there is no default that all proxy programs agree on. Passwords never appear in the error.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| InvalidValue(format!("this is no proxy URL; {URL_HINT}")))?;
        let scheme = scheme.to_ascii_lowercase();
        let word = if scheme == "https" { "http" } else { &scheme };
        // A Shadowsocks server has a cipher besides, which its URLs hide in Base64.
        let protocol = ProxyProtocol::from_word(word).filter(|found| *found != ProxyProtocol::Shadowsocks);
        let protocol = protocol.ok_or_else(|| {
            let words = either(&["socks5", "socks5h", "socks4", "socks4a", "http", "https", "trojan"]);
            InvalidValue(format!("{scheme:?} is no proxy protocol; use {words}"))
        })?;
        let is_tls = protocol == ProxyProtocol::Trojan || scheme == "https";
        // Under a scheme that the URL standard does not know the port stays as written; for `http` it would drop
        // port 80 and so accept a URL without one.
        let url = url::Url::parse(&format!("proxy://{rest}"))
            .map_err(|e| InvalidValue(format!("this is no proxy URL: {e}; {URL_HINT}")))?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidValue(format!("a proxy URL ends with the port; {URL_HINT}")));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| InvalidValue(format!("the proxy URL has no host; {URL_HINT}")))?;
        let port =
            url.port().ok_or_else(|| InvalidValue(format!("the proxy URL has no port; {URL_HINT}")))?;
        let server = Server::new(&percent_decoded(host)?, &port.to_string())?;
        let username = (!url.username().is_empty()).then(|| percent_decoded(url.username())).transpose()?;
        let password = url.password().map(percent_decoded).transpose()?;
        let (username, password) = match (protocol, username, password) {
            (ProxyProtocol::Trojan, Some(password), None) => (None, Some(password)),
            (_, username, password) => (username, password),
        };
        let credentials = Credentials::new(protocol, username, password)?;
        Ok(Self {
            protocol,
            server,
            credentials,
            pipeline: true,
            tls: is_tls.then(TlsSettings::default),
            method: None,
        })
    }
}

/// Undoes percent-encoding (RFC 3986, 2.1).
fn percent_decoded(text: &str) -> Result<String, InvalidValue> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(|decoded| decoded.into_owned())
        .map_err(|_| InvalidValue("the proxy URL is not UTF-8 once decoded".to_owned()))
}

/// Reads the `type` of an outbound. `Err` for kinds of a later version and for unknown ones.
pub(super) fn kind_from_word(word: &str) -> Result<OutboundKind, InvalidValue> {
    if let Some(protocol) = ProxyProtocol::from_word(word) {
        return Ok(OutboundKind::Proxy(protocol));
    }
    match word {
        DIRECT => Ok(OutboundKind::Direct),
        BLOCK => Ok(OutboundKind::Block),
        _ => match GroupWord::from_word(word) {
            Some(word) => Ok(OutboundKind::Group(word)),
            None => Err(InvalidValue(format!("{word:?} is no type of outbound; use {}", either(&types())))),
        },
    }
}

/// Every `type` of an outbound.
pub(super) fn types() -> Vec<&'static str> {
    [DIRECT, BLOCK, "socks5", "socks4", "http", "trojan", "shadowsocks"]
        .into_iter()
        .chain(GroupWord::WORDS)
        .collect()
}

/// The `type` of an outbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutboundKind {
    Direct,
    Block,
    Proxy(ProxyProtocol),
    Group(GroupWord),
}
