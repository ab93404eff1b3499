//! How an engine ends.

use std::io::Read;
use std::thread;
use std::time::Duration;

use oneway_lab::harness::TestResult;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{Snapshot, Topology};

use crate::common::start;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

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
