//! The programs that are not captured.

mod enter;

use std::sync::Arc;

use oneway_flow::Listener;
use oneway_route::{Cgroup, CgroupError, NftSupport, RouteError};
use parking_lot::Mutex;

use crate::config::{CaptureConfig, CgroupPath, ProgramName};
use crate::error::EngineError;

pub use enter::exclude_this_process;

/// Which programs those are, now: control groups come and go, and the configuration may be read again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exclusions(Arc<Mutex<Excluded>>);

#[derive(Debug, Default)]
struct Excluded {
    uids: Vec<u32>,
    programs: Vec<ProgramName>,
    groups: Vec<Cgroup>,
}

impl Exclusions {
    pub(crate) fn new(capture: &CaptureConfig, groups: Vec<Cgroup>) -> Self {
        let exclusions = Self(Arc::new(Mutex::new(Excluded { groups, ..Excluded::default() })));
        exclusions.set(capture);
        exclusions
    }

    /// Replaces users and programs, wherever these are known.
    pub(crate) fn set(&self, capture: &CaptureConfig) {
        let mut excluded = self.0.lock();
        excluded.uids = capture.exclude_uid.iter().map(|uid| uid.get()).collect();
        excluded.programs.clone_from(&capture.exclude_process);
    }

    pub(crate) fn set_groups(&self, groups: Vec<Cgroup>) {
        self.0.lock().groups = groups;
    }

    /// Whether any program is excluded at all.
    pub(crate) fn any(&self) -> bool {
        let Excluded { uids, programs, groups } = &*self.0.lock();
        !uids.is_empty() || !programs.is_empty() || !groups.is_empty()
    }

    /// Whether the program that listens somewhere is among them.
    pub(crate) fn cover(&self, listener: &Listener) -> bool {
        let Excluded { uids, programs, groups } = &*self.0.lock();
        let named =
            |program: &ProgramName| program.fits(listener.process.as_deref(), listener.comm.as_deref());
        let grouped = |group: &Cgroup| {
            // Of another user's program the path is nobody's business, but the number of its group is.
            listener.cgroup_id == Some(group.id)
                || listener.cgroup.as_deref().is_some_and(|path| group.holds(path))
        };
        uids.contains(&listener.uid) || programs.iter().any(named) || groups.iter().any(grouped)
    }
}

/// The control groups that are excluded when the capture begins: those that were asked for, and that of `oneway exclude` if
/// it is there.
///
/// # Errors
/// When one that was asked for is not there, or cannot be told apart.
pub(crate) fn groups(paths: &[CgroupPath], nft: NftSupport) -> Result<Vec<Cgroup>, EngineError> {
    let find = |path: &CgroupPath| Cgroup::find(path.as_str());
    let found: Result<Vec<Cgroup>, CgroupError> = paths.iter().map(find).collect();
    let mut groups = found.map_err(RouteError::from)?;
    groups.extend(ours(nft));
    groups.sort();
    groups.dedup_by(|a, b| a.id == b.id);
    Ok(groups)
}

/// The same while it runs. One that is gone is waited for: services come back with a group of the same name and another
/// number.
pub(crate) fn groups_again(paths: &[CgroupPath], nft: NftSupport, before: &[Cgroup]) -> Vec<Cgroup> {
    let mut groups: Vec<Cgroup> = paths.iter().filter_map(|path| Cgroup::find(path.as_str()).ok()).collect();
    let gone = before.iter().filter(|group| !group.ours && !groups.iter().any(|g| g.path == group.path));
    let gone: Vec<Cgroup> = gone.cloned().collect();
    groups.extend(gone);
    groups.extend(ours(nft));
    groups.sort();
    groups.dedup_by(|a, b| a.id == b.id);
    groups
}

/// Where control groups cannot be told apart, `oneway exclude` says so.
fn ours(nft: NftSupport) -> Option<Cgroup> {
    if nft != NftSupport::Full {
        return None;
    }
    Cgroup::ours().ok().flatten()
}
