//! Operating systems whose routing is not planned yet: every request is an error.

use crate::error::RouteError;
use crate::host::Snapshot;
use crate::query::{RouteAnswer, RouteQuery};

pub(crate) fn snapshot() -> Result<Snapshot, RouteError> {
    Err(RouteError::Unsupported { what: "read the host's routing" })
}

pub(crate) fn query(_: &RouteQuery) -> Result<RouteAnswer, RouteError> {
    Err(RouteError::Unsupported { what: "ask for a route" })
}
