//! `oneway doctor`.

use std::fmt::Write;
use std::process::ExitCode;

use oneway::config::Loaded;
use oneway::control::{ControlReply, ControlRequest, Doctor, LoopFree};

use super::{load, running, unexpected};
use crate::args::{CaptureArgs, Global};
use crate::engine;
use crate::failure::{Failure, PROBLEM};
use crate::logging;
use crate::output::{Output, printable};

/// Gives a verdict on each way out: of the running instance, or of what `run` would do.
pub(crate) fn doctor(global: &Global, args: CaptureArgs, output: Output) -> Result<ExitCode, Failure> {
    let request = ControlRequest::Doctor;
    let report = match running(global)? {
        Some(mut client) => match client.request(&request)? {
            ControlReply::Doctor(report) => *report,
            other => return Err(unexpected(&request, &other)),
        },
        None => {
            let Loaded { config, warnings, .. } = load(global, args)?;
            for warning in &warnings {
                logging::say(format_args!("warning: {warning}"));
            }
            engine::doctor(&config)?
        }
    };
    output.print(text(&report), &report)?;
    Ok(match report.verdict {
        LoopFree::Proven => ExitCode::SUCCESS,
        LoopFree::NotProven | LoopFree::Loops => ExitCode::from(PROBLEM),
    })
}

fn text(report: &Doctor) -> String {
    let about = if report.running { "the running instance" } else { "what `run` would do" };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "about {about}: {}, protected by {}",
        printable(&report.tun),
        printable(&report.protect)
    );
    let name = |name: &str, path: &str| printable(&format!("{name} {path}"));
    let wide = report.paths.iter().map(|p| name(&p.outbound, &p.path).chars().count()).max().unwrap_or(0);
    for path in &report.paths {
        let via = match path.via.as_slice() {
            [] => String::new(),
            some => format!(" (by {})", some.join(", ")),
        };
        let _ = writeln!(
            text,
            "{:<wide$}  loop-free: {:<10}  {}{}",
            name(&path.outbound, &path.path),
            path.loop_free,
            printable(&path.why),
            printable(&via),
        );
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {}", printable(note));
    }
    let _ = write!(text, "loop-free: {}", report.verdict);
    text
}

#[cfg(test)]
mod tests {
    use oneway::control::PathReport;

    use super::*;

    #[test]
    fn columns_line_up() {
        let path = |path: &str, loop_free| PathReport {
            outbound: "direct".to_owned(),
            path: path.to_owned(),
            loop_free,
            why: "so".to_owned(),
            via: vec!["eth0".to_owned()],
        };
        let report = Doctor {
            running: false,
            verdict: LoopFree::Loops,
            tun: "oneway0\u{1b}".to_owned(),
            protect: "mark 0x10".to_owned(),
            paths: vec![path("IPv4 TCP", LoopFree::Proven), path("name a.example", LoopFree::Loops)],
            notes: vec!["this".to_owned()],
        };
        assert_eq!(
            text(&report),
            "about what `run` would do: oneway0\u{fffd}, protected by mark 0x10\n\
             direct IPv4 TCP        loop-free: proven      so (by eth0)\n\
             direct name a.example  loop-free: LOOPS       so (by eth0)\n\
             note: this\n\
             loop-free: LOOPS"
        );
    }
}
