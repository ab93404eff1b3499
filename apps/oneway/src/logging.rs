//! Logs to stderr.

use std::io::{self, IsTerminal};

use oneway::config::{LogConfig, LogFormat, LogLevel};
use tracing::level_filters::LevelFilter;

/// Starts logging. To be called once, before anything worth a line happens.
pub(crate) fn start(log: LogConfig) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
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
