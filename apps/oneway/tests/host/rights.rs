//! What the program must be allowed to do, and what it does without (S11).

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use oneway_lab::client::Outcome;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::program::{CapabilitySet, Program};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{Entered, NetNs, Oneway, Route, Rule, Snapshot, Topology};

use crate::common::{Finished, ONEWAY, SECOND, ask, program, reaches_origin, run, stop};

/// A copy of the program that every user can start: where the build put it may be out of reach.
pub fn copy_for_everybody() -> Result<(tempfile::TempDir, String), Failed> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let path = folder.path().join("oneway");
    fs::copy(ONEWAY, &path)?;
    let path = path.to_str().ok_or("the folder for temporary files has no readable name")?.to_owned();
    Ok((folder, path))
}

/// Nobody else's number, so that what it leaves behind is this test's alone. `None` where there is one user only.
fn somebody() -> Option<u32> {
    (oneway_lab::entered() == Some(Entered::Root)).then(|| 3_000_000_000 + std::process::id())
}

/// Runs `work` while another thread looks whether the program has children.
fn without_children<T>(oneway: &Oneway, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut found = Vec::new();
            while !done.load(Ordering::Relaxed) {
                found.extend(oneway.children().unwrap_or_default());
            }
            found
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        assert_eq!(watch.join().expect("the watcher ends"), Vec::<u32>::new(), "it started other programs");
        result
    })
}

pub fn one_capability_is_enough() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let (_folder, path) = copy_for_everybody()?;
    let user = somebody();
    if user.is_some() {
        oneway_lab::open_tun_to_everybody()?;
    }
    let raw = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    for (options, capabilities) in [
        (&[][..], CapabilitySet::NET_ADMIN),
        (&[], raw),
        (&["--protect", "mark-ifgroup"], CapabilitySet::NET_ADMIN),
        (&["--protect", "source-rule"], CapabilitySet::NET_ADMIN),
    ] {
        let mut start = program(&lab.host, &path, options).capabilities(capabilities);
        if let Some(user) = user {
            start = start.uid(user);
        }
        let mut oneway = start.start()?;
        assert!(oneway.ready_line().ends_with("loop-free: proven"), "{}", oneway.ready_line());
        without_children(&oneway, || {
            assert!(reaches_origin(&lab.host, SECOND), "{options:?} {capabilities:?}")
        });
        let status = ask(&lab.host, "status")?;
        assert_eq!(status["pid"], oneway.pid());
        stop(&mut oneway, &lab.host, &before)?;
    }
    Ok(())
}

/// A rule on a program that blocks nothing, because nobody may see that it is the program's, must not go unnoticed.
pub fn who_may_not_see_programs_is_told() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let (folder, path) = copy_for_everybody()?;
    let user = somebody();
    if user.is_some() {
        oneway_lab::open_tun_to_everybody()?;
    }
    // This very program, which is another user's than the one that captures, or has more rights.
    let own = std::env::current_exe()?;
    let file = folder.path().join("oneway.toml");
    fs::write(
        &file,
        format!("[rules]\nlist = [\"PROCESS-PATH,{},block\", \"MATCH,direct\"]\n", own.display()),
    )?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let options = ["--config", file.to_str().ok_or("the folder has no readable name")?];
    let one = CapabilitySet::NET_ADMIN;
    let sees = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
    for (capabilities, blocks) in [(one, false), (one | CapabilitySet::SYS_PTRACE, false), (one | sees, true)]
    {
        let mut start = program(&lab.host, &path, &options).capabilities(capabilities);
        if let Some(user) = user {
            start = start.uid(user);
        }
        let mut oneway = start.start()?;
        let said = oneway.stderr();
        assert_eq!(
            said.contains("CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"),
            !blocks,
            "{capabilities:?} {said}"
        );
        assert_eq!(ask(&lab.host, "status")?["blind"].is_string(), !blocks, "{capabilities:?}");
        let client = lab.host.client().tcp(address::ORIGIN.v4_port(port::ECHO), SECOND)?;
        if blocks {
            assert_eq!(client.outcome, Outcome::Refused, "{capabilities:?}");
        }
        stop(&mut oneway, &lab.host, &before)?;
    }
    Ok(())
}

const TABLE: u32 = 77;
const HANDED: &str = "handed0";

/// Gives `host` a TUN device with addresses, and sends everything that no specific route leads to into it.
fn hand_over(host: &NetNs) -> Result<std::os::fd::OwnedFd, Failed> {
    let tun = host.tun(HANDED, true)?;
    host.up(HANDED)?;
    for (address, everything) in [("10.88.0.1/24", "0.0.0.0/0"), ("fd88::1/64", "::/0")] {
        host.add_address(HANDED, address.parse()?)?;
        host.add_route(&Route::to(everything.parse()?).dev(HANDED).table(TABLE))?;
        let rule = Rule { ipv6: address.contains(':'), iif: Some("lo".to_owned()), ..Rule::default() };
        let suppress = Some(0);
        host.add_rule(&Rule {
            priority: 1000,
            table: oneway_lab::MAIN_TABLE,
            suppress_prefixlength: suppress,
            ..rule.clone()
        })?;
        host.add_rule(&Rule { priority: 1001, table: TABLE, ..rule })?;
    }
    Ok(tun)
}

pub fn a_handed_over_device_needs_none() -> TestResult {
    let lab = Topology::standard()?;
    let (_folder, path) = copy_for_everybody()?;
    let tun = hand_over(&lab.host)?;
    let before = Snapshot::take(&lab.host)?;
    let mut start = program(&lab.host, &path, &["--tun-fd", "9"])
        .capabilities(CapabilitySet::empty())
        .descriptor(tun.try_clone()?, 9);
    if let Some(user) = somebody() {
        start = start.uid(user);
    }
    let mut oneway = start.start()?;
    without_children(&oneway, || assert!(reaches_origin(&lab.host, SECOND), "{}", oneway.stderr()));
    assert_eq!(ask(&lab.host, "status")?["tun"], HANDED);
    // It knows its own device's addresses, and that they lead nowhere.
    for to in ["10.88.0.2:80", "[fd88::2]:80"] {
        assert_eq!(lab.host.client().tcp(to.parse()?, SECOND)?.outcome, Outcome::Refused, "{to}");
    }
    // The device is its owner's: it is what it was, and stays.
    stop(&mut oneway, &lab.host, &before)?;
    drop(tun);
    Ok(())
}

/// What is said of it beforehand is about that device, and nothing of it is changed.
pub fn a_handed_over_device_is_planned_for() -> TestResult {
    let lab = Topology::standard()?;
    // Whoever may plan for this host may also make the routes into it.
    let tun = lab.host.tun(HANDED, true)?;
    lab.host.up(HANDED)?;
    for address in ["10.88.0.1/24", "fd88::1/64"] {
        lab.host.add_address(HANDED, address.parse()?)?;
    }
    // Down it takes no routes.
    lab.host.down(HANDED)?;
    for word in ["run", "plan"] {
        let said = with_descriptor(&lab.host, &[word, "--tun-fd", "9"], tun.try_clone()?)?;
        assert_eq!(said.code, Some(2), "{word}: {} {}", said.stdout, said.stderr);
        let advice = format!("bring it up first: ip link set {HANDED} up\n");
        assert!(said.stderr.ends_with(&advice), "{word}: {}", said.stderr);
    }
    lab.host.up(HANDED)?;
    lab.host.add_address(HANDED, "fd88::1/64".parse()?)?;
    let before = Snapshot::take(&lab.host)?;
    for word in ["plan", "doctor"] {
        let said = with_descriptor(&lab.host, &[word, "--tun-fd", "9"], tun.try_clone()?)?;
        assert_eq!(said.code, Some(0), "{word}: {} {}", said.stdout, said.stderr);
        assert!(said.stdout.contains(HANDED), "{word}: {}", said.stdout);
        before.expect_same(&lab.host)?;
    }
    Ok(())
}

/// A device that puts four bytes before each packet, which nobody here would understand.
pub fn a_device_with_packet_info_is_refused() -> TestResult {
    let lab = Topology::simple()?;
    let tun = lab.host.tun_with_packet_info(HANDED)?;
    let before = Snapshot::take(&lab.host)?;
    for word in ["run", "plan", "doctor"] {
        let refused = with_descriptor(&lab.host, &[word, "--tun-fd", "9"], tun.try_clone()?)?;
        assert_eq!(refused.code, Some(2), "{word}: {}", refused.stderr);
        let why = "descriptor 9 is not a TUN device with IFF_NO_PI";
        assert!(refused.stderr.contains(why), "{word}: {}", refused.stderr);
        before.expect_same(&lab.host)?;
    }
    Ok(())
}

/// Runs a command that has the device as descriptor 9 to its end.
fn with_descriptor(host: &NetNs, words: &[&str], tun: std::os::fd::OwnedFd) -> Result<Finished, Failed> {
    let mut running = Program::new(host, ONEWAY, words).descriptor(tun, 9).start()?;
    let code = running.wait(10 * SECOND)?.code();
    Ok(Finished { code, stdout: running.stdout(), stderr: running.stderr() })
}

pub fn thousands_of_flows_stop_in_time() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    let client = lab.host.client();
    let flows = without_children(&oneway, || -> Result<_, Failed> {
        let mut flows = client.tcp_many(address::ORIGIN.v4_port(port::SILENT), 1500, 5 * SECOND)?;
        flows.extend(client.tcp_many(address::ORIGIN.v6_port(port::ECHO), 500, 5 * SECOND)?);
        let load = client.udp_load(address::ORIGIN.v4_port(port::ECHO), 200, 100, 100, 5 * SECOND)?;
        assert_eq!(load.failed, 0);
        Ok(flows)
    })?;
    let carried = ask(&lab.host, "flows")?;
    assert!(carried["flows"].as_array().is_some_and(|found| found.len() >= 2000));
    stop(&mut oneway, &lab.host, &before)?;
    // Each client has been told.
    let mut untold = 0;
    for mut flow in flows {
        // What has not come by now comes never: the device is gone.
        flow.set_nonblocking(true)?;
        let end = flow.read(&mut [0]).map_err(|error| error.kind());
        untold += usize::from(end != Err(std::io::ErrorKind::ConnectionReset));
    }
    assert_eq!(untold, 0, "connections that were left hanging");
    Ok(())
}
