//! The laboratory without root.

use std::io::Write;
use std::time::Duration;

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::harness::{ROLE, TestResult};
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{Entered, NetNs, Snapshot, Topology};

const SECOND: Duration = Duration::from_secs(1);

/// Started without any right: enters, and does what scenario tests do.
pub fn nobody() -> TestResult {
    assert_eq!(oneway_lab::enter()?, Entered::UserNamespace);
    assert_eq!(oneway_lab::enter()?, Entered::UserNamespace, "a second time");
    let lab = Topology::standard()?;
    lab.masquerade_container()?;
    lab.strict_rp_filter()?;
    let before = Snapshot::take(&lab.host)?;
    let wire = Recorder::start(&lab.host, Some("up1"))?;
    for to in address::ORIGIN.ports(port::HTTP) {
        for client in [lab.host.client(), lab.container.client()] {
            assert_eq!(client.http_get(to, "/bytes/1000", SECOND)?.body.len(), 1000);
        }
    }
    assert_eq!(wire.count(Packet::is_syn)?, 4);
    before.expect_same(&lab.host)?;
    let sleeper = Program::new::<&str>(&lab.host, "/proc/self/exe", []).env(ROLE, "sleeper");
    let sleeper = sleeper.resolv_conf("nameserver 203.0.113.53\n").ready("ready:", SECOND * 5).start()?;
    assert!(sleeper.stdout().contains("resolver nameserver 203.0.113.53"));
    writeln!(std::io::stdout(), "done: as nobody")?;
    Ok(())
}

pub fn works_as_nobody() -> TestResult {
    if oneway_lab::entered() == Some(Entered::UserNamespace) {
        // All other tests of this run are the proof.
        return Ok(());
    }
    let here = NetNs::current("base")?;
    let mut run = Program::new::<&str>(&here, "/proc/self/exe", [])
        .env(ROLE, "nobody")
        .uid(65_534)
        .ready("done:", Duration::from_secs(30))
        .start()?;
    assert!(run.wait(SECOND * 10)?.success(), "{}", run.stderr());
    Ok(())
}
