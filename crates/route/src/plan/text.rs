//! A plan for people.

use std::fmt::Write as _;

use super::{Phase, Plan};
use crate::change::indented;
use crate::id::Family;

pub(super) fn text(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(out, "# device {}, table {}, mark {}", plan.tun_name, plan.table, mark(plan));
    for family in Family::ALL {
        if let Some(u) = plan.uplinks.get(family) {
            let address = u.address.map(|a| format!(", address {a}")).unwrap_or_default();
            let gateway = u.gateway.map(|a| format!(", gateway {a}")).unwrap_or_default();
            let _ = writeln!(out, "# {family} uplink {}{address}{gateway}", u.name);
        }
    }
    let _ = writeln!(out, "# protection {}: {}", plan.protect.name(), plan.explanation);
    for note in &plan.notes {
        let _ = writeln!(out, "# note: {note}");
    }
    let mut phase = None;
    for (number, step) in plan.steps.iter().enumerate() {
        if phase != Some(step.phase) {
            phase = Some(step.phase);
            let _ = writeln!(
                out,
                "\n# {}",
                match step.phase {
                    Phase::Prepare => "prepare: nothing is captured yet",
                    Phase::Capture => "capture: after it is proven that our own sockets are exempt",
                }
            );
        }
        indented(&mut out, &format!("{:2}. ", number + 1), &step.change);
        indented(&mut out, "    undo: ", &step.change.undo());
        indented(&mut out, "    why:  ", &step.why);
    }
    out
}

fn mark(plan: &Plan) -> String {
    plan.mark.map_or_else(|| "none".into(), |m| m.to_string())
}
