//! Programs that are not captured: a proxy on this very host (S3), and what becomes of it when nobody excludes it.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oneway_lab::capture::{Packet, Recorder};
use oneway_lab::client::{Outcome, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::program::{CapabilitySet, Oneway, Program};
use oneway_lab::servers::SocksProcess;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Standard, address};
use oneway_lab::{Entered, NetNs, Snapshot, Topology};

use crate::common::{
    ONEWAY, SECOND, TUN, ask, command, expect_connectivity, number, reaches_origin, run, stop,
};

/// Where the proxy of these tests listens.
const LOCAL: [&str; 2] = ["127.0.0.1:1080", "[::1]:1080"];

/// The root of the control groups of version 2.
fn groups() -> Result<PathBuf, Failed> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = mounts.lines().find(|line| line.contains(" - cgroup2 ")).ok_or("no cgroup2 is mounted")?;
    Ok(found.split(' ').nth(4).ok_or("mountinfo without a mount point")?.into())
}

/// The folder of the control group that a process is in.
fn group_of(pid: u32) -> Result<PathBuf, Failed> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no group of version 2")?;
    Ok(groups()?.join(path))
}

/// A control group of the test's own.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self, Failed> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("lab-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let group = Self(groups()?.join(name).join("inner"));
        fs::create_dir_all(&group.0)?;
        Ok(group)
    }

    fn take(&self, program: &Oneway) -> TestResult {
        Ok(fs::write(self.0.join("cgroup.procs"), program.pid().to_string())?)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// A group can be removed when its last program has been reaped.
    fn remove(&self) -> TestResult {
        Ok(wait_until(SECOND, "the group is empty", || fs::remove_dir(&self.0).is_ok()).map(drop)?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

fn addresses() -> Result<Vec<std::net::SocketAddr>, Failed> {
    Ok(LOCAL.iter().map(|at| at.parse()).collect::<Result<_, _>>()?)
}

/// As root of the machine only can there be other users and control groups.
fn is_root() -> bool {
    oneway_lab::entered() == Some(Entered::Root)
}

/// Nobody else's number.
fn somebody() -> u32 {
    3_100_000_000 + std::process::id()
}

fn is_to_origin(p: &Packet) -> bool {
    address::ORIGIN.both().contains(&p.dst)
}

/// Whether a packet asks the origin for a connection.
fn opens(p: &Packet) -> bool {
    p.is_syn() && is_to_origin(p)
}

/// Whether it is a datagram to the origin.
fn asks(p: &Packet) -> bool {
    p.is_udp() && is_to_origin(p)
}

/// What belongs to a test of a proxy on this host.
struct Watched {
    tun: Recorder,
    wires: Vec<Recorder>,
}

impl Watched {
    fn begin(host: &NetNs) -> Result<Self, Failed> {
        let wire = |device| Recorder::start(host, Some(device));
        Ok(Self { tun: wire(TUN)?, wires: vec![wire(Standard::UP1)?, wire(Standard::UP2)?] })
    }

    /// The connections and datagrams to the origin that were read from the TUN.
    fn captured(&self) -> Result<(usize, usize), Failed> {
        Ok((self.tun.count(opens)?, self.tun.count(asks)?))
    }

    /// Those that left.
    fn left(&self) -> Result<(usize, usize), Failed> {
        let mut sum = (0, 0);
        for wire in &self.wires {
            sum = (sum.0 + wire.count(opens)?, sum.1 + wire.count(asks)?);
        }
        Ok(sum)
    }

    /// Nothing for loopback ever was on a wire.
    fn expect_no_loopback(&self) -> TestResult {
        let loopback = |p: &Packet| [p.src, p.dst].iter().any(IpAddr::is_loopback);
        for wire in &self.wires {
            assert_eq!(wire.matching(loopback)?, []);
        }
        Ok(())
    }
}

/// Fetches through a proxy on this host, with oneway running.
fn expect_works(lab: &Standard, kind: &str, oneway: &Oneway) -> TestResult {
    let watched = Watched::begin(&lab.host)?;
    assert!(reaches_origin(&lab.host, 2 * SECOND), "{kind}: {}", oneway.stderr());
    // What this test has sent, a connection and a datagram of each family, and nothing of the proxy; and on the wire the
    // proxy's, and nothing else.
    let by_device = match kind {
        kind if kind.contains("redirect") => (0, 2),
        kind if kind.contains("tproxy") => (0, 0),
        _ => (2, 2),
    };
    assert_eq!(watched.captured()?, by_device, "{kind}");
    assert_eq!(watched.left()?, (2, 2), "{kind}");
    watched.expect_no_loopback()?;
    let status = ask(&lab.host, "status")?;
    assert_eq!(number(&status, "/guard/circles"), 0, "{kind}: {}", oneway.stderr());
    assert_eq!(number(&status, "/guard/returned"), 0, "{kind}");
    assert!(!oneway.stderr().contains("circle"), "{kind}: {}", oneway.stderr());
    let doctor = command(&lab.host, &["doctor"])?;
    assert_eq!(doctor.code, Some(0), "{kind}: {}", doctor.stdout);
    Ok(())
}

pub fn a_local_proxy_works_when_it_is_excluded() -> TestResult {
    if !is_root() {
        return Err("other users and control groups need root".into());
    }
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let proxy = ["--proxy", "socks5://127.0.0.1:1080"];
    let with = |more: &[&'static str]| [&proxy, more].concat();
    {
        let _proxy = SocksProcess::start(&lab.host, &addresses()?, Some(somebody()))?;
        let uid = somebody().to_string();
        for more in [&[][..], &["--strict"], &["--capture", "redirect"], &["--capture", "tproxy"]] {
            let mut oneway = run(&lab.host, &[&proxy[..], &["--exclude-uid", &uid], more].concat())?;
            expect_works(&lab, &format!("by user, {more:?}"), &oneway)?;
            stop(&mut oneway, &lab.host, &before)?;
        }
    }
    {
        let group = Group::new()?;
        let server = SocksProcess::start(&lab.host, &addresses()?, None)?;
        group.take(&server.process)?;
        for more in [&[][..], &["--strict"], &["--capture", "redirect"], &["--capture", "tproxy"]] {
            let excluded = ["--exclude-cgroup", group.path()];
            let mut oneway = run(&lab.host, &[&proxy[..], &excluded, more].concat())?;
            expect_works(&lab, &format!("by control group, {more:?}"), &oneway)?;
            stop(&mut oneway, &lab.host, &before)?;
        }
        // As `/proc/PID/cgroup` writes it, and the group above it.
        let above = group.0.parent().and_then(|above| above.file_name()).and_then(|name| name.to_str());
        let above = format!("/{}", above.unwrap_or_default());
        let mut oneway = run(&lab.host, &[&proxy[..], &["--exclude-cgroup", &above]].concat())?;
        expect_works(&lab, "by the control group above", &oneway)?;
        stop(&mut oneway, &lab.host, &before)?;
        // Sockets that are bound to the uplink instead of marked.
        let bound = ["--exclude-cgroup", &above, "--protect", "bind"];
        let mut oneway = run(&lab.host, &[&proxy[..], &bound].concat())?;
        expect_works(&lab, "by control group, bound", &oneway)?;
        stop(&mut oneway, &lab.host, &before)?;
    }
    {
        let server = SocksProcess::start_by(&lab.host, ONEWAY, &["exclude", "--"], &addresses()?)?;
        let mut oneway = run(&lab.host, &with(&[]))?;
        expect_works(&lab, "by `oneway exclude`, before", &oneway)?;
        // The group stays as long as somebody is in it.
        let (status, _) = oneway.stop(2 * SECOND)?;
        assert!(status.success());
        assert!(group_of(server.process.pid())?.is_dir());
        drop(server);
    }
    {
        let mut oneway = run(&lab.host, &with(&[]))?;
        let server = SocksProcess::start_by(&lab.host, ONEWAY, &["exclude", "--"], &addresses()?)?;
        expect_works(&lab, "by `oneway exclude`, after", &oneway)?;
        let group = group_of(server.process.pid())?;
        drop(server);
        stop(&mut oneway, &lab.host, &before)?;
        assert!(!group.exists());
    }
    {
        let server = SocksProcess::start(&lab.host, &addresses()?, None)?;
        let name = fs::read_link(format!("/proc/{}/exe", server.process.pid()))?;
        let name = name.file_name().and_then(|name| name.to_str()).ok_or("a test without a name")?.to_owned();
        // By its file, and by what the system calls the process, which is how it was started.
        for name in [name.as_str(), "exe"] {
            let mut oneway = run(&lab.host, &[&proxy[..], &["--exclude-process", name]].concat())?;
            // It is captured, and sent out directly.
            let watched = Watched::begin(&lab.host)?;
            assert!(reaches_origin(&lab.host, 2 * SECOND), "{}", oneway.stderr());
            let own = if name == "exe" { (2, 2) } else { (0, 0) };
            assert_eq!((watched.captured()?, watched.left()?), ((2 + own.0, 2 + own.1), (2, 2)), "{name}");
            watched.expect_no_loopback()?;
            assert_eq!(number(&ask(&lab.host, "status")?, "/guard/circles"), 0, "{}", oneway.stderr());
            stop(&mut oneway, &lab.host, &before)?;
        }
    }
    Ok(())
}

pub fn a_circle_is_refused_and_named() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    for at_start in [true, false] {
        let start = || -> Result<_, Failed> { Ok(SocksProcess::start(&lab.host, &addresses()?, None)?) };
        let early = at_start.then(start).transpose()?;
        if let Some(server) = &early {
            for (word, code) in [("check", 3), ("doctor", 3)] {
                let found = command(&lab.host, &[word, "--proxy", "socks5://[::1]:1080"])?;
                assert_eq!(found.code, Some(code), "{word}: {}", found.stdout);
                let named = format!("process {} (", server.process.pid());
                assert!(found.stdout.contains(&named), "{word}: {}", found.stdout);
                assert!(found.stdout.contains("`oneway exclude -- "), "{word}: {}", found.stdout);
            }
        }
        let mut oneway = run(&lab.host, &["--proxy", "socks5://127.0.0.1:1080"])?;
        let server = match early {
            Some(server) => server,
            None => start()?,
        };
        let watched = Watched::begin(&lab.host)?;
        for to in address::ORIGIN.ports(port::HTTP) {
            let dial = lab.host.client().tcp(to, 2 * SECOND)?;
            assert_eq!(dial.outcome, Outcome::Refused, "{to} after {:?}: {}", dial.took, oneway.stderr());
            let answer = lab.host.client().udp(to, b"round and round", SECOND / 2)?;
            assert_ne!(answer.outcome, Outcome::Done, "{to}");
        }
        for _ in 0..20 {
            let dial = lab.host.client().tcp(address::ORIGIN.v4_port(port::HTTP), 2 * SECOND)?;
            assert_eq!(dial.outcome, Outcome::Refused);
        }
        // The client's own packet, that of the proxy, and no third.
        let (connections, datagrams) = watched.captured()?;
        assert!(connections <= 2 * 22 && datagrams <= 2 * 2, "{connections} {datagrams}");
        assert_eq!(watched.left()?, (0, 0));
        watched.expect_no_loopback()?;
        let status = ask(&lab.host, "status")?;
        assert!(number(&status, "/guard/circles") >= 22, "{status}");
        assert_eq!(status["loops"]["verdict"], "LOOPS", "{status}");
        // Who is not there yet is nobody's circle yet, and proves nothing either.
        let ready = oneway.stdout();
        assert!(
            ready.ends_with(if at_start { "loop-free: LOOPS\n" } else { "loop-free: not proven\n" }),
            "{ready}"
        );
        let log = oneway.stderr();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("circle")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains(&format!("process {} (", server.process.pid())), "{log}");
        assert!(lines[0].contains("`oneway exclude -- "), "{log}");
        drop(server);
        stop(&mut oneway, &lab.host, &before)?;
    }
    Ok(())
}

/// The user that oneway runs as, as whom the kernel is asked where packets go.
pub fn its_own_user_is_excluded() -> TestResult {
    let lab = Topology::standard()?;
    let own = rustix::process::geteuid().as_raw().to_string();
    for options in [&[][..], &["--protect", "bind"], &["--strict"], &["--capture", "redirect"]] {
        let before = Snapshot::take(&lab.host)?;
        let mut oneway = run(&lab.host, &[&["--exclude-uid", &own], options].concat())?;
        let all = Recorder::start(&lab.host, Some(TUN))?;
        assert!(crate::common::reaches_origin(&lab.host, SECOND), "{options:?}: {}", oneway.stderr());
        assert_eq!(all.count(is_to_origin)?, 0, "{options:?}: captured all the same");
        stop(&mut oneway, &lab.host, &before)?;
    }
    Ok(())
}

/// A service with CAP_NET_ADMIN alone does not see other users' programs, but that it has become a crowd.
pub fn a_circle_is_refused_without_the_right_to_look() -> TestResult {
    let lab = Topology::standard()?;
    oneway_lab::open_tun_to_everybody()?;
    let (_folder, path) = crate::rights::copy_for_everybody()?;
    let before = Snapshot::take(&lab.host)?;
    let user = somebody() + 1;
    let server = SocksProcess::start(&lab.host, &addresses()?, Some(somebody()))?;
    let mut oneway = crate::common::program(&lab.host, &path, &["--proxy", "socks5://127.0.0.1:1080"])
        .uid(user)
        .capabilities(CapabilitySet::NET_ADMIN)
        .start()?;
    let watched = Watched::begin(&lab.host)?;
    let dial = lab.host.client().tcp(address::ORIGIN.v4_port(port::HTTP), 2 * SECOND)?;
    assert_eq!(dial.outcome, Outcome::Refused, "after {:?}: {}", dial.took, oneway.stderr());
    let (connections, _) = watched.captured()?;
    assert!((10..100).contains(&connections), "{connections}");
    assert_eq!(watched.left()?, (0, 0));
    let log = oneway.stderr();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("circle")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    let user = format!("a program of user {}", somebody());
    assert!(lines[0].contains(&user) && lines[0].contains(&format!("--exclude-uid {}", somebody())), "{log}");
    drop(server);
    stop(&mut oneway, &lab.host, &before)
}

/// As when a service is started anew: the group has the same name, and is another one.
pub fn a_group_that_is_made_again_is_excluded_again() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let group = Group::new()?;
    let no_such = ["--exclude-cgroup", "/lab-no-such-group"];
    let missing = command(&lab.host, &[&["run"][..], &no_such].concat())?;
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
    assert!(missing.stderr.contains("there is no control group"), "{}", missing.stderr);
    let checked = command(&lab.host, &[&["check"][..], &no_such].concat())?;
    assert_eq!(checked.code, Some(3), "{}", checked.stdout);
    assert!(checked.stdout.contains("error: --exclude-cgroup: there is no"), "{}", checked.stdout);
    before.expect_same(&lab.host)?;
    let mut oneway =
        run(&lab.host, &["--proxy", "socks5://127.0.0.1:1080", "--exclude-cgroup", group.path()])?;
    for _ in 0..2 {
        group.remove()?;
        fs::create_dir(&group.0)?;
        let server = SocksProcess::start(&lab.host, &addresses()?, None)?;
        group.take(&server.process)?;
        wait_until(3 * SECOND, "the new group is excluded", || reaches_origin(&lab.host, SECOND / 2))?;
        // Somebody reloads the firewall.
        crate::drift::tool(&lab.host, "nft delete table inet oneway")?;
        wait_until(3 * SECOND, "it is excluded again", || reaches_origin(&lab.host, SECOND / 2))?;
        drop(server);
    }
    stop(&mut oneway, &lab.host, &before)
}

pub fn a_killed_instance_leaves_the_excluded_in_peace() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let server = SocksProcess::start_by(&lab.host, ONEWAY, &["exclude", "--"], &addresses()?)?;
    let mut oneway = run(&lab.host, &["--proxy", "socks5://127.0.0.1:1080", "--exclude-uid", "12"])?;
    assert!(reaches_origin(&lab.host, 2 * SECOND), "{}", oneway.stderr());
    oneway.kill()?;
    expect_connectivity(&lab.host)?;
    // Again, over what is left.
    let mut oneway = run(&lab.host, &["--proxy", "socks5://127.0.0.1:1080"])?;
    assert!(reaches_origin(&lab.host, 2 * SECOND), "{}", oneway.stderr());
    oneway.kill()?;
    let recovered = command(&lab.host, &["recover"])?;
    assert_eq!(recovered.code, Some(0), "{}", recovered.stderr);
    before.expect_same(&lab.host)?;
    let group = group_of(server.process.pid())?;
    assert!(group.exists(), "somebody is in it");
    drop(server);
    wait_until(SECOND, "the group is empty and removed", || {
        command(&lab.host, &["recover"]).is_ok() && !group.exists()
    })?;
    Ok(())
}

pub fn the_command_becomes_the_program() -> TestResult {
    let lab = Topology::standard()?;
    let ended = |words: &[&str]| command(&lab.host, &[&["exclude", "--"], words].concat());
    let status = ended(&["sh", "-c", "exit 7"])?;
    assert_eq!((status.code, status.stderr.as_str()), (Some(7), ""));
    let missing = ended(&["/no/such/program"])?;
    assert_eq!(missing.code, Some(127));
    assert_eq!(missing.stderr.lines().count(), 1, "{}", missing.stderr);
    assert_eq!(ended(&["/etc/passwd"])?.code, Some(126));
    // The group that is left empty is no change to this host that somebody would have to know of.
    let recovered = command(&lab.host, &["recover"])?;
    assert_eq!(recovered.stdout, "nothing to undo\n", "{}", recovered.stderr);
    let group = ended(&["cat", "/proc/self/cgroup"])?;
    assert!(group.stdout.contains("0::/oneway-exclude-"), "{}", group.stdout);
    // The process that was started is the program, and what is sent to it reaches it.
    let mut running = Program::new(&lab.host, ONEWAY, ["exclude", "sh", "-c", "echo $$; exec sleep 60"])
        .ready("", Duration::from_secs(5))
        .start()?;
    assert_eq!(running.ready_line(), running.pid().to_string());
    let (status, _) = running.stop(2 * SECOND)?;
    assert_eq!(status.code(), None, "{status}");
    // Without rights.
    let (_folder, path) = crate::rights::copy_for_everybody()?;
    let mut refused = Program::new(&lab.host, path, ["exclude", "--", "true"])
        .uid(somebody())
        .capabilities(CapabilitySet::empty())
        .start()?;
    assert_eq!(refused.wait(5 * SECOND)?.code(), Some(1));
    let error = refused.stderr();
    assert!(error.contains("control group") && error.contains("run as root"), "{error}");
    command(&lab.host, &["recover"])?;
    let group =
        groups()?.join(group.stdout.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default());
    assert!(!group.exists(), "{}", group.display());
    Ok(())
}
