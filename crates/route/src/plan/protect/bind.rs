//! `bind`: our sockets are bound to the uplink's device, and the routes of our table lead to another one.

use super::Draft;

pub(super) const WHY_CAPTURED: &str = "captures what is not bound to another device; our own sockets are";

pub(super) fn explanation(draft: &Draft<'_>) -> String {
    let uplink = draft.uplinks.v4.as_ref().or(draft.uplinks.v6.as_ref());
    let uplink = uplink.map_or_else(|| "the uplink, once there is one".to_owned(), |u| u.name.clone());
    format!(
        "our own sockets are bound to {uplink}, and for them the routes into {} do not count: what they send leaves by that \
         device or not at all",
        draft.tun
    )
}
