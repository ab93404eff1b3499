use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use oneway::Reloaded;
use oneway::control::{
    ControlClient, ControlError, Counters, Doctor, FlowInfo, GuardStatus, LoopVerdict, ProtectStatus, Status,
    UplinkStatus, Why, WhyQuestion,
};
use rustix::process::{Signal, getpid, kill_process};

use super::*;

/// Signals reach every service of the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// An engine that does nothing, and notes how often it was stopped.
#[derive(Default)]
struct Idle {
    stopped: AtomicUsize,
    /// What `stop` waits for.
    may_stop: Option<Mutex<Receiver<()>>>,
    /// What `wait_until_failed` waits for.
    may_fail: Option<Mutex<Receiver<&'static str>>>,
    stop_fails: bool,
    reloaded: Arc<AtomicUsize>,
    /// The final outbound of the configuration that is read again; "" cannot be read.
    final_outbound: Mutex<&'static str>,
}

impl Instance for Idle {
    fn ready_line(&self) -> String {
        "ready: idle".to_owned()
    }

    fn status(&self) -> Status {
        Status {
            version: "0".to_owned(),
            pid: process::id(),
            uptime_s: 0,
            reloads: 0,
            reloaded_s: None,
            stack: "system".to_owned(),
            tun: "tun0".to_owned(),
            capture: "tun".to_owned(),
            port: None,
            strict: false,
            uplink: UplinkStatus::default(),
            protect: ProtectStatus::default(),
            failing_upstreams: Vec::new(),
            blind: None,
            outbounds: Vec::new(),
            counters: Counters::default(),
            loops: LoopVerdict::default(),
            guard: GuardStatus::default(),
        }
    }

    fn flows(&self) -> Vec<FlowInfo> {
        Vec::new()
    }

    fn doctor(&self) -> Result<Doctor, Failure> {
        Err(Failure::new(FAILED, "nothing to look at"))
    }

    fn reload(&self, config: &Config) -> Result<Reloaded, Failure> {
        self.reloaded.fetch_add(1, Ordering::SeqCst);
        match config.rules.final_outbound.as_str() {
            "nowhere" => Err(Failure::usage("there is no such outbound")),
            _ => Ok(Reloaded { outbounds: config.outbounds.len(), ..Reloaded::default() }),
        }
    }

    fn select(&self, _: &str, _: &str) -> Result<(), Failure> {
        Err(Failure::new(FAILED, "nothing to select"))
    }

    fn why(&self, _: &WhyQuestion) -> Result<Why, Failure> {
        Err(Failure::new(FAILED, "nothing to follow"))
    }

    fn wait_until_failed(&self) -> Option<Failure> {
        let failure = self.may_fail.as_ref()?.lock().unwrap().recv().ok()?;
        Some(Failure::new(FAILED, failure))
    }

    fn stop(&self) -> Result<(), Failure> {
        if let Some(may_stop) = &self.may_stop {
            may_stop.lock().unwrap().recv().unwrap();
        }
        self.stopped.fetch_add(1, Ordering::SeqCst);
        if self.stop_fails { Err(Failure::new(FAILED, "cannot undo it all")) } else { Ok(()) }
    }
}

/// Serves an engine on a thread of its own; `ask` speaks to it once it is ready.
fn serving(idle: Idle, ask: impl FnOnce(&StatePaths, ControlClient)) -> (Arc<Idle>, Result<(), Failure>) {
    serving_for(None, idle, ask)
}

/// The same with a time limit.
fn serving_for(
    confirm: Option<u32>,
    idle: Idle,
    ask: impl FnOnce(&StatePaths, ControlClient),
) -> (Arc<Idle>, Result<(), Failure>) {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let paths = StatePaths::in_folder(folder.path(), "oneway");
    let idle = Arc::new(idle);
    let (started, when_started) = channel();
    let result = std::thread::scope(|scope| {
        let service = scope.spawn(|| {
            let again = idle.clone();
            let load = move || {
                let mut config = Config::default();
                config.rules.final_outbound = again.final_outbound.lock().unwrap().to_string();
                match config.rules.final_outbound.as_str() {
                    "" => Err(Failure::usage("cannot read it")),
                    _ => Ok(config),
                }
            };
            let start = |_: &Cancel| {
                started.send(()).unwrap();
                Ok(Some(idle.clone() as Arc<dyn Instance>))
            };
            serve(&paths, Output::new(false), confirm, start, load)
        });
        when_started.recv().unwrap();
        ask(&paths, ControlClient::connect(std::slice::from_ref(&paths.control)).unwrap());
        service.join().unwrap()
    });
    assert!(!paths.control.exists(), "the socket is left behind");
    drop(alone);
    (idle, result)
}

#[test]
fn a_configuration_is_read_again_or_the_one_of_before_stays() {
    let idle = Idle { final_outbound: Mutex::new("direct"), ..Idle::default() };
    let (idle, result) = serving(idle, |_, mut client| {
        let done = client.request(&ControlRequest::Reload).unwrap();
        assert!(matches!(done, ControlReply::Reloaded(done) if done.outbounds == 2));
        client.request(&ControlRequest::Stop).unwrap();
    });
    assert_eq!((result, idle.reloaded.load(Ordering::SeqCst)), (Ok(()), 1));
    for (wrong, why, tried) in [("", "cannot read it", 0), ("nowhere", "there is no such outbound", 1)] {
        let idle = Idle { final_outbound: Mutex::new(wrong), ..Idle::default() };
        let (idle, result) = serving(idle, |_, mut client| {
            let reply = client.request(&ControlRequest::Reload).unwrap();
            assert_eq!(reply, ControlReply::Rejected(why.to_owned()));
            client.request(&ControlRequest::Stop).unwrap();
        });
        assert_eq!((result, idle.reloaded.load(Ordering::SeqCst)), (Ok(()), tried));
    }
}

#[test]
fn a_hangup_reads_the_configuration_again() {
    let idle = Idle { final_outbound: Mutex::new("direct"), ..Idle::default() };
    let reloaded = Arc::new(AtomicUsize::new(0));
    let idle = Idle { reloaded: Arc::clone(&reloaded), ..idle };
    let (_, result) = serving(idle, |_, mut client| {
        // The test may run in a terminal, which is still there.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        kill_process(getpid(), Signal::HUP).unwrap();
        while reloaded.load(Ordering::SeqCst) == 0 {
            assert!(std::time::Instant::now() < deadline, "not read again");
            std::thread::yield_now();
        }
        client.request(&ControlRequest::Stop).unwrap();
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn answers_until_it_is_asked_to_stop() {
    let (idle, result) = serving(Idle::default(), |_, mut client| {
        let status = client.request(&ControlRequest::Status).unwrap();
        assert!(matches!(status, ControlReply::Status(status) if status.pid == process::id()));
        assert_eq!(client.request(&ControlRequest::Flows).unwrap(), ControlReply::Flows(Vec::new()));
        assert_eq!(client.request(&ControlRequest::Stop).unwrap(), ControlReply::Stopped);
    });
    assert_eq!(result, Ok(()));
    assert_eq!(idle.stopped.load(Ordering::SeqCst), 1);
}

#[test]
fn whoever_asks_to_stop_hears_of_a_failure() {
    let idle = Idle { stop_fails: true, ..Idle::default() };
    let (_, result) = serving(idle, |_, mut client| {
        let refused = client.request(&ControlRequest::Stop).unwrap_err();
        assert!(matches!(&refused, ControlError::Refused(why) if why == "cannot undo it all"), "{refused}");
    });
    assert_eq!(result, Err(Failure::new(FAILED, "cannot undo it all")));
}

#[test]
fn an_engine_that_cannot_go_on_is_stopped() {
    let (fail, may_fail) = channel();
    let idle = Idle { may_fail: Some(Mutex::new(may_fail)), ..Idle::default() };
    let (idle, result) = serving(idle, |_, _| fail.send("the device is gone").unwrap());
    assert_eq!(result, Err(Failure::new(FAILED, "the device is gone")));
    assert_eq!(idle.stopped.load(Ordering::SeqCst), 1);
}

#[test]
fn what_is_not_undone_after_a_failure_is_said() {
    let (fail, may_fail) = channel();
    let idle = Idle { may_fail: Some(Mutex::new(may_fail)), stop_fails: true, ..Idle::default() };
    let (_, result) = serving(idle, |_, _| fail.send("the device is gone").unwrap());
    assert_eq!(result, Err(Failure::new(FAILED, "the device is gone; cannot undo it all")));
}

#[test]
fn further_signals_do_not_abort_the_undo() {
    let (go, may_stop) = channel();
    let idle = Idle { may_stop: Some(Mutex::new(may_stop)), ..Idle::default() };
    let (idle, result) = serving(idle, |paths, _| {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::TERM] {
            kill_process(getpid(), signal).unwrap();
        }
        // Still there, and answering.
        let mut client = ControlClient::connect(std::slice::from_ref(&paths.control)).unwrap();
        assert_eq!(client.request(&ControlRequest::Flows).unwrap(), ControlReply::Flows(Vec::new()));
        go.send(()).unwrap();
    });
    assert_eq!(result, Ok(()));
    assert_eq!(idle.stopped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_failed_start_leaves_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let paths = StatePaths::in_folder(folder.path(), "oneway");
    let result = serve(
        &paths,
        Output::new(false),
        None,
        |_| Err(Failure::new(FAILED, "no")),
        || Ok(Config::default()),
    );
    assert_eq!(result, Err(Failure::new(FAILED, "no")));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_signal_calls_off_a_start() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let paths = StatePaths::in_folder(folder.path(), "oneway");
    let start = |cancel: &Cancel| {
        kill_process(getpid(), Signal::TERM).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !cancel.is_cancelled() {
            assert!(Instant::now() < end, "nobody called it off");
            std::thread::yield_now();
        }
        Ok(None)
    };
    assert_eq!(serve(&paths, Output::new(false), None, start, || Ok(Config::default())), Ok(()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_nobody_confirms_is_undone() {
    let begin = Instant::now();
    let (idle, result) = serving_for(Some(1), Idle::default(), |_, mut client| {
        // To look at it is not to confirm it.
        client.request(&ControlRequest::Status).unwrap();
    });
    let failure = result.unwrap_err().to_string();
    assert!(failure.starts_with("not confirmed within 1 s"), "{failure}");
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(idle.stopped.load(Ordering::SeqCst), 1);
}

#[test]
fn what_is_confirmed_stays() {
    let (idle, result) = serving_for(Some(1), Idle::default(), |paths, mut client| {
        assert_eq!(client.request(&ControlRequest::Confirm).unwrap(), ControlReply::Confirmed(true));
        let end = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < end {
            let mut again = ControlClient::connect(std::slice::from_ref(&paths.control)).unwrap();
            again.request(&ControlRequest::Flows).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(client.request(&ControlRequest::Stop).unwrap(), ControlReply::Stopped);
    });
    assert_eq!(result, Ok(()));
    assert_eq!(idle.stopped.load(Ordering::SeqCst), 1);
    // Without a limit there is nothing to confirm, and it does no harm.
    let (_, result) = serving(Idle::default(), |_, mut client| {
        assert_eq!(client.request(&ControlRequest::Confirm).unwrap(), ControlReply::Confirmed(false));
        client.request(&ControlRequest::Stop).unwrap();
    });
    assert_eq!(result, Ok(()));
}
