//! What the configuration says about a server's certificate.

use std::ops::Range;
use std::path::Path;

use oneway_tls::{Authorities, TlsSettings};

use super::outbound::ProxyProtocol;
use super::reader::{Reader, Section};
use super::settings::beside;

/// Reads the keys about TLS of an outbound: none of them for a proxy that is spoken to without.
pub(super) fn read(
    protocol: ProxyProtocol,
    section: &mut Section<'_, '_>,
    span: &Range<usize>,
    reader: &mut Reader<'_>,
    file: &Path,
) -> Option<TlsSettings> {
    let is_tls = match protocol {
        ProxyProtocol::Trojan => true,
        ProxyProtocol::Socks5 | ProxyProtocol::Http => section.read("tls", reader).unwrap_or(false),
        ProxyProtocol::Socks4 | ProxyProtocol::Shadowsocks => false,
    };
    if !is_tls {
        return None;
    }
    let mut settings = TlsSettings {
        server_name: section.read("server-name", reader),
        ca: section.read::<String>("ca", reader).map(|path| beside(file, &path)),
        authorities: None,
        alpn: section.read("alpn", reader).unwrap_or_default(),
        skip_verify: section.read("skip-verify", reader).unwrap_or(false),
    };
    if let Err(error) = complete(&mut settings) {
        reader.error(span, format!("[{}] {error}", section.name()));
    }
    Some(settings)
}

/// Checks the name and reads the file.
fn complete(settings: &mut TlsSettings) -> Result<(), oneway_tls::TlsError> {
    if let Some(name) = &settings.server_name {
        oneway_tls::check_name(name)?;
    }
    settings.authorities = settings.ca.as_deref().map(Authorities::read).transpose()?;
    Ok(())
}
