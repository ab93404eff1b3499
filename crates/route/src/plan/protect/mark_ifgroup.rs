//! `mark-ifgroup`: [`mark_terminal`](super::mark_terminal), and the capture device is in a group whose routes do not
//! count for what carries our bit, not even a route of somebody else's that names the device.

use ipnet::IpNet;

use super::{Draft, Guard, Guards, PlanError, Protect, Step, refuse, rule, step};
use crate::change::Change;
use crate::host::{Rule, RuleAction};
use crate::id::{Family, Priority, Table};

/// Groups are looked for from here on; 0 is that of all devices, and administrators begin with 1.
const FIRST: u32 = 16_200;
const GROUPS: u32 = 1_000;

pub(super) fn prepare(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let protect = Protect::MarkIfgroup;
    if !draft.request.device_is_ours {
        return Err(refuse(
            protect,
            format!("{} was handed over, and its group is its owner's", draft.tun),
            "--protect mark",
        ));
    }
    super::mark_terminal::prepare(draft, protect)?;
    let taken = |group: &u32| {
        draft.host.links.iter().any(|l| l.group == *group && l.name != draft.tun)
            || draft.host.rules.iter().any(|r| r.suppress_ifgroup == Some(*group))
    };
    let group = draft.request.group.or_else(|| (FIRST..FIRST + GROUPS).find(|group| !taken(group)));
    if group.is_none() {
        return Err(refuse(protect, "there is no free group of devices", "--protect mark-terminal"));
    }
    draft.group = group;
    Ok(())
}

pub(super) fn device(draft: &Draft<'_>) -> Option<Step> {
    let group = draft.group?;
    let before = draft.host.link(&draft.tun).map(|link| link.group);
    Some(step(
        Change::Group { name: draft.tun.clone(), group, before },
        "no route by a device of this group counts for our own sockets",
    ))
}

/// Besides those of `mark-terminal`: what the system stack's listeners on the device answer carries our bit as well, as answers
/// to all that came in do, and is to go back into the device.
pub(super) fn guards(draft: &Draft<'_>) -> Guards {
    let mut guards = super::mark_terminal::guards(draft);
    let Some(mark) = draft.mark else { return guards };
    let answers = draft.tun_addresses.iter().map(|net| Guard {
        rule: Rule {
            iif: Some("lo".into()),
            src: IpNet::new(net.addr(), net.max_prefix_len()).ok(),
            fwmark: Some((mark, mark.0)),
            ..rule(Family::V4, Priority(0), RuleAction::Lookup(Table::MAIN))
        },
        only: Some(Family::of_net(*net)),
        why: "our own listeners on the device answer by it; our own sockets never have its address",
    });
    guards.before.splice(0..0, answers);
    guards
}

pub(super) fn explanation(draft: &Draft<'_>) -> String {
    format!(
        "{}; and no route by a device of group {}, which is {} alone, counts for it, whoever made that route",
        super::mark_terminal::explanation(draft),
        draft.group.unwrap_or_default(),
        draft.tun
    )
}
