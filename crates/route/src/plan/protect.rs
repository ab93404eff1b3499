//! What each protection adds to the plan, what it asks of the host, and why it cannot loop: a file each.

mod bind;
mod host_route;
mod host_route_halves;
mod mark;
mod mark_ifgroup;
mod mark_terminal;
mod netns;
mod source_rule;

use super::capture::{prepare as step, rule};
use super::{Draft, PlanError, Protect, Step};
use crate::host::Rule;
use crate::id::Family;
pub(super) use host_route_halves::rules as halves;

/// The rules that a protection has besides the capture's.
#[derive(Debug, Default)]
pub(super) struct Guards {
    /// Before the capture's rules and after the rehearsal's. `Nop` stands for "go to the end of our rules". Its family
    /// and priority are filled in.
    pub(super) before: Vec<Guard>,
    /// The capture's selector says what is *not* captured, so that it cannot say anything besides.
    pub(super) inverted: bool,
    /// Our table's specific routes are asked for before those of others.
    pub(super) own_table_first: bool,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) rule: Rule,
    /// The one family that needs it.
    pub(super) only: Option<Family>,
    pub(super) why: &'static str,
}

/// Looks whether the host can carry the protection, and chooses what it needs.
///
/// # Errors
/// [`PlanError::Protect`] with what stands in the way and the best alternative.
pub(super) fn prepare(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    match draft.request.protect {
        Protect::Mark | Protect::Bind => Ok(()),
        Protect::MarkTerminal => mark_terminal::prepare(draft, Protect::MarkTerminal),
        Protect::MarkIfgroup => mark_ifgroup::prepare(draft),
        Protect::SourceRule => source_rule::prepare(draft),
        Protect::HostRoute => host_route::prepare(draft),
        Protect::HostRouteHalves => host_route_halves::prepare(draft),
        Protect::Netns => netns::prepare(draft),
    }
}

/// What it does to the capture device.
pub(super) fn device(draft: &Draft<'_>) -> Option<Step> {
    mark_ifgroup::device(draft)
}

/// The routes that it adds to our table.
pub(super) fn routes(draft: &Draft<'_>) -> Vec<Step> {
    match draft.request.protect {
        Protect::HostRoute => host_route::routes(draft),
        Protect::HostRouteHalves => host_route_halves::routes(draft),
        _ => Vec::new(),
    }
}

/// Its rules.
pub(super) fn guards(draft: &Draft<'_>) -> Guards {
    match draft.request.protect {
        Protect::MarkTerminal => mark_terminal::guards(draft),
        Protect::MarkIfgroup => mark_ifgroup::guards(draft),
        Protect::SourceRule => source_rule::guards(draft),
        Protect::HostRoute => Guards { own_table_first: true, ..Guards::default() },
        Protect::Mark | Protect::Bind | Protect::HostRouteHalves | Protect::Netns => Guards::default(),
    }
}

/// Why the capture's rule does not take our own packets.
pub(super) fn why_captured(protect: Protect) -> &'static str {
    match protect {
        Protect::Mark | Protect::MarkTerminal | Protect::MarkIfgroup => mark::WHY_CAPTURED,
        Protect::Bind => bind::WHY_CAPTURED,
        Protect::SourceRule => source_rule::WHY_CAPTURED,
        Protect::HostRoute | Protect::HostRouteHalves => host_route::WHY_CAPTURED,
        Protect::Netns => netns::WHY_CAPTURED,
    }
}

/// Why nothing of ours can come back, in words.
pub(super) fn explanation(draft: &Draft<'_>) -> String {
    match draft.request.protect {
        Protect::Mark => mark::explanation(draft),
        Protect::MarkTerminal => mark_terminal::explanation(draft),
        Protect::MarkIfgroup => mark_ifgroup::explanation(draft),
        Protect::Bind => bind::explanation(draft),
        Protect::SourceRule => source_rule::explanation(draft),
        Protect::HostRoute => host_route::explanation(draft),
        Protect::HostRouteHalves => host_route_halves::explanation(draft),
        Protect::Netns => netns::explanation(draft),
    }
}

fn refuse(protect: Protect, why: impl Into<String>, instead: &'static str) -> PlanError {
    PlanError::Protect { name: protect.name(), why: why.into(), instead }
}
