//! `netns`: our sockets are made in another network namespace, in which there is no capture device and no rule of ours.

use super::{Draft, PlanError};

pub(super) const WHY_CAPTURED: &str =
    "captures what this host sends; our own sockets are of another namespace";

pub(super) fn prepare(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    draft.notes.push(
        "the uplinks above are this namespace's; our own sockets use those of the other one".to_owned(),
    );
    Ok(())
}

pub(super) fn explanation(draft: &Draft<'_>) -> String {
    format!(
        "our own sockets are made in another network namespace and stay there: neither the rules and routes above nor {} \
         exist for them",
        draft.tun
    )
}
