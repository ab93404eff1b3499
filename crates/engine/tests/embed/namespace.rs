//! An engine in one network namespace, and its callers in another.

use oneway::control::WhyQuestion;
use oneway_lab::harness::TestResult;
use oneway_lab::topology::address;
use oneway_lab::{Snapshot, Topology};

use crate::common::{config, start};

pub fn a_stop_elsewhere_undoes_at_home() -> TestResult {
    let (lab, other) = (Topology::simple()?, Topology::simple()?);
    let before = Snapshot::take(&lab.host)?;
    let stranger = start(&other.host, "")?;
    let captured = Snapshot::take(&other.host)?;

    let engine = start(&lab.host, "")?;
    other.host.run(|| engine.stop())??;
    before.expect_same(&lab.host)?;
    captured.expect_same(&other.host)?;

    // The test's own thread is in neither.
    drop(start(&lab.host, "")?);
    before.expect_same(&lab.host)?;
    captured.expect_same(&other.host)?;
    other.host.run(|| stranger.stop())??;
    Ok(())
}

pub fn questions_elsewhere_are_about_home() -> TestResult {
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    let engine = start(&lab.host, "")?;
    let question =
        WhyQuestion { addr: address::ORIGIN.v4_port(80), host: None, udp: false, uid: 1000, from: None };
    let asked =
        || (engine.doctor().map_err(|e| e.to_string()), engine.why(&question).map_err(|e| e.to_string()));
    let at_home = lab.host.run(asked)?;
    assert_eq!(asked(), at_home);
    assert!(at_home.0.is_ok() && at_home.1.is_ok(), "{at_home:?}");

    let excluded = |text: &str| -> Result<bool, oneway_lab::LabError> {
        Ok(before.diff(&Snapshot::take(&lab.host)?).contains(text))
    };
    assert!(!excluded("198.18.0.0")?);
    engine.reload(&config("[capture]\nexclude = [\"198.18.0.0/15\"]\n")?)?;
    assert!(excluded("198.18.0.0")?, "it is excluded at home");
    engine.stop()?;
    before.expect_same(&lab.host)?;
    Ok(())
}
