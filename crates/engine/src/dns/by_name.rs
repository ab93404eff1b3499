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
use crate::guard::{Destination, Guard};

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
        let addresses = self.addresses(target).await?;
        self.connect_to(egress, target, addresses).await
    }

    /// Connects to the first of these addresses of a target's name that takes it. Where there is none, the rules have refused
    /// what there was.
    pub(crate) async fn connect_to(
        &self,
        egress: &Arc<Egress>,
        target: &Target,
        addresses: Vec<IpAddr>,
    ) -> Result<Connected, DialError> {
        let mut addresses = addresses.into_iter();
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
        Err(failed.unwrap_or(DialError::Blocked))
    }

    /// The real addresses of a target's name, those of the family that the client chose first.
    pub(crate) async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, DialError> {
        let Some(host) = &target.host else { return Ok(vec![target.addr.ip()]) };
        let resolved = self.client.resolve_for_program(host).await;
        let mut addresses =
            resolved.map_err(|source| DialError::Name { host: Arc::clone(host), source })?.addresses;
        if self.forwarded {
            addresses.retain(is_for_others);
            if addresses.is_empty() {
                return Err(nowhere(target, "its only addresses are such as other hosts are not led to"));
            }
        }
        addresses.sort_by_key(|ip| ip.is_ipv4() != target.addr.is_ipv4());
        addresses.truncate(MOST);
        Ok(addresses)
    }
}

/// Whether a name may lead another host there: not to this host's loopback, nor to what only a link of this host has, which are
/// refused to it by address as well. Whoever asks for a name may be whoever says where it leads.
fn is_for_others(ip: &IpAddr) -> bool {
    Guard::new(Vec::new()).classify(ip.to_canonical()) == Destination::Ordinary
}

fn nowhere(target: &Target, why: &'static str) -> DialError {
    let host = target.host.clone().unwrap_or_else(|| target.addr.ip().to_string().into());
    DialError::Name { host, source: std::io::Error::new(std::io::ErrorKind::NotFound, why) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the server of this test is no outgoing socket")]

    use tokio::net::UdpSocket;

    use super::*;
    use crate::config::{Config, Options};

    /// Answers every question for an IPv4 address with this one, and others with none.
    async fn server(address: [u8; 4]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query).await {
                // Behind the question there are 11 bytes of EDNS; its last four say the type and the class.
                let question = &query[12..len - 11];
                let is_a = question.ends_with(&[0, 1, 0, 1]);
                let mut answer =
                    [&query[..2], &[0x81, 0x80, 0, 1, 0, is_a.into(), 0, 0, 0, 0], question].concat();
                if is_a {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                    answer.extend(address);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        at
    }

    #[tokio::test]
    async fn other_hosts_are_not_led_to_where_only_this_one_is() {
        for (address, for_others) in
            [([127, 0, 0, 1], false), ([169, 254, 169, 254], false), ([192, 0, 2, 1], true)]
        {
            let text =
                format!("dns = {{ mode = \"real\", upstream = [\"udp://{}\"] }}", server(address).await);
            let read = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
            let loaded = Config::from_toml("oneway.toml".as_ref(), &text, Options::default(), &read).unwrap();
            let egress = Arc::new(Egress::unprotected_for_loopback_tests());
            let target =
                Target { addr: "198.18.0.1:80".parse().unwrap(), host: Some(Arc::from("a.example.org")) };
            for (forwarded, is_led) in [(false, true), (true, for_others)] {
                let dns = Dns::new(&loaded.config.dns, &egress, (&[], forwarded), "/nowhere".as_ref(), None)
                    .unwrap();
                let found = dns.addresses(&target).await;
                assert_eq!(found.is_ok(), is_led, "{address:?} {found:?}");
            }
        }
    }
}
