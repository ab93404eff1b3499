//! Connections of which one half is closed: what is silent is ended, what moves is not.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern::{self, Sum};
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

/// Silence counts from when the half was closed, not from when data last moved.
pub fn after_a_long_rest_there_is_time_for_an_answer() -> TestResult {
    let (lab, _oneway) = lab("1s")?;
    for to in address::ORIGIN.ports(port::SUM) {
        let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        std::thread::sleep(SECOND + SECOND / 2);
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&[])), "{to}: {answer:?}");
    }
    Ok(())
}

/// The server has said everything, and it waits in buffers for a client that reads slowly.
pub fn a_slow_reader_gets_everything() -> TestResult {
    const LEN: usize = 700_000;
    let (lab, _oneway) = lab("1s")?;
    for to in address::ORIGIN.ports(port::HTTP) {
        let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        stream.write_all(format!("GET /bytes/{LEN} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes())?;
        let (mut reply, mut piece) = (Vec::new(), vec![0; 20_000]);
        let begin = Instant::now();
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(len) => reply.extend_from_slice(&piece[..len]),
                Err(error) => {
                    let (len, took) = (reply.len(), begin.elapsed());
                    return Err(format!("{to}: {error} after {len} bytes and {took:?}").into());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(begin.elapsed() > 2 * SECOND, "{to}: too fast to show anything: {:?}", begin.elapsed());
        assert!(reply.ends_with(&pattern::bytes(LEN)), "{to}: {} bytes", reply.len());
    }
    Ok(())
}

/// The client has said everything, and it waits in buffers for a server that reads slowly.
pub fn a_slow_server_gets_everything() -> TestResult {
    const LEN: usize = 1_200_000;
    let lab = Topology::simple()?;
    // Room for all of it in the outbound's socket, so that nothing is seen to move but by the kernel.
    lab.host.set_sysctl("ipv4/tcp_wmem", "4096 4194304 4194304")?;
    let _oneway = run_with(&lab.host, "400ms")?;
    for to in address::ORIGIN.ports(port::SLOW) {
        let mut stream = lab.host.client().tcp(to, 5 * SECOND)?.connected()?;
        let data = pattern::bytes(LEN);
        stream.write_all(&data)?;
        stream.shutdown(Shutdown::Write)?;
        let begin = Instant::now();
        let mut answer = String::new();
        if let Err(error) = stream.read_to_string(&mut answer) {
            return Err(format!("{to}: {error} after {:?}", begin.elapsed()).into());
        }
        assert!(begin.elapsed() > SECOND / 2, "{to}: too fast to show anything: {:?}", begin.elapsed());
        assert_eq!(Sum::parse(answer.trim()), Some(Sum::of(&data)), "{to}: {answer:?}");
    }
    Ok(())
}
