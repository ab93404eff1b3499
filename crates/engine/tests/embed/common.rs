//! What several tests need.

use std::path::Path;

use oneway::Engine;
use oneway::config::{Config, Options};
use oneway_lab::NetNs;
use oneway_lab::harness::{Failed, TestResult};

/// A configuration by its text.
pub fn config(text: &str) -> Result<Config, Failed> {
    let nothing = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    Ok(Config::from_toml(Path::new("test.toml"), text, Options::default(), &nothing)?.config)
}

/// An engine that was started on a thread in `host`.
pub fn start(host: &NetNs, text: &str) -> Result<Engine, Failed> {
    let config = config(text)?;
    Ok(host.run(|| Engine::start(&config))??)
}

/// Does something inside of a runtime.
pub fn in_a_runtime(work: impl FnOnce() -> TestResult) -> TestResult {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async { work() })
}
