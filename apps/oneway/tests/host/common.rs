//! What all scenarios need.

use std::time::Duration;

use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{LabError, NetNs, Oneway, Snapshot};
use serde_json::Value;

/// The program under test.
pub const ONEWAY: &str = env!("CARGO_BIN_EXE_oneway");
/// The name that it gives its device where nobody has taken it.
pub const TUN: &str = "oneway0";
/// One second.
pub const SECOND: Duration = Duration::from_secs(1);

/// The stack that this test is about.
pub fn stack() -> &'static str {
    match oneway_lab::harness::variant() {
        "" => "user",
        variant => variant,
    }
}

/// `oneway run` in `host`, ready when it says so.
pub fn program(host: &NetNs, path: &str, options: &[&str]) -> Program {
    let words = [&["run", "--stack", stack()], options].concat();
    Program::new(host, path, words).ready("ready:", 10 * SECOND)
}

/// Starts `oneway run` in `host`.
pub fn run(host: &NetNs, options: &[&str]) -> Result<Oneway, LabError> {
    program(host, ONEWAY, options).start()
}

/// A command that has ended.
pub struct Finished {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// Runs a command of the program in `host` to its end.
pub fn command(host: &NetNs, words: &[&str]) -> Result<Finished, LabError> {
    let mut running = Program::new(host, ONEWAY, words).start()?;
    let code = running.wait(10 * SECOND)?.code();
    Ok(Finished { code, stdout: running.stdout(), stderr: running.stderr() })
}

/// A command's answer as JSON.
pub fn ask(host: &NetNs, word: &str) -> Result<Value, Failed> {
    let finished = command(host, &[word, "--json"])?;
    serde_json::from_str(&finished.stdout).map_err(|error| {
        format!("`oneway {word} --json`: {error}: {} {}", finished.stdout, finished.stderr).into()
    })
}

/// A number of `oneway status --json`, by its JSON pointer.
pub fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {status}"))
}

/// Stops it by SIGTERM: it ends well and in time, and the host is what it was.
pub fn stop(oneway: &mut Oneway, host: &NetNs, before: &Snapshot) -> TestResult {
    let (status, took) = oneway.stop(2 * SECOND)?;
    assert!(status.success(), "{status}: {}", oneway.stderr());
    assert!(took < 2 * SECOND, "stopping took {took:?}");
    before.expect_same(host)?;
    Ok(())
}

/// Whether the origin answers, over both families, by TCP and UDP.
pub fn reaches_origin(host: &NetNs, patience: Duration) -> bool {
    let client = host.client();
    let fetched = |to| client.http_get(to, "/", patience).is_ok_and(|reply| reply.status == 200);
    let echoed = |to| client.udp(to, b"echo", patience).is_ok_and(|answer| answer.outcome == Outcome::Done);
    address::ORIGIN.ports(port::HTTP).into_iter().all(fetched)
        && address::ORIGIN.ports(port::ECHO).into_iter().all(echoed)
}

/// Fails unless the origin answers within a second.
pub fn expect_connectivity(host: &NetNs) -> Result<Duration, LabError> {
    wait_until(SECOND, "the origin answers", || reaches_origin(host, SECOND / 5))
}
