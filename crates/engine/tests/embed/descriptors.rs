//! A program that has run out of descriptors.

use std::fs::File;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use oneway::control::StatePaths;
use oneway::{Engine, EngineError};
use oneway_lab::harness::{ROLE, TestResult};
use oneway_lab::program::Program;
use oneway_lab::{Snapshot, Topology};

use crate::common::{PATIENCE, config, through, when_it_says};

/// The part of a program with few descriptors, as the limit is that of a process.
pub const STARVED: &str = "starved";

/// What it may have open.
const LIMIT: u64 = 400;

pub fn without_any_it_is_undone_or_not_begun() -> TestResult {
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    let program = Program::new(&lab.host, std::env::current_exe()?, [""; 0]);
    let mut starved = program.env(ROLE, STARVED).file_limit(LIMIT).start()?;
    let code = starved.wait(PATIENCE)?.code();
    assert_eq!(code, Some(0), "{}", starved.stderr());
    before.expect_same(&lab.host)?;
    Ok(())
}

/// Opens files until `left` more may be.
fn hold(left: usize) -> Vec<File> {
    let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    held.truncate(held.len().saturating_sub(left));
    held
}

pub fn starved() -> TestResult {
    let plain = config("")?;
    for left in [0, 1, 20, 200] {
        let held = hold(left);
        match Engine::start(&plain) {
            Err(EngineError::FewDescriptors { there: LIMIT, open: Some(_), .. }) => {}
            // It cannot even look.
            Err(_) if left < 20 => {}
            Err(other) => return Err(format!("{left} left: {other}").into()),
            Ok(_) => return Err(format!("{left} left, and it started").into()),
        }
        drop(held);
    }
    // Here nothing of the engine's own is closed before the undo.
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let proxy = TcpListener::bind("127.0.0.1:0")?;
    let circle = config(&through(proxy.local_addr()?))?;
    let late = || {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) = hold(0);
        panic!("on purpose");
    };
    let start = AssertUnwindSafe(|| drop(Engine::start(&circle)));
    let panicked = when_it_says("goes in a circle", late, || catch_unwind(start)).is_err();
    HELD.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let left = StatePaths::here()?.journal.exists();
    if !panicked || left {
        return Err("what a late start has changed is left".into());
    }

    let engine = Engine::start(&plain)?;
    let held = hold(0);
    let stopped = engine.stop();
    drop(held);
    Ok(stopped?)
}
