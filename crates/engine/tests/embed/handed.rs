//! A device that the program has opened itself.

use std::os::fd::{AsFd, AsRawFd};

use oneway::Engine;
use oneway::config::TunFd;
use oneway_lab::harness::TestResult;
use oneway_lab::{Snapshot, Topology};

use crate::common::config;

pub fn a_descriptor_stays_its_owners() -> TestResult {
    let lab = Topology::simple()?;
    let without = Snapshot::take(&lab.host)?;
    let tun = lab.host.tun("own0", true)?;
    // No address of its own that comes into use while the host is compared.
    lab.host.set_sysctl("ipv6/conf/own0/addr_gen_mode", "1")?;
    lab.host.up("own0")?;
    let before = Snapshot::take(&lab.host)?;
    let mut wrong = config("[egress]\ninterface = \"nowhere0\"\n")?;
    wrong.tun.fd = Some(TunFd::try_from(u32::try_from(tun.as_raw_fd())?)?);
    let mut right = config("")?;
    right.tun.fd = wrong.tun.fd;
    for _ in 0..2 {
        assert!(lab.host.run(|| Engine::start(&wrong))?.is_err());
        before.expect_same(&lab.host)?;
        let engine = lab.host.run(|| Engine::start(&right))??;
        assert_eq!(engine.status().tun, "own0");
        engine.stop()?;
        before.expect_same(&lab.host)?;
    }
    assert!(tun.as_fd().try_clone_to_owned().is_ok());
    drop(tun);
    without.expect_same(&lab.host)?;
    Ok(())
}
