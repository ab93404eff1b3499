//! The client side of TLS.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::provider::provider;
use crate::unverified::Unverified;
use crate::{Authorities, TlsError, TlsSettings, roots};

/// A stream that TLS carries over another one.
pub type TlsStream<S> = tokio_rustls::client::TlsStream<S>;

/// Connects to one server by TLS, again and again: it keeps the tickets that make the next handshake shorter
/// (RFC 8446, 2.2). Cheap to clone.
#[derive(Clone)]
pub struct TlsClient {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsClient {
    /// A client for the server at `host`, a name or an address, whom `settings` say how to know.
    ///
    /// # Errors
    /// [`TlsError`]: a file, a name, or this machine.
    pub fn new(host: &str, settings: &TlsSettings) -> Result<Self, TlsError> {
        let (config, name) = config(host, settings, &provider()?, rustls::DEFAULT_VERSIONS)?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Runs the handshake over `stream`. It has no clock: the caller gives up when it has waited long enough.
    ///
    /// # Errors
    /// Those of the stream, and [`io::ErrorKind::InvalidData`] with the reason if the server is not to be trusted.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// Whom a client of these settings trusts, and the name that it knows the server by.
pub(crate) fn config(
    host: &str,
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<(ClientConfig, ServerName<'static>), TlsError> {
    let name = settings.server_name.as_deref().unwrap_or(host);
    let server = server_name(name)?;
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(versions)?;
    let mut config = if settings.skip_verify {
        tracing::warn!(server = name, "skip-verify: whoever answers for this server is trusted");
        let verifier = Arc::new(Unverified(Arc::clone(provider)));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    } else {
        let roots = match (&settings.authorities, &settings.ca) {
            (Some(read), _) => read.roots(),
            (None, Some(path)) => Authorities::read(path)?.roots(),
            (None, None) => roots::of_system()?,
        };
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    config.alpn_protocols = settings.alpn.iter().map(|word| word.clone().into_bytes()).collect();
    Ok((config, server))
}

/// Whether a certificate can be for this name.
///
/// # Errors
/// [`TlsError::Name`].
pub fn check_name(name: &str) -> Result<(), TlsError> {
    server_name(name).map(drop)
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name { name: name.to_owned() })
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
