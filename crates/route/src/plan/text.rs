//! A plan for people.

use std::fmt::Write as _;

use super::{Phase, Plan};
use crate::change::{Change, indented};
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
    let mut number = 0;
    let mut phase = None;
    for step in &plan.steps {
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
        if number == 0
            && let Some(name) = new_device(plan)
        {
            number += 1;
            let _ = writeln!(out, "{number:2}. ip tuntap add dev {name} mode tun");
            let _ = writeln!(out, "    undo: vanishes with this program, which holds it open");
            let _ = writeln!(
                out,
                "    why:  what is captured is read from it, and what is answered written to it"
            );
        }
        number += 1;
        indented(&mut out, &format!("{number:2}. "), &step.change);
        indented(&mut out, "    undo: ", &step.change.undo());
        indented(&mut out, "    why:  ", &step.why);
    }
    out
}

/// The device, if there is none of that name yet. It is no step: whoever reads from it makes it before all of them.
fn new_device(plan: &Plan) -> Option<&str> {
    plan.steps.iter().find_map(|step| match &step.change {
        Change::Link { name, before: None, .. } => Some(name.as_str()),
        _ => None,
    })
}

fn mark(plan: &Plan) -> String {
    plan.mark.map_or_else(|| "none".into(), |m| m.to_string())
}
