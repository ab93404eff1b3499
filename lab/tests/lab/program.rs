//! Starting and watching programs.

use std::io::Write;
use std::time::Duration;

use oneway_lab::client::wait_until;
use oneway_lab::harness::{ROLE, TestResult};
use oneway_lab::program::{CapabilitySet, Program};
use oneway_lab::{Entered, LabError, NetNs, Oneway};

const SELF: &str = "/proc/self/exe";

/// A program that says where it is, and what its resolv.conf is, and waits.
pub fn sleeper() -> TestResult {
    let mut out = std::io::stdout();
    let namespace = std::fs::read_link("/proc/self/ns/net")?;
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    writeln!(out, "namespace {}", namespace.display())?;
    writeln!(out, "resolver {}", resolver.trim())?;
    writeln!(out, "handed {:?}", std::fs::read_link("/proc/self/fd/9").unwrap_or_default())?;
    writeln!(out, "ready: sleeping")?;
    eprintln!("to stderr");
    loop {
        std::thread::park();
    }
}

/// A program that fails.
pub fn fails() -> TestResult {
    Err("the sky fell down".into())
}

pub fn runs_in_the_namespace() -> TestResult {
    let namespace = NetNs::new("somewhere")?;
    let program = Program::new::<&str>(&namespace, SELF, [])
        .env(ROLE, "sleeper")
        .resolv_conf("nameserver 203.0.113.53\n")
        .ready("ready:", Duration::from_secs(5));
    let mut running = program.start()?;
    assert_eq!(running.ready_line(), "ready: sleeping");
    let inside = namespace.run(|| std::fs::read_link("/proc/thread-self/ns/net"))??;
    assert!(running.stdout().contains(&format!("namespace {}\n", inside.display())), "{}", running.stdout());
    assert!(running.stdout().contains("resolver nameserver 203.0.113.53\n"), "{}", running.stdout());
    wait_until(Duration::from_secs(1), "it wrote to stderr", || running.stderr() == "to stderr\n")?;
    assert!(running.alive());
    assert!(running.fd_count()? >= 3);
    assert!(running.thread_count()? >= 1);
    assert!(running.rss()? > 100_000);
    assert!(running.cpu_time()? < Duration::from_secs(1));
    assert_eq!(running.children()?, []);
    let (status, took) = running.stop(Duration::from_secs(5))?;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    assert!(took < Duration::from_secs(1));
    assert!(!running.alive() && running.signal(15).is_err());
    // Nobody else got the private resolv.conf.
    let ours = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(!ours.contains("203.0.113.53"));
    Ok(())
}

pub fn has_the_rights_it_was_left() -> TestResult {
    let namespace = NetNs::new("somewhere")?;
    // A user namespace has one user id only.
    let root = oneway_lab::entered() == Some(Entered::Root);
    let mut program = Program::new::<&str>(&namespace, SELF, [])
        .env(ROLE, "sleeper")
        .capabilities(CapabilitySet::NET_ADMIN)
        .file_limit(123)
        .descriptor(std::fs::File::open("/dev/null")?, 9)
        .ready("ready:", Duration::from_secs(5));
    if root {
        program = program.uid(65_534);
    }
    let running = program.start()?;
    assert!(running.stdout().contains("handed \"/dev/null\""), "{}", running.stdout());
    let proc = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", running.pid()));
    let status = proc("status")?;
    // CAP_NET_ADMIN is number 12.
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000001000")), "{status}");
    }
    assert!(!root || status.contains("Uid:\t65534\t65534"), "{status}");
    let limits = proc("limits")?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["123", "123"]);
    Ok(())
}

pub fn fails_with_its_stderr() -> TestResult {
    let namespace = NetNs::new("somewhere")?;
    let program =
        Program::new::<&str>(&namespace, SELF, []).env(ROLE, "fails").ready("ready:", Duration::from_secs(5));
    let error = program.start().expect_err("it fails");
    assert!(
        matches!(&error, LabError::NotReady { state, .. } if state == "ended with exit code 1"),
        "{error}"
    );
    assert!(error.to_string().contains("the sky fell down"));
    let slow = Program::new::<&str>(&namespace, SELF, [])
        .env(ROLE, "sleeper")
        .ready("never", Duration::from_millis(200));
    let error = slow.start().expect_err("it never says so");
    assert!(matches!(&error, LabError::NotReady { state, .. } if state == "still running"), "{error}");
    let missing = Oneway::start::<&str>(&namespace, "/nonexistent/program", []).expect_err("no such program");
    assert!(missing.to_string().contains("cannot start /nonexistent/program: No such file"), "{missing}");
    Ok(())
}

pub fn dies_with_its_handle() -> TestResult {
    let namespace = NetNs::new("somewhere")?;
    let running = Program::new::<&str>(&namespace, SELF, [])
        .env(ROLE, "sleeper")
        .ready("ready:", Duration::from_secs(5))
        .start()?;
    let path = format!("/proc/{}", running.pid());
    assert!(std::path::Path::new(&path).exists());
    drop(running);
    assert!(!std::path::Path::new(&path).exists());
    Ok(())
}
