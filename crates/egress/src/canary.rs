//! A datagram that shows whether the way out is free, and that reaches nobody.
//!
//! It takes the way of our other sockets to a destination, with all their attributes, but with 1 as its time to live (hop
//! limit): the first router on the way discards it (RFC 791, 3.2; RFC 8200, 3) before it could come to any host's service.
//! It goes to a router only: a destination on the link itself would receive it, and gets none. Should it come back from the
//! TUN it is known by its socket's port as any other packet of ours is, so that it needs no mark in its payload.

use std::net::{IpAddr, SocketAddr};

use oneway_route::{Family, RouteKind};
use socket2::{Domain, Protocol, Type};

use crate::handle::Handle;
use crate::strategy::Purpose;
use crate::{Egress, EgressError, Quarantined, Reach, Registered};

/// The discard service (RFC 863), should a router be the destination itself.
const PORT: u16 = 9;

/// A canary that has flown. Alive as long as it may come back.
#[derive(Debug)]
pub struct Canary {
    _registered: Registered,
    _socket: socket2::Socket,
    of: Quarantined,
    returned_before: u64,
}

impl Egress {
    /// Sends a canary towards `dst`; none if no router would see it first. `of` is what it is to speak for, and is open.
    ///
    /// # Errors
    /// [`EgressError::Create`], [`EgressError::Protect`], [`EgressError::Route`]; [`EgressError::Connect`] if the kernel has
    /// no way for it.
    pub fn send_canary(&self, of: Quarantined, dst: IpAddr) -> Result<Option<Canary>, EgressError> {
        let query = self.question(dst);
        let answer = self.oracle.route(&query).map_err(|source| EgressError::Route { dst, source })?;
        if answer.kind != RouteKind::Unicast || answer.gateway.is_none() {
            return Ok(None);
        }
        let (domain, what) = match dst {
            IpAddr::V4(_) => (Domain::IPV4, "UDP/IPv4"),
            IpAddr::V6(_) => (Domain::IPV6, "UDP/IPv6"),
        };
        let create = |source| EgressError::Create { what, source };
        let socket = self.fresh(domain, Type::DGRAM, Protocol::UDP).map_err(create)?;
        if dst.is_ipv6() {
            socket.set_only_v6(true).map_err(create)?;
        }
        self.protect(&socket, Family::of(dst), Reach::Uplink, Purpose::Udp)?;
        match dst {
            IpAddr::V4(_) => socket.set_ttl_v4(1).map_err(create)?,
            IpAddr::V6(_) => socket.set_unicast_hops_v6(1).map_err(create)?,
        }
        socket.connect(&SocketAddr::new(dst, PORT).into()).map_err(EgressError::Connect)?;
        let own = socket.local_addr().map_err(create)?.as_socket().ok_or_else(|| create(not_an_address()))?;
        let registered = self.register_udp(own, Handle::of(&socket));
        let returned_before = self.breaker.returned_to(of);
        socket.send(&[]).map_err(EgressError::Connect)?;
        Ok(Some(Canary { _registered: registered, _socket: socket, of, returned_before }))
    }

    /// Whether a canary, or anything else of ours to where it went, has come back since.
    pub fn came_back(&self, canary: &Canary) -> bool {
        self.breaker.returned_to(canary.of) > canary.returned_before
    }
}

fn not_an_address() -> std::io::Error {
    std::io::Error::other("its address is none")
}
