//! Ends that nobody planned, and those that somebody did (S10).

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use oneway_lab::client::wait_until;
use oneway_lab::harness::TestResult;
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{Snapshot, Topology};

use crate::common::{
    ONEWAY, SECOND, TUN, ask, command, expect_connectivity, number, program, reaches_origin, run, stack, stop,
};

/// How many moments of the start and of the stop are tried.
const MOMENTS: u32 = 8;

pub fn under_load() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    let client = lab.host.client();
    let load = thread::spawn(move || client.download(address::ORIGIN.v4_port(port::CHARGEN), 8, 2 * SECOND));
    wait_until(5 * SECOND, "the load is on", || {
        ask(&lab.host, "status").is_ok_and(|status| number(&status, "/counters/bytes/down") > 10_000_000)
    })?;
    oneway.kill()?;
    expect_connectivity(&lab.host)?;
    // The same once more, without a pause between.
    let mut again = run(&lab.host, &[])?;
    assert!(reaches_origin(&lab.host, SECOND));
    again.kill()?;
    let mut again = run(&lab.host, &[])?;
    assert!(reaches_origin(&lab.host, SECOND));
    stop(&mut again, &lab.host, &before)?;
    // Its connections died with the program.
    let _ = load.join();
    Ok(())
}

pub fn a_panic_undoes_everything() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let fault = ["--fault", "panic=1000"];
    if !cfg!(debug_assertions) {
        // What users have cannot be asked for it.
        let refused = command(&lab.host, &["run", "--fault", "panic=1000"])?;
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        return before.expect_same(&lab.host).map_err(Into::into);
    }
    let mut oneway = run(&lab.host, &fault)?;
    assert!(reaches_origin(&lab.host, SECOND));
    assert!(before.expect_same(&lab.host).is_err(), "nothing was changed");
    let client = lab.host.client();
    let load = thread::spawn(move || client.download(address::ORIGIN.v4_port(port::CHARGEN), 8, 5 * SECOND));
    let status = oneway.wait(30 * SECOND)?;
    let said = oneway.stderr();
    assert_eq!(status.code(), Some(1), "{status}: {said}");
    let told: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    let [told] = told[..] else { panic!("{said}") };
    for part in ["the thread worker-", " panicked: on purpose", "bug.rs:", "start it again, and report it"] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    // Undone, and not by the next start.
    before.expect_same(&lab.host)?;
    expect_connectivity(&lab.host)?;
    let _ = load.join();
    let mut again = run(&lab.host, &[])?;
    assert!(reaches_origin(&lab.host, SECOND));
    stop(&mut again, &lab.host, &before)
}

pub fn a_reader_that_is_stuck_holds_up_nothing() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let (reader, mut writer) = std::io::pipe()?;
    // Full from the start: the size is the kernel's (pipe(7)), and what does not fit is not waited for.
    rustix::io::ioctl_fionbio(&writer, true)?;
    while writer.write(&[b'x'; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false)?;
    let command = format!("exec {ONEWAY} run -v --stack {} 2>&9", stack());
    let mut oneway = Program::new(&lab.host, "/bin/sh", ["-c", &command])
        .descriptor(writer, 9)
        .ready("ready:", 10 * SECOND)
        .start()?;
    for _ in 0..20 {
        assert!(reaches_origin(&lab.host, SECOND));
    }
    let (status, _) = oneway.stop(5 * SECOND)?;
    assert!(status.success(), "{status}");
    before.expect_same(&lab.host)?;
    drop(reader);
    Ok(())
}

pub fn while_it_starts() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let begin = Instant::now();
    let mut first = run(&lab.host, &[])?;
    let starting = begin.elapsed();
    stop(&mut first, &lab.host, &before)?;
    for moment in 0..=MOMENTS {
        let after = starting * moment / MOMENTS;
        let mut oneway = Program::new(&lab.host, ONEWAY, ["run", "--stack", stack()]).start()?;
        // The moment is what is tried out; nothing is waited for.
        thread::sleep(after);
        oneway.kill()?;
        let what = |error| format!("killed {after:?} of {starting:?} after the start: {error}");
        expect_connectivity(&lab.host).map_err(what)?;
        if moment % 2 == 0 {
            let recovered = command(&lab.host, &["recover"])?;
            assert_eq!(recovered.code, Some(0), "{after:?}: {}", recovered.stderr);
            before.expect_same(&lab.host).map_err(what)?;
        } else {
            let mut again = run(&lab.host, &[]).map_err(what)?;
            assert!(reaches_origin(&lab.host, SECOND), "{after:?}");
            stop(&mut again, &lab.host, &before)?;
        }
    }
    Ok(())
}

pub fn while_it_stops() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut stopping = Duration::from_millis(500);
    for moment in 0..=MOMENTS {
        let mut oneway = run(&lab.host, &[])?;
        let flows = lab.host.client().tcp_many(address::ORIGIN.v6_port(port::SILENT), 50, 2 * SECOND)?;
        if moment == 0 {
            let (status, took) = oneway.stop(2 * SECOND)?;
            assert!(status.success(), "{}", oneway.stderr());
            stopping = took;
            continue;
        }
        let after = stopping * (moment - 1) / MOMENTS;
        oneway.signal(15)?;
        thread::sleep(after);
        oneway.kill()?;
        let what = |error| format!("killed {after:?} of {stopping:?} after SIGTERM: {error}");
        drop(flows);
        expect_connectivity(&lab.host).map_err(what)?;
        if moment % 2 == 0 {
            let recovered = command(&lab.host, &["recover"])?;
            assert_eq!(recovered.code, Some(0), "{after:?}: {}", recovered.stderr);
            before.expect_same(&lab.host).map_err(what)?;
        }
    }
    let mut last = run(&lab.host, &[])?;
    stop(&mut last, &lab.host, &before)
}

pub fn a_clean_stop_leaves_nothing() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    for options in
        [&[][..], &["--forwarded"], &["--protect", "bind"], &["--include", "203.0.113.0/24"], &["--strict"]]
    {
        let mut oneway = run(&lab.host, options)?;
        assert!(reaches_origin(&lab.host, SECOND), "{options:?}");
        assert!(before.expect_same(&lab.host).is_err(), "nothing was changed: {options:?}");
        stop(&mut oneway, &lab.host, &before)?;

        let mut oneway = run(&lab.host, options)?;
        assert!(reaches_origin(&lab.host, SECOND), "{options:?}");
        let stopped = command(&lab.host, &["stop"])?;
        assert_eq!(stopped.code, Some(0), "{options:?}: {}", stopped.stderr);
        assert!(oneway.wait(SECOND)?.success(), "{options:?}: {}", oneway.stderr());
        before.expect_same(&lab.host)?;
    }
    Ok(())
}

pub fn a_second_instance_does_not_disturb_the_first() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut first = run(&lab.host, &[])?;
    let during = Snapshot::take(&lab.host)?;
    let mut session = lab.host.client().tcp(address::ORIGIN.v4_port(port::ECHO), SECOND)?.connected()?;
    let mut echo = || -> std::io::Result<()> {
        session.write_all(b"still there?")?;
        let mut back = [0; 12];
        session.read_exact(&mut back)?;
        assert_eq!(&back, b"still there?");
        Ok(())
    };
    for options in [&[][..], &["--tun", "other0"], &["--control", "/run/other.sock"]] {
        echo()?;
        let second = command(&lab.host, &[&["run", "--stack", stack()], options].concat())?;
        assert_eq!(second.code, Some(1), "{options:?}");
        let errors = second.stderr.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{}", second.stderr);
        assert!(second.stderr.contains(&format!("(pid {})", first.pid())), "{}", second.stderr);
        during.expect_same(&lab.host)?;
    }
    echo()?;
    stop(&mut first, &lab.host, &before)
}

pub fn recover_is_safe_at_any_time() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let recover = || command(&lab.host, &["recover"]);
    assert_eq!(recover()?.code, Some(0));
    before.expect_same(&lab.host)?;

    let mut oneway = program(&lab.host, ONEWAY, &[]).start()?;
    let during = Snapshot::take(&lab.host)?;
    let mut session = lab.host.client().tcp(address::ORIGIN.v6_port(port::ECHO), SECOND)?.connected()?;
    assert_eq!(recover()?.code, Some(0));
    during.expect_same(&lab.host)?;
    session.write_all(b"x")?;
    session.read_exact(&mut [0])?;

    oneway.kill()?;
    assert!(lab.host.link(TUN).is_err(), "the device outlived its program");
    for _ in 0..2 {
        let recovered = recover()?;
        assert_eq!(recovered.code, Some(0), "{}", recovered.stderr);
        before.expect_same(&lab.host)?;
    }
    Ok(())
}
