//! Sockets bound to the uplink's address and to a port of a range that is ours alone: the capture's rule takes everything
//! but that (`not from ADDRESS sport FIRST-LAST`).
//!
//! The port is chosen here and bound before the socket connects. The kernel's own choice would come too late: IPv6
//! decides about the route of a connection before it chooses the port (`tcp_v6_connect`, net/ipv6/tcp_ipv6.c).

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use oneway_route::{Family, Sources};
use socket2::Socket;

use crate::{EgressError, Uplink};

const MECHANISM: &str = "a source address and port";

/// Ports that are tried for one socket. They are drawn at random: with half of them in use, a failure of all is none in 2^64.
const TRIES: usize = 64;

/// What sockets are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRule {
    /// Addresses and ports.
    pub sources: Sources,
    /// The uplinks of IPv4 and IPv6. ICMP echo has no ports, and its sockets are bound to these.
    pub devices: [Option<Uplink>; 2],
}

impl SourceRule {
    /// The device of a family.
    pub(crate) fn device(&self, family: Family) -> Option<&Uplink> {
        match family {
            Family::V4 => self.devices[0].as_ref(),
            Family::V6 => self.devices[1].as_ref(),
        }
    }

    /// The address of a family.
    pub(crate) fn address(&self, family: Family) -> Result<IpAddr, EgressError> {
        let why =
            || format!("the {family} uplink has no address to bind to; no socket is made before it has");
        self.sources.get(family).ok_or_else(|| refused(why()))
    }

    /// Binds a socket to the address and a port.
    pub(crate) fn bind(
        &self,
        socket: &Socket,
        family: Family,
        stream: bool,
        ports: &Ports,
    ) -> Result<(), EgressError> {
        let address = self.address(family)?;
        let (first, last) = self.sources.ports;
        if stream {
            // Connections to different servers may have the same port.
            socket.set_reuse_address(true).map_err(|source| failed("share ports with", address, source))?;
        }
        let mut outcome = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..TRIES {
            let to = SocketAddr::new(address, ports.draw(first, last));
            outcome = socket.bind(&to.into());
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                _ => break,
            }
        }
        outcome.map_err(|source| failed("bind to", address, source))
    }

    /// Reads address and port back.
    pub(crate) fn read_back(&self, socket: &Socket, family: Family) -> Result<(), EgressError> {
        let address = self.address(family)?;
        let (first, last) = self.sources.ports;
        let found = socket.local_addr().map_err(|source| failed("read back", address, source))?.as_socket();
        match found {
            Some(found) if found.ip() == address && (first..=last).contains(&found.port()) => Ok(()),
            found => Err(refused(format!(
                "bound to {address} and a port of {first}-{last}, it reads back as {found:?}"
            ))),
        }
    }

    /// The uplink's device, which sockets without ports are bound to instead.
    pub(crate) fn device_for(&self, family: Family) -> Result<&Uplink, EgressError> {
        self.device(family).ok_or_else(|| refused(format!("there is no {family} uplink to bind to")))
    }
}

/// Draws ports at random (RFC 6056, 3.3.2).
#[derive(Debug, Default)]
pub(crate) struct Ports {
    drawn: AtomicU64,
    /// SipHash: with a faster one some seeds draw the same of a few ports again and again.
    random: RandomState,
}

impl Ports {
    fn draw(&self, first: u16, last: u16) -> u16 {
        let random = self.random.hash_one(self.drawn.fetch_add(1, Relaxed));
        let width = u64::from(last.saturating_sub(first)) + 1;
        first + u16::try_from(random % width).unwrap_or(0)
    }
}

/// Whether a connection failed because its port is in use to the same server.
pub(crate) fn try_another(error: &EgressError) -> bool {
    matches!(error, EgressError::Connect(source) if source.kind() == io::ErrorKind::AddrNotAvailable)
}

fn refused(why: String) -> EgressError {
    EgressError::Protect { mechanism: MECHANISM, why, source: None }
}

fn failed(step: &str, address: IpAddr, source: io::Error) -> EgressError {
    let advice = match source.kind() {
        io::ErrorKind::AddrInUse => "; the ports are all in use",
        io::ErrorKind::AddrNotAvailable => "; the uplink must be looked at again",
        _ => "",
    };
    let why = format!("cannot {step} {address}: {source}{advice}");
    EgressError::Protect { mechanism: MECHANISM, why, source: Some(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_ports_are_all_drawn_soon() {
        for _ in 0..10_000 {
            let ports = Ports::default();
            let drawn: std::collections::BTreeSet<_> =
                (0..TRIES).map(|_| ports.draw(61_000, 61_003)).collect();
            assert_eq!(drawn.len(), 4, "{ports:?}");
        }
    }

    #[test]
    fn ports_are_drawn_from_all_of_the_range_and_from_nothing_else() {
        let ports = Ports::default();
        let mut seen = [false; 16];
        for _ in 0..1_000 {
            seen[usize::from(ports.draw(24_000, 24_015) - 24_000)] = true;
        }
        assert_eq!(seen, [true; 16]);
        assert_eq!(ports.draw(65_535, 65_535), 65_535);
    }
}
