//! Runs tests that need the laboratory: a test target with `harness = false` whose `main` is [`Harness::run`].

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};

pub use libtest_mimic::Failed;

/// What a test returns. Every error that can be displayed converts with `?`.
pub type TestResult = Result<(), Failed>;

/// The environment variable that makes a test program play another part; see [`Harness::role`].
pub const ROLE: &str = "ONEWAY_LAB_ROLE";

/// How long a test may take before it counts as failed, unless the target says otherwise.
const DEADLINE: Duration = Duration::from_secs(120);

/// How many tests run at a time, unless `--test-threads` says otherwise.
const THREADS: usize = 2;

type Body = Box<dyn FnOnce() -> TestResult + Send>;
type Role = Box<dyn FnOnce() -> TestResult>;

/// The tests of one target.
pub struct Harness {
    tests: Vec<(String, Body)>,
    roles: Vec<(String, Role)>,
    deadline: Duration,
}

impl Default for Harness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness {
    /// No tests yet; a deadline of two minutes for each; two at a time.
    pub fn new() -> Self {
        let mut harness = Self { tests: Vec::new(), roles: Vec::new(), deadline: DEADLINE };
        harness
            .roles
            .push((crate::servers::process::ROLE.to_owned(), Box::new(crate::servers::process::play)));
        harness.roles.push((crate::visitor::ROLE.to_owned(), Box::new(crate::visitor::play)));
        harness
    }

    /// Adds a test. It fails by an error, by a panic, or by taking longer than the deadline.
    #[must_use]
    pub fn test(
        mut self,
        name: impl Into<String>,
        body: impl FnOnce() -> TestResult + Send + 'static,
    ) -> Self {
        self.tests.push((name.into(), Box::new(body)));
        self
    }

    /// Adds a part that this program plays, instead of running tests, when it is started with the environment
    /// variable [`ROLE`] set to `name`. Namespaces are not entered before it.
    #[must_use]
    pub fn role(mut self, name: impl Into<String>, body: impl FnOnce() -> TestResult + 'static) -> Self {
        self.roles.push((name.into(), Box::new(body)));
        self
    }

    /// Sets how long each test may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Enters the laboratory's namespaces, runs the tests that the command line selects, as libtest would, and
    /// returns the exit code for `main`. To be called first thing in `main`.
    pub fn run(self) -> ExitCode {
        if let Ok(wanted) = std::env::var(ROLE) {
            return play(self.roles, &wanted);
        }
        let mut arguments = Arguments::from_args();
        arguments.test_threads = Some(arguments.test_threads.unwrap_or(THREADS));
        if !arguments.list
            && let Err(error) = crate::enter()
        {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
        let deadline = self.deadline;
        let trials = self
            .tests
            .into_iter()
            .map(|(name, body)| {
                let thread_name = name.clone();
                Trial::test(name, move || within(deadline, thread_name, body))
            })
            .collect();
        libtest_mimic::run(&arguments, trials).exit_code()
    }
}

fn play(roles: Vec<(String, Role)>, wanted: &str) -> ExitCode {
    let Some((_, body)) = roles.into_iter().find(|(name, _)| name == wanted) else {
        eprintln!("error: {ROLE}={wanted} names no part that this program can play");
        return ExitCode::FAILURE;
    };
    match body() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("error: {}", failed.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the test on a thread of its own, so that one that hangs cannot hold up the others.
fn within(deadline: Duration, name: String, body: Body) -> TestResult {
    let (done, result) = mpsc::channel();
    let thread = thread::Builder::new().name(name).spawn(move || {
        let outcome = body();
        let _ = done.send(());
        outcome
    })?;
    match result.recv_timeout(deadline) {
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("did not end within {deadline:?}").into()),
        // Sent, or dropped by a panic, which is passed on for libtest to report.
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }
    }
}

thread_local! {
    static VARIANT: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// The variant that the running test was added for by [`variants!`](crate::variants); empty on other threads than the
/// test's own.
pub fn variant() -> &'static str {
    VARIANT.get()
}

/// Runs `body` as of this variant.
pub fn as_variant(variant: &'static str, body: impl FnOnce() -> TestResult) -> TestResult {
    VARIANT.set(variant);
    body()
}

/// Adds the named functions to a [`Harness`], once for each variant, whose name goes in front:
/// `oneway_lab::variants![harness, ["user", "system"], loops::own_address, loops::multicast]`.
#[macro_export]
macro_rules! variants {
    ($harness:expr, [$($variant:literal),*], $($test:path),* $(,)?) => {{
        let mut harness = $harness;
        for variant in [$($variant),*] {
            harness = harness$(.test(
                format!("{variant}::{}", stringify!($test).replace(' ', "")),
                move || $crate::harness::as_variant(variant, $test),
            ))*;
        }
        harness
    }};
}

/// A [`Harness`] with the named functions as tests, each of type `fn() -> TestResult`:
/// `oneway_lab::tests![loops::own_address, loops::multicast]`.
#[macro_export]
macro_rules! tests {
    ($($test:path),* $(,)?) => {
        $crate::harness::Harness::new()$(.test(
            // `stringify!` puts spaces around the colons of a path in some compilers.
            stringify!($test).replace(' ', ""),
            $test,
        ))*
    };
}
