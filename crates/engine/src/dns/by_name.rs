//! Direct connections to names: the address that the client dialled only stands for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use oneway_egress::Egress;
use oneway_flow::Target;
use oneway_outbound::{Connected, DialError, Outbound};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Dns;

/// When the next address is tried as well (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of a name that are tried.
const MOST: usize = 8;

impl Dns {
    /// Connects to where a target's name is.
    pub(crate) async fn connect(
        &self,
        egress: &Arc<Egress>,
        target: &Target,
    ) -> Result<Connected, DialError> {
        let mut addresses = self.addresses(target).await?.into_iter();
        let mut attempts = JoinSet::new();
        let mut failed = None;
        while let Some(ip) = addresses.next() {
            let (egress, target) =
                (Arc::clone(egress), Target::from_addr(SocketAddr::new(ip, target.addr.port())));
            attempts.spawn(async move { Outbound::Direct.connect(&egress, &target).await });
            let mut next = false;
            while !next {
                tokio::select! {
                    Some(done) = attempts.join_next() => match done {
                        Ok(Ok(connected)) => return Ok(connected),
                        Ok(Err(error)) => {
                            failed = Some(error);
                            next = attempts.is_empty() || addresses.len() > 0;
                        }
                        Err(_) => next = attempts.is_empty(),
                    },
                    () = sleep(ATTEMPT_DELAY), if addresses.len() > 0 => next = true,
                }
            }
        }
        Err(failed.unwrap_or_else(|| nowhere(target, "it has no address")))
    }

    /// The real addresses of a target's name, those of the family that the client chose first.
    pub(crate) async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, DialError> {
        let Some(host) = &target.host else { return Ok(vec![target.addr.ip()]) };
        let resolved = self.client.resolve_for_program(host).await;
        let mut addresses =
            resolved.map_err(|source| DialError::Name { host: Arc::clone(host), source })?.addresses;
        addresses.sort_by_key(|ip| ip.is_ipv4() != target.addr.is_ipv4());
        addresses.truncate(MOST);
        Ok(addresses)
    }
}

fn nowhere(target: &Target, why: &'static str) -> DialError {
    let host = target.host.clone().unwrap_or_else(|| target.addr.ip().to_string().into());
    DialError::Name { host, source: std::io::Error::new(std::io::ErrorKind::NotFound, why) }
}
