//! TLS inside QUIC (RFC 9001), for clients.

mod protection;
mod reset;
mod session;

use std::fmt;
use std::sync::Arc;

use crate::{TlsError, TlsSettings, client};

/// Makes the cryptography of QUIC connections to one server. Cheap to clone.
#[derive(Clone)]
pub struct QuicClient {
    client: Arc<session::Client>,
    reset: Arc<reset::Key>,
}

impl QuicClient {
    /// A client for the server at `host`, a name or an address, whom `settings` say how to know.
    ///
    /// # Errors
    /// [`TlsError`]: a file, a name, or this machine.
    pub fn new(host: &str, settings: &TlsSettings) -> Result<Self, TlsError> {
        let provider = protection::for_quic(&*crate::provider()?);
        let initial = provider.cipher_suites.iter().find_map(|suite| {
            // The first packets are always protected by this one (RFC 9001, 5.2).
            let suite = suite.tls13().filter(|suite| suite.common.suite == INITIAL)?;
            suite.quic_suite()
        });
        let initial = initial.ok_or(TlsError::Processor)?;
        let (config, name) = client::config(host, settings, &provider, &[&rustls::version::TLS13])?;
        let client = session::Client { config: Arc::new(config), initial, name };
        Ok(Self { client: Arc::new(client), reset: Arc::new(reset::Key::new(&provider)?) })
    }

    /// What connections are made by.
    pub fn crypto(&self) -> Arc<dyn quinn_proto::crypto::ClientConfig> {
        Arc::clone(&self.client) as _
    }

    /// What an endpoint is made by.
    pub fn endpoint(&self) -> quinn_proto::EndpointConfig {
        quinn_proto::EndpointConfig::new(Arc::clone(&self.reset) as _)
    }
}

const INITIAL: rustls::CipherSuite = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;

impl fmt::Debug for QuicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicClient").field("name", &self.client.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
