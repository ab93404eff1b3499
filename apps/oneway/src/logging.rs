//! Logs to stderr, without ever waiting for whoever reads it: a full pipe, a journal that is slow or a terminal that was
//! stopped must hold up neither the guard, nor the workers, nor the stop.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use oneway::config::{LogConfig, LogFormat, LogLevel};
use tracing::level_filters::LevelFilter;

use queue::Queue;

/// How long the end of the program waits for a reader.
const FAREWELL: Duration = Duration::from_secs(1);

/// There once logging has started. Commands that log nothing, and become another program perhaps, have no thread for it.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Starts logging. To be called once, before anything worth a line happens.
pub(crate) fn start(log: LogConfig) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    start_thread();
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        // With stderr closed the report of that would panic.
        .log_internal_errors(false);
    match log.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        // The journal has the time already (JOURNAL_STREAM in systemd.exec(5)).
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => builder.without_time().init(),
        LogFormat::Text => builder.init(),
    }
}

/// Writes a line to stderr, behind what was logged before.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let line = format!("{text}\n");
    match QUEUE.get() {
        Some(queue) => queue.insist(line.as_bytes()),
        // Nobody to tell that nobody listens.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Gives the reader a moment to take what was said. Before the program ends or is ended.
pub(crate) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FAREWELL);
    }
}

/// Calls [`flush`] when it is dropped, also by a panic.
#[must_use]
pub(crate) struct AtEnd;

impl Drop for AtEnd {
    fn drop(&mut self) {
        flush();
    }
}

/// A line of the log: `tracing_subscriber` writes each by one call.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.offer(line),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where no thread can be started, lines are written by whoever has them.
fn start_thread() {
    let queue = Arc::new(Queue::default());
    let writing = Arc::clone(&queue);
    let lost = |lines| tracing::warn!(lines, "lines of the log were lost here, as nobody read stderr");
    let started = thread::Builder::new()
        .name("oneway-log".to_owned())
        .spawn(move || writing.write_to(io::stderr(), lost));
    if started.is_ok() && QUEUE.set(queue).is_ok() {
        panic::set_hook(Box::new(|info| say(format_args!("{}", Panic(info)))));
    }
}

/// What the hook of the standard library prints: it writes to stderr itself, and would wait for its reader.
struct Panic<'a>(&'a PanicHookInfo<'a>);

impl fmt::Display for Panic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\nthread '{}' {}", thread::current().name().unwrap_or("<unnamed>"), self.0)?;
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => write!(f, "\nstack backtrace:\n{trace}"),
            _ => {
                f.write_str("\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace")
            }
        }
    }
}
