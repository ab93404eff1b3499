//! `--capture tproxy`: this host's own TCP and UDP come to our transparent sockets; all else comes by the device.

use super::capture::{Rules, prepare, rule};
use super::{Divert, Draft, Phase, PlanError, Protect, Step, choose};
use crate::change::{Change, RouteSpec};
use crate::host::{NftSupport, Rule, RuleAction};
use crate::id::{Mark, Priority};
use crate::nft::TproxyTable;

/// Looks whether the host can do it, and chooses what it needs besides.
pub(super) fn prepare_for(draft: &mut Draft<'_>, taken: [Mark; 2]) -> Result<(), PlanError> {
    if draft.request.tproxy.is_none() {
        return Ok(());
    }
    if draft.host.nft == NftSupport::Missing {
        return Err(PlanError::NoTproxy("this kernel has no nftables with connection tracking".to_owned()));
    }
    if draft.request.protect == Protect::HostRouteHalves {
        return Err(PlanError::NoTproxy(
            "the rules of --protect host-route-halves leave no place for its own".to_owned(),
        ));
    }
    draft.divert = Some(Divert {
        mark: choose::mark_but(draft.host, taken)?,
        table: choose::table_but(draft.host, draft.table)?,
    });
    draft.notes.push(
        "by TPROXY come TCP and UDP of this host; ICMP and what is forwarded come by the device, as with --capture tun"
            .to_owned(),
    );
    Ok(())
}

/// The routes that lead to loopback.
pub(super) fn routes(draft: &Draft<'_>) -> Vec<Step> {
    let Some(divert) = draft.divert else { return Vec::new() };
    let local = |family: &crate::id::Family| {
        let spec = RouteSpec {
            dev: Some("lo".to_owned()),
            local: true,
            ..RouteSpec::throw(divert.table, family.everything())
        };
        prepare(
            Change::Route(spec),
            "what is handed to our own sockets is for this host, wherever it was meant for",
        )
    };
    draft.families.iter().map(local).collect()
}

/// How many priorities its rule takes.
pub(super) fn rule_count(draft: &Draft<'_>) -> usize {
    usize::from(draft.divert.is_some())
}

/// The rule that leads there; nothing bears its mark before the packet filter gives it.
pub(super) fn rules(draft: &Draft<'_>, rules: &mut Rules, at: Priority) {
    let Some(divert) = draft.divert else { return };
    rules.prepare.extend(draft.families.iter().map(|family| {
        let rule = Rule {
            iif: Some("lo".into()),
            fwmark: Some((divert.mark, divert.mark.0)),
            ..rule(*family, at, RuleAction::Lookup(divert.table))
        };
        prepare(Change::Rule(rule), "what is handed to our own sockets goes to loopback")
    }));
}

/// The table that hands it over.
pub(super) fn table(draft: &Draft<'_>) -> Option<Step> {
    let table = TproxyTable {
        name: choose::nft_name(draft.host, "oneway_tproxy"),
        tun: draft.tun.clone(),
        mark: draft.mark?,
        divert: draft.divert?.mark,
        port: draft.request.tproxy?,
    };
    Some(Step {
        phase: Phase::Capture,
        change: Change::Tproxy(table),
        why: "what would go into the device comes to our own sockets; what they send never goes there".into(),
    })
}
