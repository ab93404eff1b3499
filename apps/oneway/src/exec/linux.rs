//! The process outside, which carries what the program sends, and the one inside, which becomes the program.
//!
//! It stays in the caller's process group: what the terminal sends (interrupt, stop, continue) comes to both by itself, and
//! a shell's job control works. What is sent to this process alone is passed on.

mod signals;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneway::apart::{ApartError, Outside};
use oneway::config::Loaded;
use oneway::{Engine, EngineError};
use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit};

use crate::args::{CaptureArgs, Global};
use crate::failure::{FAILED, Failure};
use crate::{commands, logging, program};

/// How long what the program has left in its sockets may take, as long as it moves.
const LINGER: Duration = Duration::from_secs(30);
/// How long it may stand still.
const STILL: Duration = Duration::from_millis(500);

/// Runs a program and ends as it does.
pub(crate) fn exec(global: &Global, args: CaptureArgs, command: &[OsString]) -> Result<ExitCode, Failure> {
    if global.control.is_some() {
        return Err(Failure::usage("--control has no meaning with `oneway exec`: it ends with the program"));
    }
    let Loaded { mut config, warnings, .. } = commands::load(&global.quiet_by_default(), args)?;
    logging::start(config.log);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let (outside, inner) = Outside::new(&mut config).map_err(failure)?;
    let mut child = {
        // It has to outlive exec in the child, and nothing else is started here.
        rustix::io::fcntl_setfd(&inner, FdFlags::empty())
            .map_err(|e| Failure::new(FAILED, format!("cannot hand over a channel: {e}; try again")))?;
        use std::os::fd::AsRawFd;
        spawn(inner.as_raw_fd(), command)?
    };
    let started =
        outside.receive().map_err(EngineError::from).and_then(|tun| Engine::start_apart(&config, tun));
    let engine = match started {
        Ok(engine) => Arc::new(engine),
        Err(error) => {
            // With the channel closed it gives up by itself.
            drop(outside);
            let _ = child.wait();
            return Err(failure(error));
        }
    };
    tracing::info!("the program may start: {}", engine.ready_line());
    let outcome = signals::Signals::take().and_then(|signals| {
        outside.go().map_err(|error| failure(error.into()))?;
        signals.wait(&mut child)
    });
    let status = match outcome {
        Ok(status) => status,
        Err(failure) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failure);
        }
    };
    linger(&engine);
    drop(engine);
    // A signal may be the end.
    logging::flush();
    end_as(status)
}

/// Starts this program again, which is to become the other one.
fn spawn(channel: i32, command: &[OsString]) -> Result<Child, Failure> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the program that the user has named needs a process of its own"
    )]
    let mut inside = Command::new("/proc/self/exe");
    inside.arg("exec-inside").arg(channel.to_string()).arg("--").args(command);
    inside.spawn().map_err(|e| {
        Failure::new(
            FAILED,
            format!("cannot start a process: {e}; is /proc mounted, and what says `ulimit -u`?"),
        )
    })
}

/// What happens in that process.
pub(crate) fn inside(channel: i32, command: &[OsString]) -> Result<ExitCode, Failure> {
    match oneway::apart::enter(channel) {
        Ok(()) => Err(program::become_it(command)),
        // The process outside has given up, and says why.
        Err(ApartError::Talk(error)) if error.kind() == ErrorKind::UnexpectedEof => {
            Ok(ExitCode::from(FAILED))
        }
        Err(error @ ApartError::Talk(_)) => Err(Failure::new(FAILED, error)),
        // The process outside knows, and says it.
        Err(_) => Ok(ExitCode::from(FAILED)),
    }
}

/// A program may end before the last of what it has sent has left: the kernel still has it.
fn linger(engine: &Engine) {
    let (end, mut moved) = (Instant::now() + LINGER, Instant::now());
    let mut before = None;
    loop {
        let flows = engine.flows();
        let open: Vec<_> = flows.iter().filter(|flow| flow.network == "tcp").collect();
        let sum = open.iter().map(|flow| flow.bytes.up).sum::<u64>();
        if before != Some((open.len(), sum)) {
            before = Some((open.len(), sum));
            moved = Instant::now();
        }
        if open.is_empty() || moved.elapsed() >= STILL || Instant::now() >= end {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends as the program did, also by a signal: shells look at that.
fn end_as(status: ExitStatus) -> Result<ExitCode, Failure> {
    if let Some(signal) = status.signal() {
        // Its image of memory is the one that is of interest, if any.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        let _ = rustix::process::setrlimit(Resource::Core, none);
        // It does not return, unless the signal is none that ends a process.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        return Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILED)));
    }
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)))
}

fn failure(error: EngineError) -> Failure {
    Failure::new(error.exit_code(), error)
}
