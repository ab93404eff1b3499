//! From start to undo: what ends a running engine, and in which order things go.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use oneway::Cancel;
use oneway::config::Config;
use oneway::control::{ControlReply, ControlRequest, ControlServer, StatePaths};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::Asked;
use super::notify;
use super::signal::Signals;
use crate::engine::Instance;
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::Output;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

/// For the answers to those who asked for the end to be written, and for the line that says that it is ready.
const FAREWELL: Duration = Duration::from_secs(1);

/// What ends a running engine.
enum End {
    /// A signal of this name.
    Signal(&'static str),
    /// A request on the control socket, to be answered when all is undone.
    Request(oneshot::Sender<ControlReply>),
    /// The engine cannot go on.
    Failed(Failure),
    /// Nobody has confirmed in so many seconds that it is to stay.
    Unconfirmed(u32),
}

/// Whether what was set up is to stay, where that was asked for.
struct Confirmation {
    /// Until when, and how many seconds that was.
    until: Option<(Instant, u32)>,
    given: AtomicBool,
}

impl Confirmation {
    fn new(seconds: Option<u32>) -> Self {
        let until = seconds.map(|n| (Instant::now() + Duration::from_secs(n.into()), n));
        Self { until, given: AtomicBool::new(false) }
    }

    /// It is to stay. False if nobody had asked.
    fn give(&self) -> bool {
        self.given.store(true, Ordering::Release);
        self.until.is_some()
    }

    /// The first thing that ends the engine; none once nothing can.
    fn wait(&self, ended: &Receiver<End>) -> Option<End> {
        let Some((until, seconds)) = self.until else { return ended.recv().ok() };
        match ended.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(end) => Some(end),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) if self.given.load(Ordering::Acquire) => ended.recv().ok(),
            Err(RecvTimeoutError::Timeout) => Some(End::Unconfirmed(seconds)),
        }
    }
}

/// Starts an engine, serves it until something ends it, and stops it. With `confirm` it ends by itself after so many
/// seconds, unless it is told to stay. `load` reads the configuration again when it is asked to.
///
/// Signals are taken over before the start, so that none of them can end the process between a change to the host
/// and its undo: the first one calls off a start that has not captured yet. Further ones during the stop change nothing.
pub(crate) fn serve(
    paths: &StatePaths,
    output: Output,
    confirm: Option<u32>,
    start: impl FnOnce(&Cancel) -> Result<Option<Arc<dyn Instance>>, Failure>,
    load: impl Fn() -> Result<Config, Failure> + Send + Sync + 'static,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("oneway-control")
        .enable_all()
        .build()
        .map_err(|e| {
            Failure::new(FAILED, format!("cannot start the control thread: {e}; check `ulimit -u`"))
        })?;
    let (ends, ended) = channel();
    let serving = Arc::new(OnceLock::new());
    let cancel = Arc::new(Cancel::default());
    watch_signals(&runtime, ends.clone(), Arc::clone(&cancel), Arc::clone(&serving))?;
    paths.prepare()?;
    let server = Arc::new(ControlServer::bind(&paths.control)?);
    let result = start(&cancel).and_then(|instance| {
        let Some(instance) = instance else {
            tracing::info!("stopped before anything was captured");
            return Ok(());
        };
        let confirmation = Arc::new(Confirmation::new(confirm));
        let requests = Requests {
            instance: instance.clone(),
            ends: ends.clone(),
            confirmation: confirmation.clone(),
            load: Arc::new(load),
        };
        let _ = serving.set(requests.clone());
        answer_requests(&runtime, server.clone(), requests);
        watch_failure(instance.clone(), ends)?;
        announce(&*instance, paths, output);
        if let Some(seconds) = confirm {
            tracing::info!("undoing everything in {seconds} s unless `oneway confirm` comes before");
        }
        until_stopped(&runtime, &server, &*instance, ended, &confirmation)
    });
    server.remove();
    paths.tidy();
    // Without waiting: a client that holds its connection open is not worth a delay.
    runtime.shutdown_background();
    result
}

fn watch_signals(
    runtime: &Runtime,
    ends: Sender<End>,
    cancel: Arc<Cancel>,
    serving: Arc<OnceLock<Requests>>,
) -> Result<(), Failure> {
    let entered = runtime.enter();
    let mut signals = Signals::new()
        .map_err(|e| Failure::new(FAILED, format!("cannot take over the signals: {e}; try again")))?;
    drop(entered);
    runtime.spawn(async move {
        let mut asked_before = false;
        loop {
            let name = match signals.next().await {
                Asked::End(name) => name,
                Asked::Reload => {
                    if let Some(Requests { instance, load, .. }) = serving.get().cloned()
                        && !asked_before
                    {
                        // What comes of it is in the log.
                        let _ = tokio::task::spawn_blocking(move || reload(&*instance, &*load)).await;
                    }
                    continue;
                }
            };
            if asked_before {
                tracing::info!("{name}: stopping already; the changes to this host are being undone");
            }
            asked_before = true;
            cancel.cancel();
            // Nobody receives any more once the engine has stopped.
            let _ = ends.send(End::Signal(name));
        }
    });
    Ok(())
}

/// Waits on a thread of its own: the engine blocks.
fn watch_failure(instance: Arc<dyn Instance>, ends: Sender<End>) -> Result<(), Failure> {
    let watched = instance.clone();
    let spawned = std::thread::Builder::new().name("oneway-watch".to_owned()).spawn(move || {
        if let Some(failure) = watched.wait_until_failed() {
            let _ = ends.send(End::Failed(failure));
        }
    });
    spawned.map(drop).map_err(|e| {
        // The host is captured by now and must not stay so.
        if let Err(failure) = instance.stop() {
            tracing::error!("{failure}");
        }
        Failure::new(FAILED, format!("cannot start a thread: {e}; check `ulimit -u`"))
    })
}

/// What requests are answered with.
#[derive(Clone)]
struct Requests {
    instance: Arc<dyn Instance>,
    ends: Sender<End>,
    confirmation: Arc<Confirmation>,
    load: Arc<dyn Fn() -> Result<Config, Failure> + Send + Sync>,
}

fn answer_requests(runtime: &Runtime, server: Arc<ControlServer>, requests: Requests) {
    runtime.spawn(async move {
        server
            .serve(move |request| {
                let Requests { instance, ends, confirmation, load } = requests.clone();
                async move {
                    match request {
                        ControlRequest::Status => ControlReply::Status(Box::new(instance.status())),
                        ControlRequest::Flows => ControlReply::Flows(instance.flows()),
                        // They ask the kernel hundreds of questions, while others want answers too.
                        ControlRequest::Doctor => {
                            apart(move || Ok(ControlReply::Doctor(Box::new(instance.doctor()?)))).await
                        }
                        ControlRequest::Why(question) => {
                            apart(move || Ok(ControlReply::Why(Box::new(instance.why(&question)?)))).await
                        }
                        ControlRequest::Reload => apart(move || Ok(reload(&*instance, &*load))).await,
                        // It is written to a file.
                        ControlRequest::Select { group, member } => {
                            apart(move || {
                                instance.select(&group, &member)?;
                                Ok(ControlReply::Selected)
                            })
                            .await
                        }
                        ControlRequest::Confirm => ControlReply::Confirmed(confirmation.give()),
                        ControlRequest::Stop => {
                            let (reply, replied) = oneshot::channel();
                            // If nobody receives, neither the request nor the answer, it has stopped before.
                            let _ = ends.send(End::Request(reply));
                            replied.await.unwrap_or(ControlReply::Stopped)
                        }
                    }
                }
            })
            .await;
    });
}

/// Reads the configuration again and puts it into force.
fn reload(instance: &dyn Instance, load: &dyn Fn() -> Result<Config, Failure>) -> ControlReply {
    notify::reloading();
    let done = load().and_then(|config| instance.reload(&config));
    let ready = instance.ready_line();
    notify::ready(ready.strip_prefix("ready: ").unwrap_or(&ready));
    match done {
        Ok(done) => ControlReply::Reloaded(Box::new(done)),
        Err(failure) => {
            tracing::error!("the configuration of before stays in force: {failure}");
            if failure.code() == USAGE {
                ControlReply::Rejected(failure.to_string())
            } else {
                ControlReply::Error(failure.to_string())
            }
        }
    }
}

/// Finds an answer on a thread that may block.
async fn apart(answer: impl FnOnce() -> Result<ControlReply, Failure> + Send + 'static) -> ControlReply {
    match tokio::task::spawn_blocking(answer).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(failure)) => ControlReply::Error(failure.to_string()),
        Err(_) => ControlReply::Error("the question could not be answered; see the log".to_owned()),
    }
}

fn announce(instance: &dyn Instance, paths: &StatePaths, output: Output) {
    let ready = instance.ready_line();
    let document = serde_json::json!({ "ready": ready, "pid": process::id(), "control": paths.control });
    let line = ready.clone();
    // On a thread of its own: a stdout that nobody reads must not keep the signals from being heeded.
    let (printed, done) = channel();
    let spawned = std::thread::Builder::new().name("oneway-ready".to_owned()).spawn(move || {
        if let Err(failure) = output.print(&line, &document) {
            // Who waits for the line does not get it, but what is captured is carried.
            tracing::warn!("{failure}");
        }
        // Nobody waits any more.
        let _ = printed.send(());
    });
    match spawned {
        Ok(_) => drop(done.recv_timeout(FAREWELL)),
        Err(e) => tracing::warn!("cannot start a thread to say that it is ready: {e}"),
    }
    notify::ready(ready.strip_prefix("ready: ").unwrap_or(&ready));
}

/// Waits for the end, stops the engine and tells those who asked for it.
fn until_stopped(
    runtime: &Runtime,
    server: &ControlServer,
    instance: &dyn Instance,
    ended: Receiver<End>,
    confirmation: &Confirmation,
) -> Result<(), Failure> {
    let mut waiting = Vec::new();
    let mut failure = None;
    match confirmation.wait(&ended) {
        Some(End::Signal(name)) => tracing::info!("{name}: stopping"),
        Some(End::Request(reply)) => {
            tracing::info!("stopping by request");
            waiting.push(reply);
        }
        Some(End::Failed(why)) => {
            tracing::error!("stopping: {why}");
            failure = Some(why);
        }
        Some(End::Unconfirmed(seconds)) => {
            tracing::warn!("nobody confirmed within {seconds} s: stopping");
            failure = Some(Failure::new(
                FAILED,
                format!(
                    "not confirmed within {seconds} s, so that every change to this host was undone; run `oneway confirm` in time"
                ),
            ));
        }
        // All senders gone: nothing could ever end it.
        None => failure = Some(Failure::new(FAILED, "the control thread died; start oneway again")),
    }
    notify::stopping();
    let stopped = instance.stop();
    waiting.extend(ended.try_iter().filter_map(|end| match end {
        End::Request(reply) => Some(reply),
        _ => None,
    }));
    // Requests that come from now on find nobody and know by that. Who asked may rely on the socket being gone.
    drop(ended);
    server.remove();
    let answer = match &stopped {
        Ok(()) => ControlReply::Stopped,
        Err(failure) => ControlReply::Error(failure.to_string()),
    };
    for reply in waiting {
        // Who hung up does not want to know.
        let _ = reply.send(answer.clone());
    }
    runtime.block_on(async {
        if tokio::time::timeout(FAREWELL, server.answered()).await.is_err() {
            tracing::debug!("a client did not take its answer");
        }
    });
    match (failure, stopped) {
        (Some(why), Ok(())) => Err(why),
        (Some(why), Err(left)) => Err(Failure::new(why.code(), format!("{why}; {left}"))),
        (None, stopped) => stopped,
    }
}
