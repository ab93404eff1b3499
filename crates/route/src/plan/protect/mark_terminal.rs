//! `mark-terminal`: rules that end the decision about what carries our bit. It is sent by main, or not at all, whatever
//! rules others have behind ours.
//!
//! Without a default route in main a marked packet would otherwise go on to the rules behind, of which one may lead into a
//! tunnel again.

use super::{Draft, Guard, Guards, PlanError, Protect, refuse, rule};
use crate::host::{Rule, RuleAction};
use crate::id::{Family, Priority, Table};
use crate::plan::choose;

pub(super) fn prepare(draft: &mut Draft<'_>, protect: Protect) -> Result<(), PlanError> {
    // Ending at main would pass another VPN by, which was to carry us.
    let all: Vec<_> = draft
        .families
        .iter()
        .flat_map(|family| choose::everything_elsewhere(draft.host, *family))
        .map(|(rule, table)| format!("rule {rule} sends everything to table {table}"))
        .collect();
    match all.first() {
        Some(rule) => Err(refuse(
            protect,
            format!("{rule}, and sockets whose decision ends at main would leave past it"),
            "--protect mark, which follows it",
        )),
        None => Ok(()),
    }
}

pub(super) fn guards(draft: &Draft<'_>) -> Guards {
    let Some(mark) = draft.mark else { return Guards::default() };
    let guard = |action, only, why| Guard {
        rule: Rule {
            iif: Some("lo".into()),
            fwmark: Some((mark, mark.0)),
            suppress_ifgroup: draft.group.filter(|_| matches!(action, RuleAction::Lookup(_))),
            ..rule(Family::V4, Priority(0), action)
        },
        only,
        why,
    };
    let by = match draft.group {
        None => "what carries our bit goes by main",
        Some(_) => "what carries our bit goes by main, but never by a route into the capture device",
    };
    Guards {
        before: vec![
            guard(RuleAction::Lookup(Table::MAIN), None, by),
            // IPv6 has no table of that number until somebody makes one.
            guard(RuleAction::Lookup(Table::DEFAULT), Some(Family::V4), "or by table default"),
            guard(
                RuleAction::Unreachable,
                None,
                "or not at all: the decision ends here, and no rule behind it can lead into a tunnel",
            ),
        ],
        ..Guards::default()
    }
}

pub(super) fn explanation(draft: &Draft<'_>) -> String {
    format!(
        "{}; besides, rules before it send what carries the mark by main and end the decision there, so that no rule of \
         others behind ours is asked",
        super::mark::explanation(draft)
    )
}
