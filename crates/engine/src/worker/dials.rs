//! Connections whose outbound is being dialled: how many there may be.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::Shared;
use crate::limits::Limits;

/// The dials of all workers, by their source: one source alone must not keep the others out.
#[derive(Debug, Default)]
pub(crate) struct Dials(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

impl Dials {
    /// Counts one more of `source`. False at a limit.
    fn enter(&self, source: IpAddr, limits: &Limits) -> bool {
        let mut counts = self.0.lock();
        let from_here = counts.of.get(&source).copied().unwrap_or(0);
        if counts.all >= limits.dialing || from_here >= limits.dialing_of_source {
            return false;
        }
        counts.all += 1;
        counts.of.insert(source, from_here + 1);
        true
    }

    fn leave(&self, source: IpAddr) {
        let mut counts = self.0.lock();
        counts.all -= 1;
        if let Some(count) = counts.of.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                counts.of.remove(&source);
            }
        }
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
        shared.dials.enter(source, &shared.limits).then(|| Self { shared: Arc::clone(shared), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.dials.leave(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StackKind;

    #[test]
    fn one_source_leaves_room_for_the_others() {
        let limits =
            Limits { dialing: 8, dialing_of_source: 6, ..Limits::for_descriptors(1024, StackKind::User) };
        let dials = Dials::default();
        let source = |last| IpAddr::from([192, 0, 2, last]);
        let entered = |last| (0..100).filter(|_| dials.enter(source(last), &limits)).count();
        assert_eq!([entered(1), entered(2), entered(3)], [6, 2, 0]);
        dials.leave(source(1));
        assert_eq!([entered(1), entered(3)], [1, 0]);
        (0..6).for_each(|_| dials.leave(source(1)));
        (0..2).for_each(|_| dials.leave(source(2)));
        let counts = dials.0.lock();
        assert_eq!((counts.all, counts.of.len()), (0, 0), "nothing is kept of those that are gone");
    }

    #[test]
    fn whatever_there_is_one_source_cannot_have_it_all() {
        for stack in [StackKind::User, StackKind::System] {
            for descriptors in [0, 256, 1024, 65_536, 1 << 24, u64::MAX] {
                let limits = Limits::for_descriptors(descriptors, stack);
                assert!(limits.dialing_of_source > 0);
                assert!(limits.dialing_of_source < limits.dialing, "{descriptors}");
                assert!(limits.dialing < limits.tcp_connections, "{descriptors}");
            }
        }
    }
}
