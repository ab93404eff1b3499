//! Who is asked for routes: the kernel, or a table made up by a test.

use oneway_route::{RouteAnswer, RouteError, RouteQuery};

/// Answers what route a packet with given attributes would take.
pub trait RouteOracle: Send + Sync {
    /// The route for a packet with the query's destination, mark, device, source and user.
    ///
    /// # Errors
    /// If the question could not be asked. "No route" is an answer, not an error.
    fn route(&self, query: &RouteQuery) -> Result<RouteAnswer, RouteError>;
}

/// The running kernel, by `RTM_GETROUTE` in the caller's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelRoutes;

impl RouteOracle for KernelRoutes {
    fn route(&self, query: &RouteQuery) -> Result<RouteAnswer, RouteError> {
        oneway_route::query(query)
    }
}
