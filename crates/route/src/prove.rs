//! The proof that the capture's rules exempt our own sockets, asked of the kernel itself.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::apply::{self, Hook};
use crate::error::RouteError;
use crate::id::{Family, Mark};
use crate::journal::Journal;
use crate::plan::{Plan, Protect};
use crate::query::{RouteAnswer, RouteQuery, query};

/// What the kernel said about one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The destination.
    pub dst: IpAddr,
    /// Where a program's packet goes.
    pub program: RouteAnswer,
    /// Where a packet of our own sockets goes: never into the capture device. `None` when there can be
    /// none, because there is no uplink to bind to.
    pub own: Option<RouteAnswer>,
    /// Whether the program's packet is captured.
    pub captured: bool,
}

/// That, of every destination asked about: no own packet is captured, and what must be captured is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The single answers.
    pub checks: Vec<Check>,
}

/// Asks the kernel, with the capture in place, where a program's packet and one of our own go: for the
/// plan's samples and `destinations`. Changes nothing; the rehearsal before the capture is
/// [`Applied::verify`](crate::Applied::verify).
///
/// # Errors
/// [`RouteError::NotProven`] when an own packet would be captured, or a sample would not.
pub fn prove_rules(plan: &Plan, destinations: &[IpAddr]) -> Result<Proof, RouteError> {
    now(plan, destinations)
}

/// Asks with the real capture in place: a program's packet carries no mark.
pub(crate) fn now(plan: &Plan, destinations: &[IpAddr]) -> Result<Proof, RouteError> {
    ask(plan, destinations, None)
}

/// Installs the capture's rules for the rehearsal's mark alone, asks, and removes them again.
pub(crate) fn rehearse(
    plan: &Plan,
    journal: &mut Journal,
    destinations: &[IpAddr],
    hook: Hook<'_>,
) -> Result<Proof, RouteError> {
    let before = journal.done().len();
    let outcome = apply::make(journal, &plan.rehearsal, hook)
        .and_then(|()| ask(plan, destinations, Some(plan.rehearsal_mark)));
    apply::unmake(journal, before, hook)?;
    outcome
}

fn ask(plan: &Plan, destinations: &[IpAddr], rehearsal: Option<Mark>) -> Result<Proof, RouteError> {
    let mut checks = Vec::new();
    let mut all: Vec<IpAddr> = plan.samples.iter().chain(destinations).copied().collect();
    all.sort();
    all.dedup();
    for dst in all {
        let program = RouteQuery { mark: rehearsal, uid: plan.program, ..RouteQuery::to(dst) };
        let program = query(&program)?;
        let own = own_packet(plan, dst, rehearsal).map(|q| query(&q)).transpose()?;
        let captured = program.oif_name == plan.tun_name;
        if own.as_ref().is_some_and(|own| own.oif_name == plan.tun_name) {
            return Err(RouteError::NotProven(format!(
                "a packet of our own to {dst} would be captured; another program's rules may lead to {}",
                plan.tun_name
            )));
        }
        if let Some(query) = bound_program(plan, dst, rehearsal)
            && super::query::query(&query)?.oif_name != plan.tun_name
        {
            return Err(RouteError::NotProven(format!(
                "a program that binds the uplink's address would escape on its way to {dst}: its port is not looked at; \
                 use --protect mark"
            )));
        }
        if !captured && plan.samples.contains(&dst) {
            return Err(RouteError::NotProven(format!(
                "a program's packet to {dst} would not be captured but go {}",
                way(&program)
            )));
        }
        checks.push(Check { dst, program, own, captured });
    }
    Ok(Proof { checks })
}

/// A packet as our own sockets send it; `None` when they refuse to.
fn own_packet(plan: &Plan, dst: IpAddr, rehearsal: Option<Mark>) -> Option<RouteQuery> {
    let mut query = RouteQuery::to(dst);
    query.mark = rehearsal;
    match plan.protect {
        Protect::Mark | Protect::MarkTerminal | Protect::MarkIfgroup => {
            let bits = plan.mark.map_or(0, |m| m.0) | rehearsal.map_or(0, |m| m.0);
            query.mark = Some(Mark(bits));
        }
        // A socket bound to loopback's addresses is never bound to a device (SO_BINDTODEVICE would send
        // it out on the wire).
        Protect::Bind if !dst.is_loopback() => {
            query.oif = Some(plan.uplinks.get(Family::of(dst))?.index);
        }
        Protect::Bind => {}
        // One to this host itself is not bound either.
        Protect::SourceRule if !dst.is_loopback() => {
            let sources = plan.sources?;
            query = query.from(sources.get(Family::of(dst))?, sources.ports.0);
        }
        Protect::SourceRule => {}
        protect if protect.is_host_route() && (plan.servers.contains(&dst) || dst.is_loopback()) => {}
        // They are refused, or of another namespace.
        Protect::HostRoute | Protect::HostRouteHalves | Protect::Netns => return None,
    }
    Some(query)
}

/// A program that binds the address that our own sockets have, but none of their ports: it must not escape.
fn bound_program(plan: &Plan, dst: IpAddr, rehearsal: Option<Mark>) -> Option<RouteQuery> {
    let sources = plan.sources.filter(|_| plan.samples.contains(&dst))?;
    let src = Some(sources.get(Family::of(dst))?);
    Some(RouteQuery { mark: rehearsal, src, uid: plan.program, ..RouteQuery::to(dst) })
}

fn way(answer: &RouteAnswer) -> String {
    match answer.oif {
        Some(_) => format!("by {}", answer.oif_name),
        None => format!("nowhere ({:?})", answer.kind).to_lowercase(),
    }
}
