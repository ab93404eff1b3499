//! Sockets that go to some servers only: our table has a host route for each, and for nothing else.
//!
//! Nothing is set on the sockets. What protects is the destination, so that it is looked at before each of them is made: it
//! must be one of the servers, and the kernel must say that the host route of our table is what it would take.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use oneway_route::{RouteKind, RouteQuery, Table};

use crate::{EgressError, Reach, RouteOracle};

/// The servers, and the table that has the routes to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// The table.
    pub table: Table,
    /// The capture device, which the same table has the default route of.
    pub tun: String,
    /// Whether the capture's routes are in main (`host-route-halves`).
    pub halves: bool,
    /// The servers.
    pub servers: Arc<BTreeSet<IpAddr>>,
}

impl HostRoute {
    /// Whether anything may be sent to this address. Loopback never leaves this host.
    pub(crate) fn allows(&self, dst: IpAddr) -> Result<(), EgressError> {
        if dst.is_loopback() || self.servers.contains(&dst) {
            return Ok(());
        }
        Err(EgressError::NoHostRoute { dst })
    }

    /// The read-back: asks the kernel which route it would take.
    ///
    /// # Errors
    /// [`EgressError::NoRoute`] if it is not the host route.
    pub(crate) fn ask(&self, oracle: &dyn RouteOracle, dst: IpAddr) -> Result<Reach, EgressError> {
        self.allows(dst)?;
        if dst.is_loopback() {
            return Ok(Reach::Local);
        }
        let answer =
            oracle.route(&RouteQuery::to(dst)).map_err(|source| EgressError::Route { dst, source })?;
        match answer.kind {
            RouteKind::Local => Ok(Reach::Local),
            RouteKind::Unicast if answer.table == Some(self.table) && answer.oif_name != self.tun => {
                Ok(Reach::Uplink)
            }
            _ => Err(EgressError::NoRoute { dst, device: format!("table {}", self.table) }),
        }
    }
}
