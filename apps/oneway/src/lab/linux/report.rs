//! What is printed.

use std::process::ExitCode;

use serde::Serialize;

use super::run::{Outcome, Seen};
use crate::failure::{FAILED, Failure};
use crate::lab::kind::Kind;
use crate::output::Output;

/// A kind of loop, and each run of it.
#[derive(Debug, Serialize)]
struct Played {
    #[serde(flatten)]
    kind: &'static Kind,
    /// Why it does not loop even without its guards.
    harmless: Option<&'static str>,
    runs: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    ok: bool,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Collects what was seen and prints it as it comes.
pub(super) struct Report {
    output: Output,
    played: Vec<Played>,
}

impl Report {
    pub(super) fn new(output: Output) -> Self {
        Self { output, played: Vec::new() }
    }

    /// A line for people.
    pub(super) fn say(&self, text: &str) {
        if !self.output.is_json() {
            // What could not be shown is said by the verdict, which could not be either.
            let _ = self.output.print(text, &());
        }
    }

    /// What comes now is about this kind.
    pub(super) fn kind(&mut self, kind: &'static Kind) {
        self.say(&format!("\n{} {}: {}", kind.id, kind.name, kind.seen));
        self.played.push(Played { kind, harmless: None, runs: Vec::new() });
    }

    /// A run in which it must loop, unless it is `harmless`.
    pub(super) fn unguarded(&mut self, outcome: Outcome, harmless: Option<&'static str>) {
        let looped = outcome.seen == Seen::Loops;
        let ok = looped == harmless.is_none() && outcome.refused.is_none();
        self.line(ok, outcome);
        if let Some(why) = harmless {
            self.say(&format!("         it does not loop even so: {why}"));
            if let Some(played) = self.played.last_mut() {
                played.harmless = harmless;
            }
        }
    }

    /// A run in which it must not loop: the guards that are not left out stop it.
    pub(super) fn guarded(&mut self, outcome: Outcome) {
        let ok = outcome.seen == Seen::Still;
        self.line(ok, outcome);
    }

    fn line(&mut self, ok: bool, outcome: Outcome) {
        let may_be_proven = outcome.doctor != "proven" || !outcome.is_sabotaged();
        let ok = ok && may_be_proven && outcome.left_behind.is_none();
        self.say(&text(ok, &outcome));
        if let Some(played) = self.played.last_mut() {
            played.runs.push(Line { ok, outcome });
        }
    }

    /// Prints the verdict, and says how to exit.
    pub(super) fn end(self) -> Result<ExitCode, Failure> {
        let runs = || self.played.iter().flat_map(|played| &played.runs);
        let failed = runs().filter(|line| !line.ok).count();
        let text = match failed {
            0 => "\nwhat was to loop has looped, what was guarded has not, and each host is as it was"
                .to_owned(),
            n => format!("\n{n} of {} runs FAILED", runs().count()),
        };
        self.output.print(text, &serde_json::json!({ "failed": failed, "kinds": self.played }))?;
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }
}

fn text(ok: bool, outcome: &Outcome) -> String {
    let guards = match outcome.without.as_str() {
        "" => "guarded".to_owned(),
        names => format!("without {names}"),
    };
    let seen = match (outcome.seen, &outcome.refused) {
        (_, Some(why)) => format!("it does not start: {why}"),
        (seen, None) => {
            let seen = match seen {
                Seen::Loops => "LOOPS",
                Seen::Still => "still",
                Seen::Unclear => "unclear",
            };
            format!(
                "{seen}: {} packets ({}/s) read from the TUN for {} sent, {} on the wire, {} % of a processor",
                outcome.packets, outcome.packets_per_s, outcome.sent, outcome.wire, outcome.cpu_percent
            )
        }
    };
    let mark = if ok { "ok    " } else { "FAILED" };
    let left = outcome.left_behind.as_ref().map(|diff| format!("\n         left behind: {diff}"));
    format!("  {mark} {guards}\n         {seen}; doctor: {}{}", outcome.doctor, left.unwrap_or_default())
}
