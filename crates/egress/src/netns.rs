//! Sockets made in another network namespace, where there is no capture device and no rule of ours.

#[cfg(target_os = "linux")]
#[path = "netns/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "netns/unsupported.rs"]
mod os;

pub use os::Namespace;

use std::fmt;
use std::sync::Arc;

use oneway_route::{RouteAnswer, RouteError, RouteQuery};

use crate::RouteOracle;

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Namespace {}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// The kernel's routes in that namespace.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceRoutes(pub(crate) Arc<Namespace>);

impl RouteOracle for NamespaceRoutes {
    fn route(&self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        let query = *query;
        let gone = || RouteError::NotProven(format!("the namespace {} cannot be asked", self.0.name()));
        self.0.run(move || oneway_route::query(&query)).unwrap_or_else(|_| Err(gone()))
    }
}
