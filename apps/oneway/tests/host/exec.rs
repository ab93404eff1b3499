//! `oneway exec`: one program of which everything is captured, as root and as anybody.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::program::{CapabilitySet, Program};
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Standard, address, name};
use oneway_lab::{Entered, NetNs, Snapshot, Topology, visitor};

use crate::common::{ONEWAY, SECOND, TUN, ask, command, number, run, stack, stop};

/// Copies of the program and of this test that every user can start.
struct Copies {
    _folder: tempfile::TempDir,
    oneway: String,
    own: PathBuf,
}

impl Copies {
    fn new() -> Result<Self, Failed> {
        let (folder, oneway) = crate::rights::copy_for_everybody()?;
        let own = folder.path().join("visitor");
        fs::copy(std::env::current_exe()?, &own)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
        Ok(Self { _folder: folder, oneway, own })
    }
}

/// Root, and an ordinary user with no capability where there is one.
fn users() -> Result<Vec<Option<u32>>, Failed> {
    if oneway_lab::entered() != Some(Entered::Root) {
        return Ok(vec![None]);
    }
    oneway_lab::open_tun_to_everybody()?;
    Ok(vec![None, Some(3_200_000_000 + std::process::id())])
}

fn as_user(program: Program, user: Option<u32>) -> Program {
    match user {
        Some(user) => program.uid(user).capabilities(CapabilitySet::empty()),
        None => program,
    }
}

/// By name and by address, of both families.
fn visits() -> Vec<String> {
    let mut visits: Vec<String> = [name::ORIGIN4, name::ORIGIN6]
        .iter()
        .flat_map(|host| [format!("http {host}:{}", port::HTTP), format!("echo {host}:{}", port::ECHO)])
        .collect();
    visits.extend(address::ORIGIN.ports(port::HTTP).map(|to| format!("http {to}")));
    visits.extend(address::ORIGIN.ports(port::ECHO).map(|to| format!("echo {to}")));
    visits
}

/// Whether each visit went well.
fn expect_visited(stdout: &str, stderr: &str) {
    for visit in visits() {
        let wanted = if visit.starts_with("http") { "HTTP/1.1 200 OK" } else { "anybody there" };
        let found = stdout.lines().find_map(|line| line.strip_prefix(visit.as_str()));
        let good = found.is_some_and(|what| what.trim().contains(wanted.trim_start_matches("HTTP/1.1 ")));
        assert!(good, "{visit}: {stdout}{stderr}");
    }
}

/// Visits everybody by way of `oneway exec` with these options.
fn visit(host: &NetNs, copies: &Copies, user: Option<u32>, options: &[&str], resolver: &str) -> TestResult {
    let words = [&["exec", "--stack", stack()], options, &["--"]].concat();
    let program = visitor(host, &copies.oneway, words, &copies.own, &visits());
    let program = program.resolv_conf(format!("nameserver {resolver}\noptions timeout:2 attempts:2\n"));
    let mut running = as_user(program, user).start()?;
    let status = running.wait(30 * SECOND)?;
    expect_visited(&running.stdout(), &running.stderr());
    assert!(status.success(), "{status} {user:?}: {}", running.stderr());
    assert_eq!(running.stderr(), "", "{user:?}");
    Ok(())
}

pub fn a_program_goes_through_a_proxy() -> TestResult {
    let lab = Topology::standard()?;
    let copies = Copies::new()?;
    let before = Snapshot::take(&lab.host)?;
    let proxy = format!("socks5://{}", address::SOCKS.v4_port(1080));
    for user in users()? {
        let wires = [Standard::UP1, Standard::UP2].map(|device| Recorder::start(&lab.host, Some(device)));
        visit(&lab.host, &copies, user, &["--proxy", &proxy], &address::DNS.v4.to_string())?;
        before.expect_same(&lab.host)?;
        // Names went to the proxy, and nothing but what is for the proxy left.
        let named = lab.socks.requests_for(&format!("{}:{}", name::ORIGIN4, port::HTTP));
        assert_eq!(named.len(), 1, "{:?}", lab.socks.requests());
        assert_eq!(lab.dns.asked(name::ORIGIN4), 0);
        let past = |p: &Packet| {
            let others =
                [address::ORIGIN, address::DNS].iter().flat_map(|pair| pair.both()).collect::<Vec<_>>();
            p.is_traffic() && (others.contains(&p.dst) || others.contains(&p.src))
        };
        for wire in wires {
            assert_eq!(wire?.matching(past)?, [], "{user:?}");
        }
        lab.socks.forget();
    }
    Ok(())
}

pub fn a_program_goes_directly() -> TestResult {
    let lab = Topology::standard()?;
    let copies = Copies::new()?;
    let before = Snapshot::take(&lab.host)?;
    for user in users()? {
        for options in [&["--dns", "real"][..], &["--dns", "off"]] {
            lab.origin.forget();
            visit(&lab.host, &copies, user, options, &address::DNS.v4.to_string())?;
            // The other end sees this host.
            let clients = lab.origin.clients(oneway_lab::servers::origin::Network::Tcp, port::HTTP);
            let ours = address::HOST_UP1.both();
            assert!(clients.iter().all(|client| ours.contains(&client.ip())), "{clients:?}");
            assert_eq!(clients.len(), 4, "{clients:?}");
        }
        before.expect_same(&lab.host)?;
    }
    Ok(())
}

/// The program's sockets are in another namespace than ours, and the user's may be.
pub fn rules_know_the_program_and_its_user() -> TestResult {
    let lab = Topology::standard()?;
    let copies = Copies::new()?;
    for user in users()? {
        let uid = user.unwrap_or(fs::metadata("/proc/self")?.uid());
        for rule in [format!("PROCESS-PATH,{},direct", copies.own.display()), format!("UID,{uid},direct")] {
            let config = copies.own.with_extension("toml");
            fs::write(&config, format!("rules.list = [{rule:?}, \"MATCH,REJECT\"]\n"))?;
            fs::set_permissions(&config, fs::Permissions::from_mode(0o644))?;
            let options = ["--config", &*config.to_string_lossy(), "--dns", "real"];
            visit(&lab.host, &copies, user, &options, &address::DNS.v4.to_string())?;
        }
    }
    Ok(())
}

/// Two at a time, on a host that is captured as a whole: both are captured by that, and nothing loops.
pub fn beside_a_captured_host() -> TestResult {
    let lab = Topology::standard()?;
    let copies = Copies::new()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[])?;
    let tun = Recorder::start(&lab.host, Some(TUN))?;
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| {
            scope.spawn(|| visit(&lab.host, &copies, None, &["--dns", "real"], &address::DNS.v4.to_string()))
        });
        both.into_iter().try_for_each(|thread| thread.join().expect("a visitor"))
    })?;
    let to_origin = |p: &Packet| p.is_syn() && address::ORIGIN.both().contains(&p.dst);
    assert_eq!(tun.count(to_origin)?, 8);
    let status = ask(&lab.host, "status")?;
    assert_eq!(number(&status, "/guard/returned"), 0);
    stop(&mut oneway, &lab.host, &before)
}

pub fn it_ends_as_the_program_does() -> TestResult {
    let lab = Topology::standard()?;
    let ended = |words: &[&str]| command(&lab.host, &[&["exec", "--"], words].concat());
    assert_eq!(ended(&["sh", "-c", "exit 7"])?.code, Some(7));
    assert_eq!(ended(&["true"])?.code, Some(0));
    let missing = ended(&["/no/such/program", "--help"])?;
    assert_eq!(missing.code, Some(127));
    assert_eq!(missing.stderr.lines().count(), 1, "{}", missing.stderr);
    assert!(missing.stderr.contains("\"/no/such/program\""), "{}", missing.stderr);
    assert_eq!(ended(&["/etc/passwd"])?.code, Some(126));
    assert_eq!(ended(&[])?.code, Some(2));
    // Its streams are those of oneway, and nothing is added to them.
    let streams = ended(&["sh", "-c", "echo out; echo err >&2; cat"])?;
    assert_eq!((streams.stdout.as_str(), streams.stderr.as_str()), ("out\n", "err\n"));
    // Loopback works, and is the program's own.
    let own = ended(&["sh", "-c", "ip -o link show lo | grep -q LOWER_UP && ip route show default | wc -l"])?;
    assert_eq!(own.stdout, "1\n", "{}", own.stderr);
    let mut running = Program::new(&lab.host, ONEWAY, ["exec", "--", "sh", "-c", "kill -USR1 $$"]).start()?;
    let status = running.wait(10 * SECOND)?;
    assert_eq!(status.signal(), Some(10), "{status}");
    Ok(())
}

pub fn signals_reach_the_program() -> TestResult {
    let lab = Topology::standard()?;
    let caught = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    for (script, wanted) in [(caught, (Some(9), None)), ("echo ready; exec sleep 60", (None, Some(15)))] {
        let mut running = Program::new(&lab.host, ONEWAY, ["exec", "--", "sh", "-c", script])
            .ready("ready", Duration::from_secs(10))
            .start()?;
        let (status, took) = running.stop(5 * SECOND)?;
        assert_eq!((status.code(), status.signal()), wanted, "{}", running.stderr());
        assert!(took < 2 * SECOND, "{took:?}");
    }
    Ok(())
}

/// A shell on a terminal: stopped, continued, interrupted.
/// Of the shell. What is typed before it is there, the shell may throw away when it takes the terminal back.
const PROMPT: &str = "# ";

pub fn a_shell_controls_it_as_any_job() -> TestResult {
    let lab = Topology::standard()?;
    let shell = ["-qfec", "bash --norc --noprofile -i", "/dev/null"];
    let mut script = lab.host.command(Path::new("/usr/bin/script"), shell);
    let mut script = script
        .env("PS1", PROMPT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut keys = script.stdin.take().ok_or("no stdin")?;
    let mut screen = script.stdout.take().ok_or("no stdout")?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&seen);
    let reader = std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = screen.read(&mut part) {
            writer.lock().expect("the screen").extend_from_slice(&part[..length]);
        }
    });
    let text = || String::from_utf8_lossy(&seen.lock().expect("the screen")).into_owned();
    let mut step = |typed: &str, times: usize, shown: &str| -> TestResult {
        keys.write_all(typed.as_bytes())?;
        keys.flush()?;
        let enough = || text().matches(shown).count() >= times;
        let patience = if typed == "again\n" { SECOND / 2 } else { 10 * SECOND };
        wait_until(patience, shown, enough).map_err(|error| format!("{error}: {}", text()))?;
        Ok(())
    };
    // What is typed is echoed once by the terminal, so that the answer is written otherwise than the question.
    step(&format!("{ONEWAY} exec -- sh -c 'echo be''gun; exec cat'\n"), 1, "begun\r\n")?;
    step("line\n", 2, "line\r\n")?;
    step("\x1a", 1, "Stopped")?;
    step("", 2, PROMPT)?;
    step("fg\n", 2, "exec cat'")?;
    // A line that is typed while the shell still changes the terminal's mode may wait for the next one.
    let answered = (1..20).any(|sent| step("again\n", sent + 1, "again\r\n").is_ok());
    assert!(answered, "{}", text());
    // So may an interrupt, on a machine that is busy with something else.
    let interrupted = (0..3).any(|_| step("\x03", 3, PROMPT).is_ok());
    assert!(interrupted, "{}", text());
    step("echo code=$?\n", 1, "code=130\r\n")?;
    step("", 4, PROMPT)?;
    // A loop in the shell ends with the interrupt of what it runs.
    step(
        &format!("for n in 1 2 3; do {ONEWAY} exec -- sh -c 'echo ro''und; exec sleep 60'; done\n"),
        1,
        "round\r\n",
    )?;
    step("\x03", 5, PROMPT)?;
    step("echo do''ne\n", 1, "done\r\n")?;
    assert_eq!(text().matches("round\r\n").count(), 1, "{}", text());
    step("exit\n", 1, "exit\r\n")?;
    script.wait()?;
    reader.join().expect("the reader ends");
    Ok(())
}

pub fn what_has_no_meaning_is_refused() -> TestResult {
    let lab = Topology::standard()?;
    for options in [
        &["--tun-fd", "9"][..],
        &["--forwarded"],
        &["--exclude", "10.0.0.0/8"],
        &["--include", "10.0.0.0/8"],
        &["--exclude-uid", "7"],
        &["--exclude-process", "curl"],
        &["--interface", "up1"],
        &["--confirm", "7"],
        &["--control", "/run/x.sock"],
    ] {
        let refused = command(&lab.host, &[&["exec"], options, &["--", "true"]].concat())?;
        assert_eq!(refused.code, Some(2), "{options:?}: {}", refused.stderr);
        assert!(
            refused.stderr.contains(options[0]) && refused.stderr.lines().count() == 1,
            "{}",
            refused.stderr
        );
    }
    // The other half alone is of no use to anybody.
    for channel in ["0", "77", "-1", "99999999999"] {
        let alone = command(&lab.host, &["exec-inside", "--", channel, "true"])?;
        assert!(matches!(alone.code, Some(1 | 2)), "{channel}: {:?} {}", alone.code, alone.stderr);
    }
    Ok(())
}

pub fn without_user_namespaces_it_says_what_to_grant() -> TestResult {
    let lab = Topology::standard()?;
    oneway_lab::open_tun_to_everybody()?;
    let copies = Copies::new()?;
    // A limit of a user namespace of its own, not of the machine.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && \
         exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs {} exec -- true",
        copies.oneway
    );
    let words = ["--user", "--map-root-user", "sh", "-c", &script];
    let mut refused = Program::new(&lab.host, "/usr/bin/unshare", words).start()?;
    assert_eq!(refused.wait(10 * SECOND)?.code(), Some(1), "{}", refused.stderr());
    let error = refused.stderr();
    assert!(error.contains("sysctl user.max_user_namespaces=") && error.contains("run as root"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    Ok(())
}

/// Without us, the program has no network; with the program, its namespace goes.
pub fn a_killed_one_leaves_nothing() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    // Without the pipes of this test, whose end is waited for.
    let script = "echo ready $$; exec sleep 60 >/dev/null 2>&1";
    let mut running = Program::new(&lab.host, ONEWAY, ["exec", "--", "sh", "-c", script])
        .ready("ready", Duration::from_secs(10))
        .start()?;
    let program = running.ready_line().trim_start_matches("ready ").to_owned();
    running.kill()?;
    before.expect_same(&lab.host)?;
    let devices = || fs::read_to_string(format!("/proc/{program}/net/dev"));
    wait_until(5 * SECOND, "the device is gone", || devices().is_ok_and(|found| !found.contains("oneway")))?;
    assert!(devices()?.contains("lo:"), "the program still runs");
    kill(program.parse()?)
}

fn kill(pid: u32) -> TestResult {
    #[expect(clippy::disallowed_methods, reason = "a tool of the test's")]
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    assert!(status.success());
    Ok(())
}

/// A program that writes, closes and ends at once leaves its bytes to the kernel, and the kernel to us.
pub fn the_last_bytes_of_a_program_arrive() -> TestResult {
    let lab = Topology::standard()?;
    let size = 3_000_000;
    let script =
        format!("exec 3<>/dev/tcp/{}/{} && head -c {size} /dev/zero >&3", address::ORIGIN.v4, port::DISCARD);
    for stack in ["user", "system"] {
        lab.origin.forget();
        let sent = command(&lab.host, &["exec", "--stack", stack, "--", "bash", "-c", &script])?;
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
        let arrived = || lab.origin.seen().iter().map(|seen| seen.bytes).sum::<u64>();
        wait_until(2 * SECOND, "all bytes have arrived", || arrived() == size)
            .map_err(|e| format!("{stack}: {e}: {} of {size}", arrived()))?;
    }
    Ok(())
}
