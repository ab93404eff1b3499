//! With `--strict`, what programs ask leaves as their flows do: by the outbound that the rules name for the server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Weak;

use oneway_dns::{Carried, Carrier, Connecting};
use oneway_flow::{Inbound, Network, Owner, Target};
use oneway_outbound::Connected;

use crate::dispatch::Subject;
use crate::worker::Shared;

/// Connects to DNS servers as the rules say.
#[derive(Debug)]
pub(crate) struct ByRules {
    pub(crate) shared: Weak<Shared>,
    /// How the connections of programs come in.
    pub(crate) inbound: Inbound,
}

impl Carrier for ByRules {
    fn connect(&self, server: SocketAddr) -> Connecting<'_> {
        let shared = self.shared.upgrade();
        Box::pin(async move {
            let shared = shared.ok_or(io::ErrorKind::NotConnected)?;
            let target = Target::from_addr(server);
            let unspecified =
                if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            // Many programs may wait for one answer, so that it is nobody's.
            let subject = Subject {
                network: Network::Tcp,
                source: SocketAddr::new(unspecified, 0),
                inbound: self.inbound,
                target: &target,
                is_fake: false,
                dscp: 0,
            };
            let dispatch = shared.dispatch.load_full();
            let (choice, _) = dispatch.choose_for(&subject, &Owner::default());
            let choice = choice.in_turn(&subject);
            if choice.entry.is_direct() {
                return Ok(None);
            }
            let connected = choice.entry.outbound.connect(&shared.egress, &target).await;
            let Connected { stream, early } = connected.map_err(io::Error::other)?;
            Ok(Some(Carried { stream, early }))
        })
    }
}
