//! Connections of which one half is closed: what is silent is ended.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Simple, Topology, address};
use oneway_lab::{NetNs, Oneway};

use crate::common::{SECOND, ask, run};

/// The program in `host`, where a half-closed connection may be silent for `limit`.
fn run_with(host: &NetNs, limit: &str) -> Result<Oneway, Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    std::fs::write(&file, format!("[limits]\nhalf-closed = \"{limit}\"\n"))?;
    let file = file.to_str().ok_or("a path that is no text")?;
    Ok(run(host, None, &["--config", file])?)
}

fn lab(limit: &str) -> Result<(Simple, Oneway), Failed> {
    let lab = Topology::simple()?;
    let oneway = run_with(&lab.host, limit)?;
    Ok((lab, oneway))
}

fn no_flow_is_left(host: &NetNs) -> TestResult {
    wait_until(5 * SECOND, "no flow is left", || {
        ask(host, "flows").is_ok_and(|flows| flows["flows"].as_array().is_some_and(Vec::is_empty))
    })?;
    Ok(())
}

pub fn silence_is_reaped() -> TestResult {
    let (lab, _oneway) = lab("1s")?;
    for to in address::ORIGIN.ports(port::SILENT) {
        let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        stream.write_all(b"a question")?;
        stream.shutdown(Shutdown::Write)?;
        let begin = Instant::now();
        let error = stream.read(&mut [0; 8]).expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{to}: after {:?}", begin.elapsed());
        let took = begin.elapsed();
        assert!(took > SECOND / 2 && took < 5 * SECOND, "{to}: after {took:?}");
    }
    for to in address::ORIGIN.ports(port::FIN_FIRST) {
        let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        let mut bye = String::new();
        stream.read_to_string(&mut bye)?;
        assert_eq!(bye, "bye\n", "{to}");
        let begin = Instant::now();
        wait_until(5 * SECOND, "a program that keeps its half open is told", || {
            stream.take_error().is_ok_and(|error| error.is_some())
        })?;
        assert!(begin.elapsed() > SECOND / 2, "{to}: after {:?}", begin.elapsed());
    }
    no_flow_is_left(&lab.host)
}
