//! How an engine ends.

use std::io::Read;
use std::thread;

use oneway::control::Verdict;
use oneway_lab::harness::TestResult;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{LabError, Snapshot, Topology};

use crate::common::{PATIENCE, start};

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
