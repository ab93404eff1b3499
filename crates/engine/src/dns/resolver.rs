//! The names of proxies, before anything is captured and after.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use oneway_dns::{Client, hosts};
use oneway_file::limit;
use oneway_outbound::{Resolve, Resolving, SystemResolver};

/// Names that the system knows without asking anybody.
const HOSTS: &str = "/etc/hosts";

/// Resolves by the system as long as nothing is captured. From then on its queries would be captured, so that a client
/// with protected sockets takes over.
#[derive(Debug, Default)]
pub(crate) struct ProxyResolver {
    client: OnceLock<Arc<Client>>,
}

impl ProxyResolver {
    /// Hands over to `client`. To be called before anything is captured.
    pub(crate) fn hand_over(&self, client: &Arc<Client>) {
        let _ = self.client.set(Arc::clone(client));
    }
}

impl Resolve for ProxyResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolving<'a> {
        match self.client.get() {
            None => SystemResolver.resolve(host, port),
            Some(client) => Box::pin(async move {
                let found = known(host);
                if !found.is_empty() {
                    return Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
                }
                let found = client.resolve(host).await?;
                Ok(found.addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
            }),
        }
    }
}

/// The addresses of a name in the system's own list.
pub(crate) fn known(host: &str) -> Vec<std::net::IpAddr> {
    hosts(&oneway_file::read_text(Path::new(HOSTS), limit::HOSTS).unwrap_or_default(), host)
}
