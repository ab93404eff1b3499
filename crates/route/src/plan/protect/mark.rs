//! `mark`: our sockets carry a bit that the capture's rules ask to be absent.

use super::Draft;

pub(super) const WHY_CAPTURED: &str = "captures what does not carry our bit; our own sockets do";

pub(super) fn explanation(draft: &Draft<'_>) -> String {
    format!(
        "our own sockets carry mark {}, and the rules that lead into {} match only packets without it; there is no rule \
         that exempts and could be lost alone",
        draft.mark.unwrap_or(crate::id::Mark(0)),
        draft.tun
    )
}
