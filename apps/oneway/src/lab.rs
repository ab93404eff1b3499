//! `oneway lab`: each kind of routing loop, first made, then stopped.

mod kind;

#[cfg(target_os = "linux")]
#[path = "lab/linux/mod.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "lab/unsupported.rs"]
mod os;

use std::process::ExitCode;

use kind::Kind;
pub(crate) use os::part;

use crate::args::LabArgs;
use crate::failure::Failure;
use crate::output::Output;

/// Lists the kinds, or plays those that are named; all of them if none is.
pub(crate) fn lab(args: &LabArgs, output: Output) -> Result<ExitCode, Failure> {
    if let [word] = args.ids.as_slice()
        && word == "list"
    {
        output.print(list(), &kind::ALL)?;
        return Ok(ExitCode::SUCCESS);
    }
    let known = |id: &String| {
        let found = kind::ALL.iter().find(|kind| kind.id.eq_ignore_ascii_case(id));
        found.ok_or_else(|| {
            Failure::usage(format_args!("there is no loop {id:?}; `oneway lab list` lists them"))
        })
    };
    let mut wanted = args.ids.iter().map(known).collect::<Result<Vec<&'static Kind>, _>>()?;
    if wanted.is_empty() {
        wanted.extend(&kind::ALL);
    }
    os::play(&wanted, args.each, output)
}

fn list() -> String {
    let lines = kind::ALL.iter().map(|kind| format!("{:<4} {:<66} {}", kind.id, kind.name, kind.seen));
    lines.collect::<Vec<_>>().join("\n")
}
