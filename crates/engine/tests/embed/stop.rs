//! How an engine ends.

use std::io::Read;
use std::thread;

use oneway::control::Verdict;
use oneway::{Engine, EngineError};
use oneway_lab::harness::TestResult;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{LabError, Snapshot, Topology};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::thread::UnshareFlags;

use crate::common::{PATIENCE, config, start};

pub fn everybody_is_told_why_it_failed() -> TestResult {
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    let engine = start(&lab.host, "")?;
    assert_eq!(engine.status().loops.verdict, Verdict::Proven, "{}", engine.ready_line());
    let reasons: Vec<String> = thread::scope(|scope| {
        let waiting: Vec<_> = (0..2).map(|_| scope.spawn(|| engine.wait_until_failed())).collect();
        lab.host.delete_link(&engine.status().tun)?;
        let told = waiting.into_iter().map(|thread| thread.join().expect("no panic"));
        Ok::<_, LabError>(told.chain([engine.wait_until_failed()]).flatten().map(|e| e.to_string()).collect())
    })?;
    let [first, ..] = &reasons[..] else { return Err("nobody is told".into()) };
    assert_eq!(reasons, vec![first.clone(); 3]);
    let loops = engine.status().loops;
    assert_eq!(loops.verdict, Verdict::NotProven);
    assert!(loops.why.contains(first) && engine.ready_line().contains(first), "{}", engine.ready_line());
    engine.stop()?;
    before.expect_same(&lab.host)?;
    assert!(engine.wait_until_failed().is_some(), "it is remembered");

    let engine = start(&lab.host, "")?;
    engine.stop()?;
    assert!(engine.ready_line().ends_with("not proven, as it was stopped"), "{}", engine.ready_line());
    Ok(())
}

/// Somebody makes the switches read-only meanwhile.
pub fn what_could_not_be_undone_is_tried_again() -> TestResult {
    const SWITCHES: &str = "/proc/sys";
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    let nothing = config("")?;
    // The engine's threads are in the mount namespace of the one that starts it.
    lab.host.run(|| -> TestResult {
        // SAFETY: nobody else shares this thread's working directory and root afterwards, and no descriptors are touched.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        let engine = Engine::start(&nothing)?;
        mount_bind(SWITCHES, SWITCHES)?;
        mount_remount(SWITCHES, MountFlags::BIND | MountFlags::RDONLY, "")?;
        for time in ["first", "second"] {
            let stopped = engine.stop();
            assert!(matches!(stopped, Err(EngineError::NotUndone { .. })), "{time}: {stopped:?}");
        }
        unmount(SWITCHES, UnmountFlags::empty())?;
        engine.stop()?;
        before.expect_same(&lab.host)?;
        engine.stop()?;
        Ok(())
    })?
}

pub fn what_is_left_shut_stays_so() -> TestResult {
    let lab = Topology::simple()?;
    let engine = start(&lab.host, "[capture]\nstrict = true\n")?;
    lab.host.delete_link(&engine.status().tun)?;
    engine.wait_until_failed();
    for _ in 0..2 {
        assert!(matches!(engine.stop(), Err(EngineError::LeftShut)));
    }
    Ok(())
}

pub fn whoever_stops_it_too_waits() -> TestResult {
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    let engine = start(&lab.host, "")?;
    let mut stream = lab.host.client().tcp(address::ORIGIN.v4_port(port::ECHO), PATIENCE)?.connected()?;
    thread::scope(|scope| -> TestResult {
        let stopping = scope.spawn(|| engine.stop());
        // The first to stop has told the client, and is not done.
        stream.read(&mut [0]).expect_err("a reset");
        engine.stop()?;
        before.expect_same(&lab.host)?;
        stopping.join().expect("no panic")?;
        Ok(())
    })
}
