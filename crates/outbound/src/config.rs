//! What an outbound is, as the user writes it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use oneway_tls::TlsSettings;

use crate::Method;

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 1928. Carries TCP and UDP; is given names where they are known.
    Socks5,
    /// Carries TCP to IPv4 addresses.
    Socks4,
    /// The same, and is given names where they are known.
    Socks4a,
    /// HTTP `CONNECT`. Carries TCP; is given names where they are known.
    Http,
    /// Trojan, on TLS. Carries TCP and UDP; is given names where they are known.
    Trojan,
    /// Shadowsocks. Carries TCP and UDP; is given names where they are known.
    Shadowsocks(Method),
}

impl Protocol {
    /// The scheme in URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5",
            Self::Socks4 => "socks4",
            Self::Socks4a => "socks4a",
            Self::Http => "http",
            Self::Trojan => "trojan",
            Self::Shadowsocks(_) => "ss",
        }
    }
}

/// User and password for a proxy. Cheap to clone; `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(Arc<(String, String)>);

impl Credentials {
    /// A user and a password of at most 255 bytes each (RFC 1929, section 2); the user at least one.
    ///
    /// # Errors
    /// One line on what does not fit.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Result<Self, UrlError> {
        let (user, password) = (user.into(), password.into());
        if user.is_empty() {
            return Err(UrlError("the user of the proxy is empty".to_owned()));
        }
        if user.len() > 255 || password.len() > 255 {
            return Err(UrlError(
                "the user or the password of the proxy is longer than 255 bytes".to_owned(),
            ));
        }
        Ok(Self(Arc::new((user, password))))
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.0.0
    }

    /// The password; may be empty.
    pub fn password(&self) -> &str {
        &self.0.1
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user()).finish_non_exhaustive()
    }
}

/// A proxy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// How to speak to it.
    pub protocol: Protocol,
    /// Its address or host name; an IPv6 address without brackets.
    pub host: String,
    /// Its TCP port, not 0.
    pub port: u16,
    /// Who we are to it. SOCKS4 has a user only.
    pub credentials: Option<Credentials>,
    /// Whether messages may be sent together that need not wait for one another, once the proxy has been seen to
    /// take them. SOCKS5 without credentials has such messages.
    pub pipeline: bool,
    /// How the server is known, where it is spoken to by TLS. Trojan always is.
    pub tls: Option<TlsSettings>,
}

impl fmt::Display for ProxyConfig {
    /// A URL without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.protocol, &self.tls) {
            (Protocol::Http, Some(_)) => "https",
            (Protocol::Socks5, Some(_)) => "socks5+tls",
            (protocol, _) => protocol.scheme(),
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// An outbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundConfig {
    /// Without a proxy.
    Direct,
    /// Refuses.
    Block,
    /// By a proxy.
    Proxy(ProxyConfig),
}

impl OutboundConfig {
    /// Parses `scheme://[user:password@]host:port` with the schemes `socks5`, `socks5h`, `socks4`, `socks4a`,
    /// `http`, `https` and `trojan`, where a password alone stands in place of user and password. User and password may be percent-encoded (RFC 3986, 2.1).
    ///
    /// # Errors
    /// One line on what is wrong and what is expected; never with the password in it.
    pub fn from_url(url: &str) -> Result<Self, UrlError> {
        url.parse().map(Self::Proxy)
    }
}

/// What is wrong with the URL of a proxy; one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl FromStr for ProxyConfig {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let Some((scheme, rest)) = url.trim().split_once("://") else {
            return Err(UrlError("a proxy is written like socks5://[user:password@]host:port".to_owned()));
        };
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            "socks5" | "socks5h" => Protocol::Socks5,
            "socks4" => Protocol::Socks4,
            "socks4a" => Protocol::Socks4a,
            "http" | "https" => Protocol::Http,
            "trojan" => Protocol::Trojan,
            _ => {
                let known = "socks5, socks5h, socks4, socks4a, http, https and trojan are known";
                return Err(UrlError(format!("unknown kind of proxy {scheme:?}; {known}")));
            }
        };
        // A password may contain an `@` that nobody encoded, a host cannot.
        let (userinfo, authority) = match rest.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, rest),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = host_and_port(authority)?;
        let credentials = match (protocol, userinfo) {
            (Protocol::Trojan, Some(password)) => {
                Some(Credentials::new("trojan", percent_decode(password)?)?)
            }
            (Protocol::Trojan, None) => {
                return Err(UrlError("Trojan needs a password: trojan://password@host:port".to_owned()));
            }
            (_, userinfo) => userinfo.map(credentials).transpose()?,
        };
        let is_tls = protocol == Protocol::Trojan || scheme.eq_ignore_ascii_case("https");
        let tls = is_tls.then(TlsSettings::default);
        Ok(Self { protocol, host, port, credentials, pipeline: true, tls })
    }
}

fn host_and_port(authority: &str) -> Result<(String, u16), UrlError> {
    let no_port = || UrlError(format!("the proxy {authority:?} has no port; write it like host:1080"));
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| {
            UrlError(format!("the bracket of the IPv6 address in {authority:?} is not closed"))
        })?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(UrlError(format!("{host:?} is not an IPv6 address")));
        }
        (host, after.strip_prefix(':').ok_or_else(no_port)?)
    } else {
        let (host, port) = authority.rsplit_once(':').ok_or_else(no_port)?;
        if host.contains(':') {
            return Err(UrlError(format!(
                "the IPv6 address in {authority:?} needs brackets, like [2001:db8::1]:1080"
            )));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
            return Err(UrlError(format!("{host:?} is not a host name or an address")));
        }
        (host, port)
    };
    match port.parse::<u16>() {
        Ok(number) if number != 0 && !port.starts_with('+') => Ok((host.to_owned(), number)),
        _ => Err(UrlError(format!("{port:?} is not a port from 1 to 65535"))),
    }
}

fn credentials(userinfo: &str) -> Result<Credentials, UrlError> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    Credentials::new(percent_decode(user)?, percent_decode(password)?)
}

/// RFC 3986, 2.1. Errors do not repeat the text: it may be the password.
fn percent_decode(text: &str) -> Result<String, UrlError> {
    let malformed = || {
        UrlError("the user or the password of the proxy has a % that is not followed by two hexadecimal digits; write % as %25".to_owned())
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(malformed()) };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes)
        .map_err(|_| UrlError("the user or the password of the proxy is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests;
