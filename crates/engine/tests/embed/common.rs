//! What several tests need.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};
use std::{fs, thread};

use oneway::Engine;
use oneway::config::{Config, Options};
use oneway_lab::NetNs;
use oneway_lab::harness::{Failed, TestResult};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A configuration by its text.
pub fn config(text: &str) -> Result<Config, Failed> {
    let nothing = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    Ok(Config::from_toml(Path::new("test.toml"), text, Options::default(), &nothing)?.config)
}

/// The configuration of a proxy.
pub fn through(server: SocketAddr) -> String {
    format!("[outbound.p]\ntype = \"socks5\"\nserver = \"{server}\"\n[rules]\nlist = [\"MATCH,p\"]\n")
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

/// Waits until no other thread of this process is in the calling thread's namespace. Other tests have theirs elsewhere.
pub fn until_alone() -> TestResult {
    let namespace = |thread: &Path| fs::metadata(thread.join("ns/net")).map(|found| found.ino());
    let here = namespace(Path::new("/proc/thread-self"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let threads = fs::read_dir("/proc/self/task")?.flatten().map(|thread| thread.path());
        // One that ends meanwhile is in none.
        let mut others = threads.filter(|thread| namespace(thread).is_ok_and(|found| found == here)).skip(1);
        match others.next() {
            None => return Ok(()),
            // One that was waited for may be seen for a moment.
            Some(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Some(other) => return Err(fs::read_to_string(other.join("comm"))?.into()),
        }
    }
}

/// Does `work`, and `then` on its thread each time it logs a message with these words.
pub fn when_it_says<T>(
    message: &'static str,
    then: impl Fn() + Send + Sync + 'static,
    work: impl FnOnce() -> T,
) -> T {
    static EVERYBODY: Once = Once::new();
    // With one subscriber alone, `tracing` asks that of the thread that comes first whether a message is of interest to any.
    EVERYBODY.call_once(|| {
        let _ = tracing::subscriber::set_global_default(Log { message: "", then: || {} });
    });
    tracing::subscriber::with_default(Log { message, then }, work)
}

/// A log that does something when a message comes.
struct Log<F> {
    message: &'static str,
    then: F,
}

impl<F: Fn() + Send + Sync + 'static> Subscriber for Log<F> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut said = false;
        event.record(&mut |field: &Field, value: &dyn Debug| {
            said |= field.name() == "message" && format!("{value:?}").contains(self.message);
        });
        if said {
            (self.then)();
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
