//! Each kind of loop, made and stopped, and each guard left out alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use oneway_lab::harness::{Failed, Harness, TestResult};
use oneway_lab::program::{CapabilitySet, Program};
use oneway_lab::{Entered, NetNs, Snapshot, Topology};
use serde_json::Value;

use crate::common::{ONEWAY, TUN, ask, command, number, reaches_origin, run, stop};

/// A kind is played once for each guard, and again for all others.
const PATIENCE: Duration = Duration::from_secs(110);

/// The kinds, and whether each can be made to loop.
const KINDS: [(&str, bool); 15] = [
    ("L1", true),
    ("L2", true),
    ("L3", true),
    ("L4", true),
    ("L5", true),
    ("L6", true),
    ("L7", true),
    ("L8", true),
    ("L9", false),
    ("L10", true),
    ("L11", true),
    ("L12", false),
    ("L13", true),
    ("L14", true),
    ("L15", true),
];

/// All guards, and whether it refuses to start without one: what is next notices before anything is captured.
const GUARDS: [(&str, bool); 11] = [
    ("protect", true),
    ("protect-ipv6", true),
    ("order", true),
    ("proof", false),
    ("ingress", false),
    ("egress", false),
    ("detector", false),
    ("drift", false),
    ("uplink", false),
    ("fake-ip", false),
    ("circle", false),
];

/// Adds a test for each kind.
pub fn each(harness: Harness) -> Harness {
    KINDS.into_iter().fold(harness, |harness, (id, loops)| {
        harness.test(format!("lab::{id}"), move || loops_unguarded_and_not_guarded(id, loops))
    })
}

fn loops_unguarded_and_not_guarded(id: &str, loops: bool) -> TestResult {
    let namespace = NetNs::new("lab")?;
    let mut lab = Program::new(&namespace, ONEWAY, ["lab", id, "--each", "--json"]).start()?;
    let status = lab.wait(PATIENCE)?;
    let report = lab.stdout();
    assert!(status.success(), "{status}: {report} {}", lab.stderr());
    let report: Value = serde_json::from_str(&report)?;
    let [kind] = report["kinds"].as_array().ok_or("no kinds")?.as_slice() else {
        return Err(format!("not one kind: {report}").into());
    };
    assert_eq!(kind["id"], id);
    assert_eq!(kind["harmless"].is_null(), loops, "{kind}");
    let runs = kind["runs"].as_array().ok_or("no runs")?;
    let looped: Vec<&Value> = runs.iter().filter(|run| run["seen"] == "loops").collect();
    assert_eq!(looped.len(), usize::from(loops), "{kind}");
    for run in looped {
        let (packets, sent) =
            (run["packets"].as_u64().ok_or("packets")?, run["sent"].as_u64().ok_or("sent")?);
        assert!(packets > 10 * sent, "{run}");
    }
    for run in runs {
        assert!(run["left_behind"].is_null(), "{run}");
        assert!(run["without"] == "" || run["doctor"] != "proven", "{run}");
    }
    let guarded = runs.last().ok_or("no runs")?;
    assert_eq!(guarded["seen"], "still", "{guarded}");
    Ok(())
}

/// With any one guard left out nothing is proven, and each command names it; it works or does not start, and the host is put
/// back.
pub fn without_a_guard_nothing_is_proven() -> TestResult {
    for (guard, refuses) in GUARDS {
        without(guard, refuses).map_err(|failed| Failed::from(format!("{guard}: {failed:?}")))?;
    }
    Ok(())
}

fn without(guard: &str, refuses: bool) -> TestResult {
    let lab = Topology::simple()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let words = ["--without-guard", guard];
    let names_it = |text: &str| text.contains(&format!("runs without its guard {guard}"));

    let planned = command(host, &["doctor", "--without-guard", guard])?;
    assert_eq!(planned.code, Some(3), "{}", planned.stdout);
    assert!(names_it(&planned.stdout), "{}", planned.stdout);
    if refuses {
        let refused = command(host, &["run", "--without-guard", guard])?;
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains("reads back as"), "{}", refused.stderr);
        before.expect_same(host)?;
        return Ok(());
    }
    let mut oneway = run(host, &words)?;
    assert!(oneway.ready_line().ends_with(&format!("SABOTAGED: without its guard {guard}")));
    assert!(names_it(&oneway.stderr()), "{}", oneway.stderr());
    let running = command(host, &["doctor"])?;
    assert_eq!(running.code, Some(3), "{}", running.stdout);
    assert!(names_it(&running.stdout), "{}", running.stdout);
    let why = command(host, &["why", "203.0.113.1"])?;
    assert!(names_it(&why.stdout), "{}", why.stdout);
    let status = ask(host, "status")?;
    assert_eq!(status["loops"]["verdict"], "not proven", "{status}");
    assert!(names_it(status["loops"]["why"].as_str().unwrap_or_default()), "{status}");
    // The guards that are there do their work.
    assert!(reaches_origin(host, Duration::from_secs(2)), "{}", oneway.stderr());
    stop(&mut oneway, host, &before)
}

/// Without the watch nothing is put back. Who deletes our rules ends the capture then, and makes no loop.
pub fn without_the_watch_a_deleted_rule_ends_the_capture() -> TestResult {
    let lab = Topology::simple()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--without-guard", "drift"])?;
    assert!(reaches_origin(host, Duration::from_secs(2)), "{}", oneway.stderr());
    host.flush_rules(162)?;
    let packets = || host.link_counters(TUN).map(|counters| counters.tx_packets);
    let captured = packets()?;
    for _ in 0..3 {
        assert!(reaches_origin(host, Duration::from_secs(2)), "{}", oneway.stderr());
    }
    // Nothing but what was under way: the ends of the connections of before.
    assert!(packets()? - captured < 20, "{} before, {} after", captured, packets()?);
    assert_eq!(number(&ask(host, "status")?, "/guard/restored"), 0);
    stop(&mut oneway, host, &before)
}

/// No right is needed but to make namespaces and to open the device.
pub fn an_ordinary_user_can_play_it() -> TestResult {
    let namespace = NetNs::new("lab")?;
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("oneway");
    fs::copy(ONEWAY, &copy)?;
    for path in [folder.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let mut program = Program::new(&namespace, &copy, ["lab", "L2", "--json"]);
    if oneway_lab::entered() == Some(Entered::Root) {
        oneway_lab::open_tun_to_everybody()?;
        program = program.uid(3_300_000_000 + std::process::id()).capabilities(CapabilitySet::empty());
    }
    let mut lab = program.start()?;
    let status = lab.wait(PATIENCE)?;
    assert!(status.success(), "{status}: {} {}", lab.stdout(), lab.stderr());
    Ok(())
}

/// Nobody leaves a guard out by chance.
pub fn a_guard_is_left_out_by_that_option_alone() -> TestResult {
    let lab = Topology::simple()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let unknown = command(host, &["run", "--without-guard", "everything"])?;
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("one of protect, protect-ipv6, proof,"), "{}", unknown.stderr);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    for text in ["without-guard = [\"detector\"]", "[egress]\nwithout-guard = [\"detector\"]"] {
        fs::write(&file, text)?;
        let refused = command(host, &["run", "-c", file.to_str().unwrap_or_default()])?;
        assert_eq!(refused.code, Some(2), "{text}: {}", refused.stderr);
    }
    let help = command(host, &["run", "--help"])?;
    assert!(!help.stdout.contains("without-guard"), "{}", help.stdout);
    before.expect_same(host)?;
    Ok(())
}
