//! What all scenarios need.

use std::time::Duration;

use oneway_lab::harness::Failed;
use oneway_lab::program::Program;
use oneway_lab::topology::{Simple, address, port};
use oneway_lab::{LabError, NetNs, Oneway, Topology};
use serde_json::Value;

/// The program under test.
pub const ONEWAY: &str = env!("CARGO_BIN_EXE_oneway");
/// The name that it gives its device where nobody has taken it.
pub const TUN: &str = "oneway0";
/// One second.
pub const SECOND: Duration = Duration::from_secs(1);

/// The first kernel that the program can have rename packets (TCX); on an older one all packets come by the program.
pub const TCX: (u32, u32) = (6, 6);

/// The stack that this test is about.
pub fn stack() -> &'static str {
    match oneway_lab::harness::variant() {
        "" => "user",
        variant => variant,
    }
}

/// The proxy of the laboratory that speaks this scheme.
pub fn proxy(scheme: &str) -> String {
    match scheme {
        "http" => format!("http://{}", address::HTTP_PROXY.v4_port(port::HTTP_PROXY)),
        _ => format!("{scheme}://{}", address::SOCKS.v4_port(port::SOCKS)),
    }
}

/// A laboratory with the program running, by a proxy or directly.
pub fn lab(scheme: Option<&str>, options: &[&str]) -> Result<(Simple, Oneway), LabError> {
    let lab = Topology::simple()?;
    let oneway = run(&lab.host, scheme, options)?;
    Ok((lab, oneway))
}

/// The same, whatever stack the test is about.
pub fn lab_with(stack: &str, scheme: Option<&str>, options: &[&str]) -> Result<(Simple, Oneway), LabError> {
    let lab = Topology::simple()?;
    let oneway = run_with(stack, &lab.host, scheme, options)?;
    Ok((lab, oneway))
}

/// Starts `oneway run`.
pub fn run(host: &NetNs, scheme: Option<&str>, options: &[&str]) -> Result<Oneway, LabError> {
    run_with(stack(), host, scheme, options)
}

/// The words of `oneway run` with the stack that this test is about.
pub fn run_words(options: &[&str]) -> Vec<String> {
    ["run", "--stack", stack()].iter().chain(options).map(|&word| word.to_owned()).collect()
}

fn run_with(stack: &str, host: &NetNs, scheme: Option<&str>, options: &[&str]) -> Result<Oneway, LabError> {
    let mut words: Vec<String> = ["run", "--stack", stack].map(str::to_owned).to_vec();
    if let Some(scheme) = scheme {
        words.extend(["--proxy".to_owned(), proxy(scheme)]);
    }
    words.extend(options.iter().map(|&word| word.to_owned()));
    Program::new(host, ONEWAY, words).ready("ready:", 10 * SECOND).start()
}

/// A command's answer as JSON.
pub fn ask(host: &NetNs, word: &str) -> Result<Value, Failed> {
    let mut running = Program::new(host, ONEWAY, [word, "--json"]).start()?;
    running.wait(10 * SECOND)?;
    let text = running.stdout();
    serde_json::from_str(&text).map_err(|error| format!("`oneway {word} --json`: {error}: {text}").into())
}
