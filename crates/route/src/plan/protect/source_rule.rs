//! `source-rule`: our sockets are bound to the uplink's address and to a port of a range of our own, and the capture's
//! rules take everything but that.
//!
//! The address alone would not do: any program may bind it, and would escape. The ports are none that the kernel
//! hands out (`net.ipv4.ip_local_port_range`), so that a program must ask for one of them by number. With root's user in
//! the rule it must be root's, too. What remains, and cannot be excluded: a program of the same user that binds the
//! uplink's address and such a port.
//!
//! One rule captures and exempts at once (`not from ADDRESS sport FIRST-LAST`), so that whoever deletes it ends the capture.

use super::{Draft, Guard, Guards, PlanError, Protect, refuse, rule};
use crate::host::{Rule, RuleAction, Snapshot};
use crate::id::{Family, Priority};
use crate::plan::Sources;

pub(super) const WHY_CAPTURED: &str =
    "captures all that is not of our ports at the uplink's address; our own sockets are bound to those";

/// As many connections there can be to one server at a time; fewer where there is no more room.
const WIDTHS: [u16; 4] = [8_192, 4_096, 2_048, 1_024];
/// What the kernel hands out where nobody has changed it.
const DEFAULT_RANGE: (u16, u16) = (32_768, 60_999);

pub(super) fn prepare(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let Some(ports) = draft.request.ports.or_else(|| free_ports(draft.host)) else {
        return Err(refuse(
            Protect::SourceRule,
            "there is no range of ports that the kernel does not hand out to every program and that no server uses",
            "--protect mark, or narrow net.ipv4.ip_local_port_range",
        ));
    };
    let address = |family| draft.uplinks.get(family).and_then(|uplink| uplink.address);
    draft.sources = Some(Sources {
        ports,
        uid: draft.request.root.then_some(0),
        v4: address(Family::V4),
        v6: address(Family::V6),
    });
    if !draft.request.root {
        draft.notes.push(format!(
            "a program that binds the uplink's address and a port of {}-{} is taken for ours",
            ports.0, ports.1
        ));
    }
    for family in draft.families.clone() {
        if draft.uplinks.get(family).is_some() && address(family).is_none() {
            draft.notes.push(format!("the {family} uplink has no address to bind to: nothing leaves by it"));
        }
    }
    Ok(())
}

fn free_ports(host: &Snapshot) -> Option<(u16, u16)> {
    let text = host.sysctls.get("net/ipv4/ip_local_port_range");
    let handed_out = text.and_then(|text| {
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let (low, high) = handed_out.unwrap_or(DEFAULT_RANGE);
    let free = |first: u16, last: u16| {
        (last < low || first > high) && !host.serving.iter().any(|port| (first..=last).contains(port))
    };
    WIDTHS.into_iter().find_map(|width| {
        // From 2048 on: below are the ports of well-known servers.
        let firsts = (2_u16..64).rev().map(|n| n * 1_024);
        // A rule's range ends below the last port (`fib_rule_port_range_valid`, include/net/fib_rules.h).
        let ends = |first: u16| first.checked_add(width - 1).map(|last| last.min(u16::MAX - 1));
        firsts.filter_map(|first| Some((first, ends(first)?))).find(|(a, b)| free(*a, *b))
    })
}

pub(super) fn guards(draft: &Draft<'_>) -> Guards {
    if draft.sources.is_none_or(|sources| sources.v4.or(sources.v6).is_none()) {
        return Guards::default();
    }
    let mut before = Vec::new();
    if let Some(mark) = draft.mark {
        before.push(Guard {
            rule: Rule { fwmark: Some((mark, mark.0)), ..rule(Family::V4, Priority(0), RuleAction::Nop) },
            only: None,
            why: "answers to incoming connections are not captured",
        });
    }
    if !draft.request.forwarded {
        before.push(Guard {
            rule: Rule {
                invert: true,
                iif: Some("lo".into()),
                ..rule(Family::V4, Priority(0), RuleAction::Nop)
            },
            only: None,
            why: "only what this host itself sends is captured",
        });
    }
    Guards { before, inverted: true, ..Guards::default() }
}

pub(super) fn explanation(draft: &Draft<'_>) -> String {
    let Some(sources) = draft.sources else { return String::new() };
    let addresses: Vec<_> = [sources.v4, sources.v6].into_iter().flatten().map(|a| a.to_string()).collect();
    let of = sources.uid.map(|uid| format!(", of user {uid}")).unwrap_or_default();
    if addresses.is_empty() {
        return "there is no uplink with an address yet, and no socket is made before there is".to_owned();
    }
    format!(
        "our own sockets are bound to {} and a port of {}-{}{of}, which the kernel gives to nobody by itself; the rules \
         that lead into {} match everything but that, so that there is no rule that exempts and could be lost alone",
        addresses.join(" or "),
        sources.ports.0,
        sources.ports.1,
        draft.tun
    )
}
