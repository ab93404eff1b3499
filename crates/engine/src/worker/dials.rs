//! Connections whose outbound is being dialled: how many there may be.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Shared;
use super::sources::BySource;

/// The dials of all workers, by their source.
#[derive(Debug, Default)]
pub(crate) struct Dials(Mutex<BySource>);

impl Dials {
    /// How many there are, and how many of `source`.
    pub(super) fn of(&self, source: IpAddr) -> (usize, usize) {
        let dials = self.0.lock();
        (dials.len(), dials.of(source))
    }
}

/// The place of one dial, for as long as it lasts.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    source: IpAddr,
}

impl Place {
    /// None at a limit.
    pub(super) fn take(shared: &Arc<Shared>, source: IpAddr) -> Option<Self> {
        let mut dials = shared.dials.0.lock();
        dials.has_room(source, shared.limits.dialing).then(|| {
            dials.enter(source);
            Self { shared: Arc::clone(shared), source }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.dials.0.lock().leave(self.source);
    }
}
