//! Starts the program under test inside a namespace and watches it from outside.

mod prepare;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};

pub use rustix::thread::CapabilitySet;

use crate::error::LabError;
use crate::ns::NetNs;

/// A program that stands still. It goes on when this is dropped.
#[derive(Debug)]
pub struct Suspended<'a>(&'a Oneway);

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        // Whoever is gone by now need not go on.
        let _ = self.0.signal(libc::SIGCONT);
    }
}

/// How the program under test is to be started.
#[derive(Debug, Clone)]
pub struct Program {
    descriptors: Vec<(Arc<OwnedFd>, i32)>,
    capabilities: Option<CapabilitySet>,
    files: Option<u64>,
    namespace: NetNs,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    uid: Option<u32>,
    resolv_conf: Option<String>,
    ready: Option<String>,
    deadline: Duration,
}

impl Program {
    /// The program at `path`, in `namespace`, with `arguments`; ready when it was started.
    pub fn new<S: AsRef<OsStr>>(
        namespace: &NetNs,
        path: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            namespace: namespace.clone(),
            path: path.into(),
            descriptors: Vec::new(),
            capabilities: None,
            files: None,
            arguments: arguments.into_iter().map(|a| a.as_ref().to_owned()).collect(),
            environment: Vec::new(),
            uid: None,
            resolv_conf: None,
            ready: None,
            deadline: Duration::from_secs(10),
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Runs it as this user and group id. In a user namespace only one id exists, and starting it fails.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Leaves it these capabilities only, whatever its user id.
    #[must_use]
    pub fn capabilities(mut self, keep: CapabilitySet) -> Self {
        self.capabilities = Some(keep);
        self
    }

    /// Limits how many file descriptors it may have open (`RLIMIT_NOFILE`, soft and hard).
    #[must_use]
    pub fn file_limit(mut self, files: u64) -> Self {
        self.files = Some(files);
        self
    }

    /// Hands it an open file under this descriptor number, which should be above 2.
    #[must_use]
    pub fn descriptor(mut self, file: impl Into<OwnedFd>, number: i32) -> Self {
        self.descriptors.push((Arc::new(file.into()), number));
        self
    }

    /// Gives it a private `/etc/resolv.conf` with this text; nobody else sees it.
    #[must_use]
    pub fn resolv_conf(mut self, text: impl Into<String>) -> Self {
        self.resolv_conf = Some(text.into());
        self
    }

    /// It is ready when it printed a line to stdout that begins with `line`, within `deadline`.
    #[must_use]
    pub fn ready(mut self, line: impl Into<String>, deadline: Duration) -> Self {
        self.ready = Some(line.into());
        self.deadline = deadline;
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// [`LabError::Program`] when it cannot be started, [`LabError::NotReady`], with its stderr, when it ends or the
    /// deadline passes before.
    pub fn start(&self) -> Result<Oneway, LabError> {
        let fail =
            |what| move |source| LabError::Program { what, program: self.path.display().to_string(), source };
        let mut command = self.namespace.command(&self.path, &self.arguments);
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(text) = &self.resolv_conf {
            prepare::give_resolv_conf(&mut command, text).map_err(fail("write a resolv.conf for"))?;
        }
        for (file, number) in &self.descriptors {
            prepare::give_descriptor(&mut command, file, *number).map_err(fail("hand a descriptor to"))?;
        }
        prepare::limit_descriptors(&mut command, self.files);
        // Last, because the others need root's rights; `CommandExt::uid` would take effect before them.
        if self.uid.is_some() || self.capabilities.is_some() {
            prepare::become_user(&mut command, self.uid, self.capabilities);
        }
        let mut child = prepare::spawn(command).map_err(fail("start"))?;
        let (stderr, stdout) = (Output::default(), Output::default());
        let (lines_out, lines) = mpsc::channel();
        if let Some(pipe) = child.stdout.take() {
            stdout.follow(pipe, Some(lines_out)).map_err(fail("read the stdout of"))?;
        }
        if let Some(pipe) = child.stderr.take() {
            stderr.follow(pipe, None).map_err(fail("read the stderr of"))?;
        }
        let mut running = Oneway {
            program: self.path.display().to_string(),
            child,
            ended: None,
            ready_line: String::new(),
            stdout,
            stderr,
        };
        if let Some(wanted) = &self.ready {
            running.ready_line = running.await_line(&lines, wanted, self.deadline)?;
        }
        Ok(running)
    }
}

/// The program under test, running. Dropping it kills it.
#[derive(Debug)]
pub struct Oneway {
    program: String,
    child: Child,
    ended: Option<ExitStatus>,
    ready_line: String,
    stdout: Output,
    stderr: Output,
}

impl Oneway {
    /// Starts `path` in `namespace` and waits, at most ten seconds, until it printed a line `ready: …`.
    ///
    /// # Errors
    /// As of [`Program::start`].
    pub fn start<S: AsRef<OsStr>>(
        namespace: &NetNs,
        path: impl AsRef<Path>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self, LabError> {
        Program::new(namespace, path.as_ref(), arguments).ready("ready:", Duration::from_secs(10)).start()
    }

    /// The line by which it said that it was ready; empty when it was not asked to.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote to stderr so far. All of it once [`Oneway::wait`] has returned.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends it a signal, `libc::SIGTERM` for example.
    ///
    /// # Errors
    /// [`LabError::Program`] when it is gone, or `number` is no signal.
    pub fn signal(&self, number: i32) -> Result<(), LabError> {
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| self.fail("signal", io::Error::from(io::ErrorKind::InvalidInput)))?;
        if self.ended.is_some() {
            return Err(self.fail("signal", io::Error::from_raw_os_error(libc::ESRCH)));
        }
        rustix::process::kill_process(self.process_id()?, signal)
            .map_err(|error| self.fail("signal", error.into()))
    }

    /// Stops all its threads (SIGSTOP) until the returned value is dropped.
    ///
    /// # Errors
    /// [`LabError::Program`] when it is gone, [`LabError::Deadline`] when it goes on.
    pub fn suspend(&self) -> Result<Suspended<'_>, LabError> {
        self.signal(libc::SIGSTOP)?;
        let suspended = Suspended(self);
        let tasks = format!("/proc/{}/task", self.process_id()?.as_raw_nonzero());
        let stands = |task: &fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        };
        crate::client::wait_until(Duration::from_secs(5), "its threads stand still", || {
            fs::read_dir(&tasks).is_ok_and(|mut all| all.all(|task| task.as_ref().is_ok_and(stands)))
        })?;
        Ok(suspended)
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// [`LabError::Program`] when that fails.
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        let _ = self.child.kill();
        self.wait(Duration::from_secs(10))
    }

    /// Asks it to stop (SIGTERM), waits for its end, and returns how it ended and how long that took.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it still runs after `deadline`.
    pub fn stop(&mut self, deadline: Duration) -> Result<(ExitStatus, Duration), LabError> {
        let begin = Instant::now();
        self.signal(libc::SIGTERM)?;
        let status = self.wait(deadline)?;
        Ok((status, begin.elapsed()))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it still runs after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, LabError> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.try_wait()? {
                // The pipes end with the process, unless it left children that hold them.
                self.stdout.finish(end.max(Instant::now() + Duration::from_millis(500)));
                self.stderr.finish(end.max(Instant::now() + Duration::from_millis(500)));
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(LabError::Deadline {
                    what: format!("{} ends; its stderr:\n{}", self.program, self.stderr()),
                    waited: deadline,
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// [`LabError::Program`] when the kernel does not say.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, LabError> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(|error| self.fail("wait for", error))?;
        }
        Ok(self.ended)
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.try_wait(), Ok(None))
    }

    /// Processor time it used so far, in user and kernel mode, in steps of 10 ms.
    ///
    /// # Errors
    /// [`LabError::Program`] when it is gone.
    pub fn cpu_time(&self) -> Result<Duration, LabError> {
        let stat = self.proc_text("stat")?;
        // The fields after the name in parentheses; 14 and 15 of proc_pid_stat(5) are utime and stime.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        let ticks = field(14) + field(15);
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// How many file descriptors it has open.
    ///
    /// # Errors
    /// [`LabError::Program`] when it is gone.
    pub fn fd_count(&self) -> Result<usize, LabError> {
        Ok(self.list("fd")?.len())
    }

    /// How many threads it has.
    ///
    /// # Errors
    /// [`LabError::Program`] when it is gone.
    pub fn thread_count(&self) -> Result<usize, LabError> {
        Ok(self.list("task")?.len())
    }

    /// The process ids of its children.
    ///
    /// # Errors
    /// [`LabError::Program`] when `/proc` cannot be read.
    pub fn children(&self) -> Result<Vec<u32>, LabError> {
        let processes = fs::read_dir("/proc").map_err(|error| self.fail("list the children of", error))?;
        let parent = self.pid().to_string();
        Ok(processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
                    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1))
                        == Some(parent.as_str())
                })
            })
            .collect())
    }

    /// Memory it holds (resident set), in bytes.
    ///
    /// # Errors
    /// [`LabError::Program`] when it is gone.
    pub fn rss(&self) -> Result<u64, LabError> {
        let status = self.proc_text("status")?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0);
        Ok(kib * 1024)
    }

    fn await_line(
        &mut self,
        lines: &Receiver<String>,
        wanted: &str,
        deadline: Duration,
    ) -> Result<String, LabError> {
        let end = Instant::now() + deadline;
        while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.starts_with(wanted) {
                return Ok(line);
            }
        }
        // The pipe may close a moment before the process can be waited for.
        let state = match self.wait(Duration::from_millis(200)) {
            Ok(status) => describe(status),
            Err(_) => "still running".to_owned(),
        };
        Err(LabError::NotReady {
            program: self.program.clone(),
            wanted: wanted.to_owned(),
            waited: deadline,
            state,
            stderr: self.stderr(),
        })
    }

    fn process_id(&self) -> Result<Pid, LabError> {
        Pid::from_raw(self.pid().cast_signed())
            .ok_or_else(|| self.fail("find", io::Error::from(io::ErrorKind::NotFound)))
    }

    fn proc_text(&self, file: &str) -> Result<String, LabError> {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid()))
            .map_err(|error| self.fail("look at", error))
    }

    fn list(&self, directory: &str) -> Result<Vec<OsString>, LabError> {
        fs::read_dir(format!("/proc/{}/{directory}", self.pid()))
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.file_name())).collect())
            .map_err(|error| self.fail("look at", error))
    }

    fn fail(&self, what: &'static str, source: io::Error) -> LabError {
        LabError::Program { what, program: self.program.clone(), source }
    }
}

impl Drop for Oneway {
    fn drop(&mut self) {
        if self.alive() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// What a program wrote, collected by a thread.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<Collected>>);

#[derive(Debug, Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    fn follow(&self, pipe: impl Read + Send + 'static, lines: Option<Sender<String>>) -> io::Result<()> {
        let collected = self.0.clone();
        collected.lock().ended = false;
        thread::Builder::new().name("lab-output".to_owned()).spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                collected.lock().bytes.extend_from_slice(&line);
                if let Some(lines) = &lines {
                    let _ = lines.send(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
                line.clear();
            }
            collected.lock().ended = true;
        })?;
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().bytes).into_owned()
    }

    fn finish(&self, end: Instant) {
        while !self.0.lock().ended && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
